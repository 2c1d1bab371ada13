//! Multi-query associative recall: pairs of keys and values first, then each key once more, and what is its value?
//!
//! Source: Arora et al., "Zoology: measuring and improving recall in efficient language models", 2023, appendix on the synthetic
//! task. With K pairs in T tokens, keys are drawn from the lower half of the vocabulary without 0, values from the upper half,
//! both without repetition. After the 2K tokens of the pairs come (T − 2K)/2 slots of two tokens each; the keys are asked in K of
//! them, drawn without replacement with probability proportional to i^(a − 1) for slot i = 1, 2, …: mostly soon after. With more than
//! one pass the pairs are read again, in the same order, before the first question.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

/// Multi-query associative recall. Only the targets at the keys that are asked have a weight, 1 each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mqar {
    /// Number K of pairs.
    pub pairs: usize,
    /// Ids there are, half of them for keys and half for values.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    /// Exponent a of the distance between a pair and its question: 1 is uniform, small ones keep it short.
    #[serde(default = "power")]
    pub power: f64,
    /// Whether random tokens stand between the questions, or only the id 0.
    #[serde(default = "random_filler")]
    pub random_filler: bool,
    /// How often the pairs are read, one reading after the other, before the questions.
    #[serde(default = "passes", skip_serializing_if = "is_one")]
    pub passes: usize,
}

pub(super) fn vocab_size() -> usize {
    8192
}

pub(super) fn power() -> f64 {
    0.01
}

pub(super) fn random_filler() -> bool {
    true
}

fn passes() -> usize {
    1
}

fn is_one(passes: &usize) -> bool {
    *passes == 1
}

impl Mqar {
    /// The task as the paper has it.
    pub fn new(pairs: usize) -> Self {
        Self {
            pairs,
            vocab_size: vocab_size(),
            power: power(),
            random_filler: random_filler(),
            passes: 1,
        }
    }

    /// Ids that are keys; there are as many values or one more.
    fn keys(&self) -> usize {
        (self.vocab_size / 2).saturating_sub(1)
    }
}

/// `count` different slots of `slots`, in the order in which they are drawn.
///
/// Drawing one after the other with probabilities w is the same as sorting by u^(1/w), largest first, with u uniform in
/// (0, 1) (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006); here by ln(−ln u) − ln w, smallest
/// first.
pub(super) fn draw_slots(count: usize, slots: usize, power: f64, rng: &mut StdRng) -> Vec<usize> {
    let rank = |slot: usize, rng: &mut StdRng| {
        let uniform = rng.random::<f64>().max(f64::MIN_POSITIVE);
        (-uniform.ln()).ln() - (power - 1.0) * ((slot + 1) as f64).ln()
    };
    let mut ranked: Vec<(f64, usize)> = (0..slots).map(|slot| (rank(slot, rng), slot)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.into_iter().take(count).map(|(_, slot)| slot).collect()
}

/// The exponent of the distance is a number.
pub(super) fn expect_power(power: f64) -> Result<(), DataError> {
    match power.is_finite() {
        true => Ok(()),
        false => Err(DataError::option("power", "a finite number", power)),
    }
}

impl Task for Mqar {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.pairs == 0 {
            return Err(DataError::option("pairs", "at least 1", self.pairs));
        }
        if self.keys() < self.pairs || u32::try_from(self.vocab_size).is_err() {
            let expected = format!(
                "at least {} ids for {} different keys",
                2 * self.pairs + 2,
                self.pairs
            );
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        expect_power(self.power)?;
        if self.passes == 0 {
            return Err(DataError::option("passes", "at least 1", self.passes));
        }
        let what = format!(
            "{} pairs, read {} times, and as many questions",
            self.pairs, self.passes
        );
        let tokens = self.passes.saturating_add(1).saturating_mul(self.pairs);
        expect_time(time, tokens.saturating_mul(2), &what)
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let values_from = (self.vocab_size / 2) as u32;
        let keys: Vec<u32> = sample(rng, self.keys(), self.pairs)
            .into_iter()
            .map(|key| key as u32 + 1)
            .collect();
        let values = sample(rng, self.vocab_size - self.vocab_size / 2, self.pairs);
        let values: Vec<u32> = values
            .into_iter()
            .map(|value| value as u32 + values_from)
            .collect();

        let pairs: Vec<u32> = keys
            .iter()
            .zip(&values)
            .flat_map(|(key, value)| [*key, *value])
            .collect();
        let mut tokens = pairs.repeat(self.passes);
        let filler = |rng: &mut StdRng| match self.random_filler {
            true => rng.random_range(0..self.vocab_size as u32),
            false => 0,
        };
        let pairs_end = tokens.len();
        tokens.extend((pairs_end..=time).map(|_| filler(rng)));

        let slots = draw_slots(self.pairs, (time - pairs_end) / 2, self.power, rng);
        let mut questions = Vec::with_capacity(self.pairs);
        for (slot, (key, value)) in slots.into_iter().zip(keys.iter().zip(&values)) {
            let place = pairs_end + 2 * slot;
            tokens[place] = *key;
            questions.push((place, *value));
        }
        let mut example = Example::next_token(&tokens, vec![0.0; time]);
        for (place, value) in questions {
            example.targets[place] = value;
            example.weights[place] = 1.0;
        }
        example
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
