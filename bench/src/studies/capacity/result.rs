//! What one training of the sweep gives: `runs/NAME/result.json`.

use crate::studies::results::distinct;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spillway_models::evaluation::passkey::RECALLED;

/// Version of the files.
pub const VERSION: u32 = 1;

/// Sizes of a Mamba-2 that decide how much it can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateSize {
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// State values of a channel.
    pub d_state: usize,
}

impl StateSize {
    /// Elements of the recurrent state, S = layers · 2 model_dim · d_state. What the short convolutions keep is not counted.
    pub fn elements(&self) -> u64 {
        self.layers as u64 * 2 * self.model_dim as u64 * self.d_state as u64
    }
}

/// Mean loss over a segment of positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// First position of the segment, in tokens.
    pub start: u64,
    /// Position after the last.
    pub end: u64,
    /// Mean loss in nats per token over all streams; none where it is not finite.
    pub loss: Option<f64>,
}

/// Whether a model forgets well enough to read on beyond its training length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forgetting {
    /// Streams of held-out data.
    pub streams: usize,
    /// Mean loss of each segment of positions, in their order.
    pub buckets: Vec<Bucket>,
    /// Largest mean loss of a bucket inside the training length.
    pub inside: Option<f64>,
    /// Largest mean loss of a bucket beyond it; none where one is not finite.
    pub worst: Option<f64>,
    /// End of the bucket in which it is.
    pub worst_at: u64,
}

impl Forgetting {
    /// worst / inside; infinite where a loss is not finite.
    pub fn loss_ratio(&self) -> f64 {
        self.ratio(|worst, inside| worst / inside)
    }

    /// exp(worst − inside); infinite where a loss is not finite.
    pub fn perplexity_ratio(&self) -> f64 {
        self.ratio(|worst, inside| (worst - inside).exp())
    }

    fn ratio(&self, of: impl Fn(f64, f64) -> f64) -> f64 {
        match (self.worst, self.inside) {
            (Some(worst), Some(inside)) => of(worst, inside),
            _ => f64::INFINITY,
        }
    }
}

/// Passkeys asked for at one length and depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallCell {
    /// Length of the context in tokens.
    pub length: u64,
    /// Row of the depth, 0 at the beginning of the context.
    pub depth: usize,
    /// Number of passkeys found.
    pub correct: u64,
    /// Number of passkeys asked for.
    pub samples: u64,
}

/// How far back a model finds a passkey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Passkeys found at each length and depth.
    pub cells: Vec<RecallCell>,
}

impl Recall {
    /// (length, keys found, keys asked for), the shortest length first.
    pub fn by_length(&self) -> Vec<(u64, u64, u64)> {
        let lengths = distinct(self.cells.iter().map(|cell| cell.length));
        let sums = lengths.into_iter().map(|length| {
            let cells = self.cells.iter().filter(|cell| cell.length == length);
            cells.fold((length, 0, 0), |(length, correct, samples), cell| {
                (length, correct + cell.correct, samples + cell.samples)
            })
        });
        sums.collect()
    }

    /// The longest length up to which, at every length, more than 95 % of the keys are found; none if not at the shortest.
    pub fn recalled(&self) -> Option<u64> {
        self.reach(|correct, samples| correct as f64 > RECALLED * samples as f64)
    }

    /// The longest length up to which every length passes; none if the shortest does not.
    pub fn reach(&self, passes: impl Fn(u64, u64) -> bool) -> Option<u64> {
        let passed = self.by_length();
        let passed = passed
            .iter()
            .take_while(|(_, correct, samples)| passes(*correct, *samples));
        passed.last().map(|(length, ..)| *length)
    }
}

/// Keys asked for in sequences of one length and number of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairsCell {
    /// Length of the sequences in tokens, questions included.
    pub length: u64,
    /// Number K of pairs in each sequence, all of whose keys are asked.
    pub pairs: usize,
    /// Number of questions that were answered rightly.
    pub correct: u64,
    /// Number of questions that were asked.
    pub questions: u64,
    /// Number of sequences in which they were asked.
    pub sequences: u64,
    /// Number of sequences without a wrong answer.
    pub whole: u64,
}

impl PairsCell {
    /// Share of the questions that were answered rightly.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.questions.max(1) as f64
    }
}

/// How many pairs a model holds, and how far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairsRecall {
    /// Answers for each number of pairs and each length that has room for it.
    pub cells: Vec<PairsCell>,
}

/// Times, which are the one thing that differs when a training is run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSeconds {
    /// Seconds of the training steps.
    pub training: f64,
    /// Seconds of the evaluations.
    pub evaluation: f64,
}

/// What one training gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Version of the file.
    pub version: u32,
    /// Name of the task.
    pub task: String,
    /// Sizes of the model.
    pub state: StateSize,
    /// Elements of its recurrent state.
    pub elements: u64,
    /// Training length T in tokens.
    pub train_length: u64,
    /// Seed of the initial weights and the order of the data.
    pub seed: u64,
    /// Number of the model's weights.
    pub parameters: u64,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Number of tokens that the model was trained on.
    pub tokens: u64,
    /// Mean training loss of the last tenth of the steps, in nats per weighted target.
    pub train_loss: f64,
    /// Training loss over the steps, as (step, mean since the entry before).
    pub train_curve: Vec<(u64, f64)>,
    /// Loss against position, where the task is evaluated for it.
    pub forgetting: Option<Forgetting>,
    /// Passkeys, where the task is evaluated for them.
    pub recall: Option<Recall>,
    /// Pairs of keys and values, where the task is evaluated for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsRecall>,
    /// Times of training and evaluation, in seconds.
    pub seconds: RunSeconds,
    /// Everything that decides the numbers of the training, as JSON.
    pub settings: Value,
}
