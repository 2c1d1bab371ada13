//! Training: any model of this crate, from text or synthetic tasks, with states that can be passed on.
//!
//! The reader of a published layout is also the differentiable model: asked for leaves instead of a file's weights, it builds a
//! network through which gradients reach every tensor under its published name. So nothing here knows an architecture.

pub mod batch;
pub mod carry;
pub mod data;
pub mod evaluation;
pub mod forward;
pub mod log;
pub mod optimizer;
pub mod parameters;
pub mod schedule;
pub mod snapshot;

pub use batch::{Batch, Segment};
pub use carry::{Carry, CarryConfig};
pub use data::{DataConfig, DataError, Source};
pub use evaluation::{EvaluationConfig, EvaluationData, EvaluationReport, evaluate};
pub use forward::{Differentiable, Leaves, Precision};
pub use log::{
    EndEvent, EvaluationEvent, Event, Log, LogError, Seconds, SnapshotEvent, StartEvent, StepEvent, read_log,
};
pub use optimizer::{Accumulator, Optimizer, OptimizerConfig, OptimizerError, Update, decays};
pub use parameters::{Parameter, Parameters};
pub use schedule::{DecayShape, ScheduleConfig};
pub use snapshot::{Snapshot, SnapshotChoice, SnapshotError, Snapshots, config_hash};
