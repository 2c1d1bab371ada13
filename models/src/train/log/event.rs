//! What happens in a training, as it stands in the log.

use serde::{Deserialize, Serialize};

use super::number;
use crate::train::evaluation::EvaluationReport;
use crate::train::task::TaskReport;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A training begins.
    Start(StartEvent),
    /// A step is done.
    Step(StepEvent),
    /// The model has been evaluated.
    Evaluation(EvaluationEvent),
    /// The model has been asked what it is trained on, or something like it.
    Task(TaskEvent),
    /// A snapshot of this step is being written.
    Snapshot(SnapshotEvent),
    /// The training ends, or stops to be resumed.
    End(EndEvent),
}

/// What is trained, and for how many steps: the first line of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartEvent {
    /// Steps that there will be.
    pub steps: u64,
    /// Name of the architecture: `mamba2`.
    pub architecture: String,
    /// Name of the layout that the weights are in: `Hugging Face`.
    pub layout: String,
    /// Weights that are trained.
    pub parameters: u64,
    /// Ids of the vocabulary; 0 in the log of a version that did not write it.
    #[serde(default)]
    pub vocab_size: u64,
    /// What makes ids of text: `bytes`, `tokenizer.json`, `rwkv_vocab` or `none`.
    #[serde(default)]
    pub tokenizer: String,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// [`config_hash`](crate::train::config_hash) of the configuration.
    pub config_hash: String,
    /// Version of this crate.
    pub version: String,
    /// When the training began, in seconds since 1970 (Unix time).
    pub started: u64,
}

/// Seconds that the parts of a step took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Seconds of reading the batches.
    pub data: f64,
    /// Seconds of the forward passes and their losses.
    pub forward: f64,
    /// Seconds of the backward passes, which give the gradients.
    pub backward: f64,
    /// Seconds of the update of the weights, and of adding up gradients where there are several ranks. On a graphics processor, which works on while the program does, it also waits for the gradients.
    pub optimizer: f64,
}

impl Seconds {
    /// Adds those of another step.
    pub fn add(&mut self, other: &Self) {
        self.data += other.data;
        self.forward += other.forward;
        self.backward += other.backward;
        self.optimizer += other.optimizer;
    }

    /// Seconds of the whole step.
    pub fn sum(&self) -> f64 {
        self.data + self.forward + self.backward + self.optimizer
    }
}

/// One step of the training, when it is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean −log p of the targets in nats, before the update.
    #[serde(with = "number")]
    pub loss: f64,
    /// η of the update.
    pub learning_rate: f64,
    /// ‖g‖ over all parameters, before clipping.
    #[serde(with = "number")]
    pub gradient_norm: f64,
    /// Whether the gradients were scaled down.
    pub clipped: bool,
    /// Tokens read so far, this step's included.
    pub tokens: u64,
    /// Tokens of this step per second of it.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// Seconds that each part of the step took.
    pub seconds: Seconds,
}

/// An evaluation of the model between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationEvent {
    /// Steps done when the model was evaluated.
    pub step: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What the evaluation found.
    #[serde(flatten)]
    pub report: EvaluationReport,
}

/// An evaluation of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Steps done when the model was evaluated.
    pub step: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What the evaluation of the task found.
    #[serde(flatten)]
    pub report: TaskReport,
}

/// A snapshot. It is logged before it is written, so that what is in the log up to it is there whenever the snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotEvent {
    /// Steps done at the snapshot.
    pub step: u64,
}

/// The end, for now or for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndEvent {
    /// Steps done at the end.
    pub step: u64,
    /// Whether those are all.
    pub finished: bool,
    /// Seconds since this program began with it.
    pub seconds: f64,
}

impl Event {
    /// Steps done when it happened.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start(_) => 0,
            Self::Step(event) => event.step,
            Self::Evaluation(event) => event.step,
            Self::Task(event) => event.step,
            Self::Snapshot(event) => event.step,
            Self::End(event) => event.step,
        }
    }

    /// This event with zeros for all times, and speeds. Two runs of one training have equal events but for these.
    #[must_use]
    pub fn without_times(&self) -> Self {
        let mut event = self.clone();
        match &mut event {
            Self::Start(event) => event.started = 0,
            Self::Step(event) => {
                event.seconds = Seconds::default();
                event.tokens_per_second = 0.0;
            }
            Self::Evaluation(event) => event.seconds = 0.0,
            Self::Task(event) => event.seconds = 0.0,
            Self::Snapshot(_) => {}
            Self::End(event) => event.seconds = 0.0,
        }
        event
    }
}
