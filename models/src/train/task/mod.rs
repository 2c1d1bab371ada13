//! Training on what is not next-token prediction: classes, answers at every step, real values.
//!
//! ```text
//! tokens ──► embedding ─┐                           ┌─ mean over the steps ─┐
//!                       ├─► blocks, last norm ──────┼─ last step ───────────┼─► head ──► −log p, or square error
//! values ──► encoder ───┘                           └─ every step ──────────┘
//! ```
//!
//! The blocks are those of any layout. Encoder and head are two projections of a training's own, `task.encoder` and `task.head`; the layout's
//! embedding is not read where there is an encoder, and its head only where the table says `head = "model"` ([`TaskHead`]). Both stay what
//! they were drawn as otherwise. A training that begins with the checkpoint of another one (`model.checkpoint`) takes encoder and head from
//! the `task.safetensors` beside it; without that file, or for another task once it has been taken away, they are fresh.
//!
//! | module | what is in it |
//! |---|---|
//! | `config` | the table `[task]` |
//! | `batch` | examples side by side, and where they go on after an interruption |
//! | `adapter` | encoder, readout, head and loss |
//! | `report` | what an evaluation finds |
//! | `work` | all of it together, for the trainer |

mod adapter;
mod batch;
mod config;
mod report;
mod work;

pub(super) use batch::TaskBatch;
pub use config::{OtherData, Readout, TaskConfig, TaskEvaluationConfig, TaskHead};
pub use report::{Metric, TaskReport, TaskResult};
pub(super) use work::TaskWork;
