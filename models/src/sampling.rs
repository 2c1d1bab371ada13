//! Choosing the next token from logits.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::error::ModelError;

/// How the next token is chosen. The filters are applied in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits of ids seen before are divided by this when positive and multiplied when negative; 1 leaves them alone. Source:
    /// Keskar et al., *CTRL* (1909.05858), section 4.1.
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 takes the largest, always.
    pub temperature: f32,
    /// Only this many of the likeliest ids.
    pub top_k: Option<usize>,
    /// Only the likeliest ids whose probabilities just reach this sum. Source: Holtzman et al., *The Curious Case of Neural
    /// Text Degeneration* (1904.09751), section 3.1.
    pub top_p: Option<f32>,
    /// Seed of the draws: the same seed chooses the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::greedy()
    }
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Self {
            repetition_penalty: 1.0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
        }
    }

    /// # Errors
    /// [`ModelError::Option`] naming the first option that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        let wrong = |option, expected, found: String| {
            Err(ModelError::Option {
                option,
                expected,
                found,
            })
        };
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return wrong(
                "repetition penalty",
                "a positive number",
                self.repetition_penalty.to_string(),
            );
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong(
                "temperature",
                "0 or a positive number",
                self.temperature.to_string(),
            );
        }
        if self.top_k == Some(0) {
            return wrong("top-k", "at least 1", "0".into());
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => wrong("top-p", "a number above 0, at most 1", p.to_string()),
            _ => Ok(()),
        }
    }
}

/// A sampler: options, random numbers, and which ids have been seen.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: Sampling,
    random: StdRng,
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler for a vocabulary of this size.
    ///
    /// # Errors
    /// [`ModelError::Option`] for options out of range.
    pub fn new(options: &Sampling, vocab_size: usize) -> Result<Self, ModelError> {
        options.validate()?;
        let random = StdRng::seed_from_u64(options.seed);
        Ok(Self {
            options: *options,
            random,
            seen: vec![false; vocab_size],
        })
    }

    /// Marks an id as seen, for the repetition penalty.
    pub fn observe(&mut self, id: u32) {
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = true;
        }
    }

    /// Chooses an id and marks it as seen. `logits` are overwritten.
    ///
    /// # Errors
    /// [`ModelError::NotANumber`] for a NaN, [`ModelError::EmptyPrompt`] for no logits at all.
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<u32, ModelError> {
        if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(ModelError::NotANumber { id });
        }
        self.penalise(logits);
        let id = match self.options.temperature {
            0.0 => first_of_largest(logits).ok_or(ModelError::EmptyPrompt)?,
            temperature => self.draw(logits, temperature).ok_or(ModelError::EmptyPrompt)?,
        };
        self.observe(id);
        Ok(id)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for (logit, _) in logits.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
    }

    /// Draws from softmax(logits / temperature), restricted to the likeliest ids.
    fn draw(&mut self, logits: &[f32], temperature: f32) -> Option<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| logits[id as usize];
        // Likeliest first; of equal ones the smaller id, so that the order, and with it the choice, is fixed.
        let order = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
        if let Some(k) = self.options.top_k.filter(|k| *k < ids.len()) {
            ids.select_nth_unstable_by(k - 1, order);
            ids.truncate(k);
        }
        ids.sort_unstable_by(order);
        let largest = logit(*ids.first()?);
        // An infinite logit leaves nothing to draw.
        if largest.is_infinite() {
            return ids.first().copied();
        }
        let weight = |id: u32| (f64::from(logit(id) - largest) / f64::from(temperature)).exp();
        let mut weights: Vec<f64> = ids.iter().map(|id| weight(*id)).collect();
        if let Some(p) = self.options.top_p {
            let enough = f64::from(p) * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let kept = weights.iter().position(|w| {
                sum += w;
                sum >= enough
            });
            weights.truncate(kept.map_or(weights.len(), |last| last + 1));
        }
        let mut left = self.random.random::<f64>() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        // Rounding may leave a trace after the last weight.
        ids.get(chosen.unwrap_or(weights.len() - 1)).copied()
    }
}

pub(crate) fn first_of_largest(logits: &[f32]) -> Option<u32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits
        .iter()
        .position(|logit| *logit == largest)
        .map(|id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(options: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(&options, logits.len()).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(&mut logits.to_vec()).unwrap() as usize] += 1;
        }
        counts
    }

    const WARM: Sampling = Sampling {
        repetition_penalty: 1.0,
        temperature: 1.0,
        top_k: None,
        top_p: None,
        seed: 7,
    };

    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let counts = counts(Sampling { temperature, ..WARM }, &logits, 40_000);
            let weights: Vec<f64> = logits.iter().map(|l| f64::from(l / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let (found, expected) = (*count as f64 / 40_000.0, weight / total);
                // Four standard deviations of a binomial at most 0.0025 wide.
                assert!(
                    (found - expected).abs() < 0.01,
                    "{found} is not {expected} at {temperature}"
                );
            }
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_likeliest_only() {
        let logits = [0.1f32, 3.0, 2.0, 1.0];
        let kept = |options| {
            counts(options, &logits, 2_000)
                .iter()
                .map(|c| *c > 0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            kept(Sampling {
                top_k: Some(2),
                ..WARM
            }),
            [false, true, true, false]
        );
        assert_eq!(
            kept(Sampling {
                top_k: Some(1),
                ..WARM
            }),
            [false, true, false, false]
        );
        // Probabilities are 0.036, 0.63, 0.23, 0.09: two reach 0.7, one reaches 0.6.
        assert_eq!(
            kept(Sampling {
                top_p: Some(0.7),
                ..WARM
            }),
            [false, true, true, false]
        );
        assert_eq!(
            kept(Sampling {
                top_p: Some(0.6),
                ..WARM
            }),
            [false, true, false, false]
        );
        assert_eq!(
            kept(Sampling {
                top_p: Some(1.0),
                ..WARM
            }),
            [true; 4]
        );
    }

    #[test]
    fn the_repetition_penalty_moves_greedy_choice_away() {
        let mut sampler = Sampler::new(
            &Sampling {
                repetition_penalty: 2.0,
                ..Sampling::greedy()
            },
            3,
        )
        .unwrap();
        let chosen: Vec<u32> = (0..3)
            .map(|_| sampler.choose(&mut [3.0, 2.0, -1.0]).unwrap())
            .collect();
        // 3 first; then 3/2 loses to 2; then 3/2 beats 2/2.
        assert_eq!(chosen, [0, 1, 0]);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut sampler = Sampler::new(&Sampling { seed, ..WARM }, 8).unwrap();
            (0..50)
                .map(|_| sampler.choose(&mut [0.0; 8]).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn impossible_options_and_nan_are_refused() {
        let refused = |options: Sampling| options.validate().unwrap_err().to_string();
        assert!(
            refused(Sampling {
                temperature: -1.0,
                ..WARM
            })
            .contains("temperature")
        );
        assert!(
            refused(Sampling {
                temperature: f32::NAN,
                ..WARM
            })
            .contains("temperature")
        );
        assert!(
            refused(Sampling {
                top_k: Some(0),
                ..WARM
            })
            .contains("top-k")
        );
        assert!(
            refused(Sampling {
                top_p: Some(1.5),
                ..WARM
            })
            .contains("top-p")
        );
        assert!(
            refused(Sampling {
                repetition_penalty: 0.0,
                ..WARM
            })
            .contains("repetition penalty")
        );
        let mut sampler = Sampler::new(&Sampling::greedy(), 2).unwrap();
        assert!(matches!(
            sampler.choose(&mut [0.0, f32::NAN]),
            Err(ModelError::NotANumber { id: 1 })
        ));
    }
}
