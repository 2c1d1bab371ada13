//! Associative recall by two keys at once: only both together say which value is meant.
//!
//! Of a grid of g first and g second keys every pair has a value; the g² triples come in random order, then each pair of keys once more, as in
//! [`Mqar`](super::Mqar) in slots, here of three tokens. A third of the vocabulary is first keys, a third second keys, a third values, none twice.
//! Source: the task of this name in Zoology (Arora et al., 2312.04927).

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::mqar::{draw_slots, expect_power, power, random_filler, vocab_size};
use super::{Example, Task, expect_time};

/// Associative recall by two keys. Only the targets at the second keys that are asked have a weight, 1 each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CompositionalMqar {
    /// g, first keys and second keys.
    pub side: usize,
    /// Vocabulary size: a third of the ids each for first keys, second keys and values.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    /// Exponent of the distance between a triple and its question, as [`Mqar::power`](super::Mqar::power).
    #[serde(default = "power")]
    pub power: f64,
    /// Whether random tokens stand between the questions, as [`Mqar::random_filler`](super::Mqar::random_filler).
    #[serde(default = "random_filler")]
    pub random_filler: bool,
}

impl CompositionalMqar {
    /// The task with a grid of so many keys to a side.
    pub fn new(side: usize) -> Self {
        Self {
            side,
            vocab_size: vocab_size(),
            power: power(),
            random_filler: random_filler(),
        }
    }

    fn triples(&self) -> usize {
        self.side.saturating_mul(self.side)
    }
}

impl Task for CompositionalMqar {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.side == 0 {
            return Err(DataError::option("side", "at least 1", self.side));
        }
        let third = self.vocab_size / 3;
        if third.saturating_sub(1) < self.triples() || u32::try_from(self.vocab_size).is_err() {
            let expected = format!(
                "at least {} ids, a third of them for different values",
                3 * self.triples() + 3
            );
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        expect_power(self.power)?;
        let what = format!("{} triples and as many questions", self.triples());
        expect_time(time, self.triples().saturating_mul(6), &what)
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let third = self.vocab_size / 3;
        let from = |rng: &mut StdRng, first: usize, count: usize, ids: usize| -> Vec<u32> {
            sample(rng, ids, count)
                .iter()
                .map(|id| (id + first) as u32)
                .collect()
        };
        let first = from(rng, 1, self.side, third - 1);
        let second = from(rng, third, self.side, third);
        let values = from(rng, 2 * third, self.triples(), self.vocab_size - 2 * third);
        let mut triples: Vec<[u32; 3]> = values
            .iter()
            .enumerate()
            .map(|(index, value)| [first[index / self.side], second[index % self.side], *value])
            .collect();
        triples.shuffle(rng);
        let mut tokens = triples.as_flattened().to_vec();
        let written = tokens.len();
        tokens.extend((written..=time).map(|_| match self.random_filler {
            true => rng.random_range(0..self.vocab_size as u32),
            false => 0,
        }));
        let slots = draw_slots(triples.len(), (time - written) / 3, self.power, rng);
        let places: Vec<usize> = slots.into_iter().map(|slot| written + 3 * slot).collect();
        for (place, [first, second, _]) in places.iter().zip(&triples) {
            (tokens[*place], tokens[place + 1]) = (*first, *second);
        }
        let mut example = Example::next_token(&tokens, vec![0.0; time]);
        for (place, [.., value]) in places.into_iter().zip(triples) {
            example.targets[place + 1] = value;
            example.weights[place + 1] = 1.0;
        }
        example
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
