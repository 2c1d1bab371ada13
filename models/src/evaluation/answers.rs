//! How many of the targets that weigh something a model names: accuracy on the synthetic tasks of [`crate::train::data`].
//!
//! An answer is the id with the largest logit after a token whose target has a weight, and is right if it is that target. Where logits are
//! not numbers there is no answer, which is wrong.

use serde::{Deserialize, Serialize};
use spillway_ssm_core::{Chain, Prefix};

use crate::error::ModelError;
use crate::model::{Logits, Model};
use crate::train::Batch;

/// Logits that are in memory at a time, in values.
const LOGITS: usize = 4 << 20;

/// Answers that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Targets with a weight.
    pub asked: u64,
    /// Targets with a weight that the model named.
    pub right: u64,
    /// Sequences in which something is asked.
    pub sequences: u64,
    /// Sequences in which something is asked and no answer is wrong.
    pub whole: u64,
}

impl Answered {
    /// Share of the right answers; not a number where nothing is asked.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.asked as f64
    }
}

/// Asks `model` under the interventions of `chain` for every target of `batch` that has a weight. The first `prefix` tokens of each sequence
/// are read both ways by a model that has an encoder; what is asked among them is not counted.
///
/// Logits are made a few sequences at a time, so that memory does not grow with their number.
///
/// # Errors
/// As [`Model::logits_batched`].
///
/// # Examples
/// ```
/// use spillway_models::evaluation::answers::answers;
/// use spillway_models::train::data::{DataConfig, InductionHeads};
/// use spillway_models::{LoadOptions, Model};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let data = DataConfig::InductionHeads(InductionHeads::default());
/// let batch = data.open("".as_ref(), 20, 16, model.tokenizer(), 1)?.next()?;
/// let answered = answers(&model, &Chain::default(), &batch, 0)?;
/// assert_eq!((answered.asked, answered.sequences), (20, 20));
/// assert!(answered.accuracy() < 0.6, "it was trained on English");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn answers(model: &Model, chain: &Chain, batch: &Batch, prefix: usize) -> Result<Answered, ModelError> {
    let time = batch.time;
    let (width, vocab_size) = (model.info().padded_vocab_size, model.info().vocab_size);
    let rows = (LOGITS / (time * width).max(1)).clamp(1, batch.sequences.max(1));
    // Without an encoder nothing is read both ways, and everything that is asked counts.
    let prefix = match model.encoder_length() {
        0 => 0,
        _ => prefix.min(time),
    };
    let mut answered = Answered::default();
    for first in (0..batch.sequences).step_by(rows) {
        let count = rows.min(batch.sequences - first);
        let range = first * time..(first + count) * time;
        let mut state = model.start(chain, count)?;
        if prefix > 0 {
            state.read_both_ways(Prefix::new(prefix));
        }
        let logits = model.logits_batched(&batch.ids[range.clone()], &mut state, Logits::All)?;
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        for row in 0..count {
            let counts = |token: &usize| {
                let place = (first + row) * time + token;
                let weight = batch.weights.as_ref().map_or(1.0, |weights| weights[place]);
                *token >= prefix && weight > 0.0
            };
            let (mut asked, mut right) = (0, 0);
            for token in (0..time).filter(counts) {
                let at = (row * time + token) * width;
                asked += 1;
                let target = batch.targets[(first + row) * time + token];
                right += u64::from(named(&logits[at..at + vocab_size]) == Some(target));
            }
            answered.asked += asked;
            answered.right += right;
            answered.sequences += u64::from(asked > 0);
            answered.whole += u64::from(asked > 0 && asked == right);
        }
    }
    Ok(answered)
}

/// The id of the largest logit, the first of several; none where one of them is no number.
fn named(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, most)| *logit > most) {
            best = Some((id, *logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn the_first_of_the_largest_is_named_and_nothing_where_there_is_no_number() {
        assert_eq!(named(&[0.0, 2.0, 2.0, -1.0]), Some(1));
        assert_eq!(named(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
        assert_eq!(named(&[0.0, f32::NAN, 3.0]), None);
        assert_eq!(named(&[]), None);
    }
}
