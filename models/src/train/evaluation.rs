//! What is measured while a model is trained: loss against position beyond the training length, collapse, passkeys.
//!
//! Everything is measured on a [`Model`] of the parameters as they are, never on the graph, and draws nothing: an evaluation
//! does not change the training. The measurements are those of [`crate::evaluation`].

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::Batch;
use crate::budget;
use crate::error::ModelError;
use crate::evaluation::collapse::{Collapse, Excess, collapse, excess};
use crate::evaluation::passkey::{PasskeyReport, Question, passkey};
use crate::evaluation::positions::Buckets;
use crate::evaluation::streams::loss_by_position;
use crate::evaluation::tally::BucketLoss;
use crate::message;
use crate::model::Model;

/// The most questions of a grid of passkeys: each is a prompt that is kept in memory.
const MOST_QUESTIONS: u64 = 1_000_000;

/// When and how a model is evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps from one evaluation to the next.
    pub every: u64,
    /// Tokens of each stream, in training lengths.
    #[serde(default = "usual_length")]
    pub length: u64,
    /// Streams that losses are averaged over.
    #[serde(default = "usual_streams")]
    pub streams: usize,
    /// A collapse is a loss, or perplexity, above so many times the largest inside the training length.
    #[serde(default = "usual_threshold")]
    pub threshold: f64,
    /// Whether the streams are read once more with the state emptied every training length, for comparison.
    #[serde(default)]
    pub restarted: bool,
    /// Questions for passkeys; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passkey: Option<PasskeyConfig>,
}

fn usual_length() -> u64 {
    16
}

fn usual_streams() -> usize {
    8
}

fn usual_threshold() -> f64 {
    2.0
}

/// The grid of passkeys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyConfig {
    /// Lengths of the prompts, in training lengths.
    #[serde(default = "usual_lengths")]
    pub lengths: Vec<u64>,
    /// Depths of the passkey, spread evenly.
    #[serde(default = "usual_depths")]
    pub depths: usize,
    /// Prompts at each depth of each length.
    #[serde(default = "usual_samples")]
    pub samples: usize,
}

fn usual_lengths() -> Vec<u64> {
    vec![1, 2, 4, 8, 16]
}

fn usual_depths() -> usize {
    10
}

fn usual_samples() -> usize {
    2
}

impl EvaluationConfig {
    /// # Errors
    /// [`ModelError::Option`] naming the first number that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        let at_least_1 = |option, found: u64| match found {
            0 => Err(ModelError::Option {
                option,
                expected: "at least 1",
                found: "0".into(),
            }),
            _ => Ok(()),
        };
        at_least_1("evaluation.every", self.every)?;
        at_least_1("evaluation.length", self.length)?;
        at_least_1("evaluation.streams", self.streams as u64)?;
        if !(self.threshold.is_finite() && self.threshold >= 1.0) {
            return Err(ModelError::Option {
                option: "evaluation.threshold",
                expected: "a number from 1 on",
                found: message::number(self.threshold),
            });
        }
        let Some(passkey) = &self.passkey else {
            return Ok(());
        };
        let shortest = passkey.lengths.iter().copied().min().unwrap_or(0);
        at_least_1("evaluation.passkey.lengths", shortest)?;
        at_least_1("evaluation.passkey.depths", passkey.depths as u64)?;
        at_least_1("evaluation.passkey.samples", passkey.samples as u64)?;
        let counts = [passkey.lengths.len(), passkey.depths, passkey.samples].map(|count| count as u64);
        match budget::product(counts) {
            Some(questions) if questions <= MOST_QUESTIONS => Ok(()),
            _ => Err(ModelError::Option {
                option: "evaluation.passkey",
                expected: "lengths · depths · samples of at most 1,000,000 questions",
                found: counts.map(|count| count.to_string()).join(" · "),
            }),
        }
    }
}

/// What a model is evaluated on, the same at every evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationData {
    /// Ids in the order of the text; n ids give n − 1 losses.
    pub streams: Vec<Vec<u32>>,
    /// Questions, those of [`PasskeyConfig`]'s grid.
    pub questions: Vec<Question>,
}

impl EvaluationData {
    /// The sequences of a batch as streams: every target but the last is the id that follows.
    pub fn of_batch(batch: &Batch) -> Self {
        let rows = batch.ids.chunks(batch.time.max(1));
        let ends = batch.targets.chunks(batch.time.max(1));
        let streams = rows.zip(ends).map(|(ids, targets)| {
            let last = targets.last();
            ids.iter().chain(last).copied().collect()
        });
        Self {
            streams: streams.collect(),
            questions: Vec::new(),
        }
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Training length T, in tokens.
    pub train_length: u64,
    /// Mean loss against position, over [`Buckets::doubling`].
    pub positions: Vec<BucketLoss>,
    /// Mean loss against position with the state emptied every T tokens; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<Vec<BucketLoss>>,
    /// The published criterion; `None` where nothing beyond T was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse: Option<Collapse>,
    /// Mean loss beyond T less the mean loss in [T/2, T), in nats, bucket by bucket.
    pub excess: Vec<Excess>,
    /// How passkeys were recalled; `None` where none were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passkey: Option<PasskeyReport>,
}

/// Evaluates a model on `data`.
///
/// # Errors
/// As [`Model::losses`].
pub fn evaluate(
    model: &Model,
    config: &EvaluationConfig,
    data: &EvaluationData,
    train_length: u64,
) -> Result<EvaluationReport, ModelError> {
    let streams: Vec<&[u32]> = data.streams.iter().map(Vec::as_slice).collect();
    let buckets = Buckets::doubling(train_length, train_length.saturating_mul(config.length));
    let read = |restart| loss_by_position(model, &streams, &buckets, restart);
    let positions = read(None)?;
    let restarted = match config.restarted {
        true => Some(read(NonZeroU64::new(train_length))?),
        false => None,
    };
    let beyond = positions.iter().any(|bucket| bucket.start >= train_length);
    Ok(EvaluationReport {
        train_length,
        collapse: beyond.then(|| collapse(&positions, train_length, config.threshold)),
        excess: excess(&positions, train_length),
        positions,
        restarted,
        passkey: match data.questions.is_empty() {
            true => None,
            false => Some(passkey(model, &data.questions)?),
        },
    })
}
