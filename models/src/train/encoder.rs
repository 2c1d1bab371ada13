//! What a model with an encoder is trained on: the tokens that are hidden from the encoder, and the next tokens behind it.
//!
//! ```text
//! L = (L_next + w L_hidden) / (1 + w)
//! ```
//!
//! The first M tokens of a sequence are the prefix. Each of them is replaced by a mask with probability p, independently, and L_hidden is
//! the mean over those of −log p(token that was there), read out where it stood. L_next is the mean over the tokens behind the prefix of
//! −log p(next token). The other tokens of the prefix count for nothing: everything in it has been seen. Source: Arora et al., *Just read
//! twice* (2407.05483), section 4, with w = 0.25, p = 0.15 and M half the sequence; their code leaves out the division.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::data::seed::generator;
use super::error::TrainError;

/// The counter of a batch's hidden tokens, beside its number.
const HIDDEN: u64 = 0x6a72_7400;

/// How sequences are divided between encoder and decoder.
///
/// ```
/// use spillway_models::train::EncoderConfig;
///
/// let config: EncoderConfig = toml::from_str("length = 1024\nmask_id = 50263")?;
/// assert_eq!((config.masked, config.weight), (0.15, 0.25));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// M, the tokens of a sequence that the encoder reads.
    pub length: usize,
    /// The id that stands for a hidden token; it may be one of those that pad the vocabulary.
    pub mask_id: u32,
    /// p, the probability that a token of the prefix is hidden.
    #[serde(default = "masked")]
    pub masked: f64,
    /// w, the weight of the hidden tokens' loss beside that of the next tokens.
    #[serde(default = "weight")]
    pub weight: f64,
}

fn masked() -> f64 {
    0.15
}

fn weight() -> f64 {
    0.25
}

impl EncoderConfig {
    /// Checks the numbers against the length of a sequence, and that of its segments where it is cut.
    ///
    /// # Errors
    /// [`TrainError::Field`] naming the number.
    pub(super) fn check(&self, length: usize, segment: Option<usize>) -> Result<(), TrainError> {
        if self.length == 0 || self.length >= length {
            let expected = format!("from 1 to below {length}, the length of a sequence");
            return Err(TrainError::field("encoder.length", expected, self.length));
        }
        if let Some(segment) = segment.filter(|segment| *segment < self.length) {
            let expected = format!("at least {}, so that an encoder reads one segment", self.length);
            return Err(TrainError::field("carry.segment", expected, segment));
        }
        if !(0.0..1.0).contains(&self.masked) {
            return Err(TrainError::field(
                "encoder.masked",
                "from 0 to below 1",
                self.masked,
            ));
        }
        if !(self.weight >= 0.0 && self.weight.is_finite()) {
            return Err(TrainError::field(
                "encoder.weight",
                "a finite number from 0 on",
                self.weight,
            ));
        }
        Ok(())
    }

    /// `batch` with tokens hidden, the same ones for the same seed and number of the batch; targets and weights are those of the objective.
    /// Weights that the batch has already go on to count, behind the prefix.
    pub fn hide(&self, mut batch: Batch, seed: u64, index: u64) -> Batch {
        let mut rng = generator(seed, index, HIDDEN);
        let time = batch.time;
        let encoded = self.length.min(time);
        let mut weights = batch.weights.take().unwrap_or_else(|| vec![1.0; batch.ids.len()]);
        let mut hidden = Vec::new();
        for row in 0..batch.sequences {
            let prefix = row * time..row * time + encoded;
            weights[prefix.clone()].fill(0.0);
            for at in prefix {
                if self.masked > 0.0 && rng.random_bool(self.masked) {
                    batch.targets[at] = std::mem::replace(&mut batch.ids[at], self.mask_id);
                    hidden.push(at);
                }
            }
        }
        let next: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        // Without next tokens, hidden ones count as such.
        let next = if next > 0.0 { next } else { 1.0 };
        let share = self.weight * next / hidden.len().max(1) as f64;
        hidden.iter().for_each(|at| weights[*at] = share as f32);
        batch.weights = Some(weights);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: EncoderConfig = EncoderConfig {
        length: 60,
        mask_id: 99,
        masked: 0.25,
        weight: 0.5,
    };

    fn batch() -> Batch {
        let ids: Vec<u32> = (0..200).map(|i| i % 90).collect();
        Batch {
            sequences: 2,
            time: 100,
            targets: ids.iter().map(|id| id + 1).collect(),
            ids,
            weights: None,
            continues: vec![false; 2],
        }
    }

    #[test]
    fn hidden_tokens_are_asked_for_where_they_stood_and_next_tokens_behind_the_prefix() {
        let (before, after) = (batch(), CONFIG.hide(batch(), 7, 3));
        let weights = after.weights.as_ref().expect("weights");
        let mut hidden = 0;
        for (at, &id) in after.ids.iter().enumerate() {
            let (in_prefix, masked) = (at % 100 < 60, id == 99);
            assert!(in_prefix || !masked);
            if masked {
                hidden += 1;
                assert_eq!(after.targets[at], before.ids[at]);
                assert!(weights[at] > 0.0);
            } else {
                assert_eq!(id, before.ids[at]);
                assert_eq!(weights[at], if in_prefix { 0.0 } else { 1.0 });
                assert_eq!(after.targets[at], before.targets[at]);
            }
        }
        // 120 chances of a quarter.
        assert!((15..46).contains(&hidden), "{hidden} are hidden");
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        // 80 next tokens, and half as much for all hidden ones together.
        assert!((total - 120.0).abs() < 1e-3, "{total}");
        assert_eq!(after, CONFIG.hide(batch(), 7, 3));
        assert_ne!(after.ids, CONFIG.hide(batch(), 7, 4).ids);
    }

    #[test]
    fn weights_of_a_batch_go_on_to_count_behind_the_prefix() {
        let mut given = batch();
        given.weights = Some(vec![3.0; 200]);
        let after = EncoderConfig {
            masked: 0.0,
            ..CONFIG
        }
        .hide(given, 7, 3);
        let weights = after.weights.expect("weights");
        assert!((0..200).all(|at| weights[at] == if at % 100 < 60 { 0.0 } else { 3.0 }));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let named = |config: EncoderConfig, segment: Option<usize>| {
            config.check(100, segment).expect_err("out of range").to_string()
        };
        assert!(CONFIG.check(100, Some(60)).is_ok());
        for length in [0, 100] {
            assert!(named(EncoderConfig { length, ..CONFIG }, None).contains("encoder.length"));
        }
        assert!(named(CONFIG, Some(59)).contains("carry.segment"));
        let masked = EncoderConfig {
            masked: 1.0,
            ..CONFIG
        };
        assert!(named(masked, None).contains("encoder.masked"));
        let weight = EncoderConfig {
            weight: f64::NAN,
            ..CONFIG
        };
        assert!(named(weight, None).contains("encoder.weight"));
    }
}
