//! Associative recall with changes of mind: some keys get another value before they are asked for, and the last one counts.
//!
//! Pairs and questions are those of [`Mqar`](super::Mqar); between them come U pairs of keys that were there, different ones, with values that no key
//! has had. A memory that only adds up holds both values of such a key; one that replaces holds the last. Source: the task
//! of this name in Zoology (Arora et al., 2312.04927), whose check that a value is another one looks at the wrong key; here all values differ.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::mqar::{draw_slots, expect_power, power, random_filler, vocab_size};
use super::{Example, Task, expect_time};

/// Associative recall in which some keys get another value. Only the targets at the keys that are asked have a weight, 1 each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingMqar {
    /// Number K of pairs.
    pub pairs: usize,
    /// Number U of keys that get another value.
    #[serde(default = "updates")]
    pub updates: usize,
    /// Ids there are, half of them for keys and half for values.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    /// Exponent a of the distance between a pair and its question, as [`Mqar::power`](super::Mqar::power).
    #[serde(default = "power")]
    pub power: f64,
    /// Whether random tokens stand between the questions, as [`Mqar::random_filler`](super::Mqar::random_filler).
    #[serde(default = "random_filler")]
    pub random_filler: bool,
}

fn updates() -> usize {
    4
}

impl ForgettingMqar {
    /// The task with so many pairs.
    pub fn new(pairs: usize) -> Self {
        Self {
            pairs,
            updates: updates(),
            vocab_size: vocab_size(),
            power: power(),
            random_filler: random_filler(),
        }
    }

    fn written(&self) -> usize {
        self.pairs.saturating_add(self.updates)
    }
}

impl Task for ForgettingMqar {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.pairs == 0 {
            return Err(DataError::option("pairs", "at least 1", self.pairs));
        }
        if self.updates > self.pairs {
            let expected = format!("at most {}, one per pair", self.pairs);
            return Err(DataError::option("updates", expected, self.updates));
        }
        let most = (self.vocab_size / 2).saturating_sub(1);
        if most < self.written() || u32::try_from(self.vocab_size).is_err() {
            let expected = format!(
                "at least {} ids, half of them for different values",
                2 * self.written() + 2
            );
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        expect_power(self.power)?;
        let what = format!(
            "{} pairs, {} updates and a question for each key",
            self.pairs, self.updates
        );
        expect_time(
            time,
            self.written().saturating_add(self.pairs).saturating_mul(2),
            &what,
        )
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let half = self.vocab_size / 2;
        let keys: Vec<u32> = sample(rng, half - 1, self.pairs)
            .iter()
            .map(|key| key as u32 + 1)
            .collect();
        let drawn = sample(rng, self.vocab_size - half, self.written());
        let mut values: Vec<u32> = drawn.iter().map(|value| (value + half) as u32).collect();
        let updated = values.split_off(self.pairs);
        let mut tokens: Vec<u32> = keys
            .iter()
            .zip(&values)
            .flat_map(|(key, value)| [*key, *value])
            .collect();
        for (index, value) in sample(rng, self.pairs, self.updates).iter().zip(updated) {
            tokens.extend([keys[index], value]);
            values[index] = value;
        }
        let written = tokens.len();
        tokens.extend((written..=time).map(|_| match self.random_filler {
            true => rng.random_range(0..self.vocab_size as u32),
            false => 0,
        }));
        let slots = draw_slots(self.pairs, (time - written) / 2, self.power, rng);
        let places: Vec<usize> = slots.into_iter().map(|slot| written + 2 * slot).collect();
        places
            .iter()
            .zip(&keys)
            .for_each(|(place, key)| tokens[*place] = *key);
        let mut example = Example::next_token(&tokens, vec![0.0; time]);
        for (place, value) in places.into_iter().zip(values) {
            example.targets[place] = value;
            example.weights[place] = 1.0;
        }
        example
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
