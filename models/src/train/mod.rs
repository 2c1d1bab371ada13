//! Training: any model of this crate, from text or synthetic tasks, with states that can be passed on.
//!
//! The reader of a published layout is also the differentiable model: asked for leaves instead of a file's weights, it builds a
//! network through which gradients reach every tensor under its published name. So nothing here knows an architecture.
//!
//! ```text
//!                data ──► batch ──► segment, segment, …                    one step, `accumulation` times over
//!                                      │
//!   carry ──► state ────────────►  network  ──► state ──► carry            what a sequence starts from, and leaves behind
//!                                   ▲  │
//!            leaves (f32 or bf16) ──┘  ▼
//!               ▲                  Σ weight · −log p
//!               │                      │ backward
//!   parameters (f32) ◄── AdamW ◄── gradients by name ÷ Σ weight
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | what to train, on what, and how: a TOML file |
//! | [`trainer`] | one step |
//! | [`run`] | a training on disk, and going on with it after any interruption |
//! | [`data`], [`batch`] | where sequences come from; batches and their segments |
//! | [`parameters`], [`forward`] | the tensors that are trained; the network over them |
//! | [`carry`] | states between segments and from batch to batch |
//! | [`encoder`] | what a model with an encoder is trained on: hidden tokens, and the next ones behind them |
//! | [`task`] | what is not next-token prediction: classes, answers at every step, real values |
//! | [`diffusion`] | images out of noise: a training of its own, of no layout's model |
//! | [`optimizer`], [`schedule`] | AdamW; learning rates |
//! | [`evaluation`], [`evaluator`] | loss against position, collapse, passkeys; what they are measured on |
//! | [`team`] | one training on several ranks |
//! | [`sequence_parallel`] | sequences longer than one rank's share: their tokens cut over the ranks, gradients through the cuts |
//! | [`snapshot`], [`log`] | everything that the next step depends on; what happened |

pub mod batch;
pub mod carry;
pub mod config;
pub mod data;
pub mod diffusion;
pub mod encoder;
pub mod error;
pub mod evaluation;
pub mod evaluator;
pub mod forward;
pub mod log;
mod memory;
pub mod model_config;
pub mod optimizer;
pub mod parallel_config;
pub mod parameters;
pub mod run;
pub mod schedule;
pub mod sequence_parallel;
pub mod snapshot;
pub mod task;
pub mod team;
pub mod trainer;

pub use batch::{Batch, Segment};
pub use carry::{Carry, CarryConfig};
pub use config::TrainConfig;
pub use encoder::EncoderConfig;
pub use error::TrainError;
pub use evaluation::{EvaluationConfig, EvaluationData, EvaluationReport, evaluate};
pub use forward::{Differentiable, Leaves, Precision};
pub use log::{
    EndEvent, EvaluationEvent, Event, Log, LogError, Seconds, SnapshotEvent, StartEvent, StepEvent,
    TaskEvent, read_log,
};
pub use optimizer::{Accumulator, GroupConfig, Optimizer, OptimizerConfig, OptimizerError, Update, decays};
pub use parallel_config::ParallelConfig;
pub use parameters::{Parameter, Parameters};
pub use run::{Observer, Outcome, Run};
pub use schedule::{DecayShape, ScheduleConfig};
pub use sequence_parallel::SequenceParallel;
pub use snapshot::{Snapshot, SnapshotChoice, SnapshotError, Snapshots, config_hash};
pub use task::{TaskConfig, TaskReport};
pub use team::Team;
pub use trainer::Trainer;
