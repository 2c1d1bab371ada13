//! Many pairs of keys and values hidden in filler that is always the same, and then every key asked: a load that fills a state.
//!
//! | ids | what |
//! |---|---|
//! | 0–7 | a block of filler, in this order, over and over |
//! | 8 | the mark between the text and the questions |
//! | 9 to 8 + keys | the keys |
//! | the next ones | the values |
//!
//! With K pairs, a sequence of T + 1 tokens is a text of T − 2K tokens, the mark, and K questions of two tokens, each a key and its
//! value. In the text each pair is one unit among units of one token of filler, and which units are pairs is drawn uniformly; filler goes
//! on after a pair where it was before it. Keys are drawn without repetition, so that every question has one answer; values are drawn
//! independently of each other, so that no answer tells anything of another one. Keys are asked in random order, each once.
//!
//! **Chance.** Who has read nothing names the value of a question in 1/V of the cases, with V the values there are. Who remembers which
//! values were read but not beside which keys, and names any of them, is right in 1/K + (1 − 1/K)/V of the cases.
//!
//! The filler is that of [`PasskeyLite`](super::PasskeyLite), of which one secret does not fill a state; the questions are those of
//! [`Mqar`](super::Mqar), whose pairs stand one after another at the beginning.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

/// Tokens in a block of filler.
const BLOCK: u32 = 8;
/// The mark before the questions.
const MARK: u32 = BLOCK;
/// The first key.
const KEYS: u32 = MARK + 1;
/// Tokens of a sequence for each pair: two in the text and two in the questions.
const TOKENS: usize = 4;

/// Pairs of keys and values in filler. The answers weigh 1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PairsInFiller {
    /// Numbers K of pairs, one of which is drawn for every sequence among those that its T tokens have room for, 4K ≤ T.
    pub pairs: Vec<usize>,
    /// Number of different keys.
    #[serde(default = "sixty_four")]
    pub keys: usize,
    /// Number V of different values.
    #[serde(default = "sixty_four")]
    pub values: usize,
    /// Weight of all targets that are no answers.
    #[serde(default = "other_weight")]
    pub other_weight: f32,
}

fn sixty_four() -> usize {
    64
}

fn other_weight() -> f32 {
    0.1
}

impl PairsInFiller {
    /// The task with these numbers of pairs, 64 keys and 64 values.
    pub fn new(pairs: Vec<usize>) -> Self {
        Self {
            pairs,
            keys: sixty_four(),
            values: sixty_four(),
            other_weight: other_weight(),
        }
    }

    /// The same task with exactly `pairs` pairs in every sequence and no weight but that of the answers: what a trained model is asked.
    pub fn asking(&self, pairs: usize) -> Self {
        Self {
            pairs: vec![pairs],
            other_weight: 0.0,
            ..self.clone()
        }
    }

    /// The largest number of pairs that a sequence of `time` tokens has room for.
    pub fn room(time: usize) -> usize {
        time / TOKENS
    }

    /// Share of right answers of who remembers `pairs` values but not beside which keys they stood: 1/K + (1 − 1/K)/V.
    pub fn chance(&self, pairs: usize) -> f64 {
        let one_of_them = 1.0 / pairs.max(1) as f64;
        one_of_them + (1.0 - one_of_them) / self.values.max(1) as f64
    }

    fn value(&self, rng: &mut StdRng) -> u32 {
        KEYS + (self.keys + rng.random_range(0..self.values)) as u32
    }
}

impl Task for PairsInFiller {
    fn check(&self, time: usize) -> Result<(), DataError> {
        let Some(fewest) = self.pairs.iter().copied().min().filter(|fewest| *fewest > 0) else {
            let expected = "at least one number of pairs, each at least 1";
            return Err(DataError::option("pairs", expected, format!("{:?}", self.pairs)));
        };
        let most = self.pairs.iter().copied().max().unwrap_or(fewest);
        if self.keys < most {
            let expected = format!("at least {most} for {most} different keys");
            return Err(DataError::option("keys", expected, self.keys));
        }
        if self.values == 0 {
            return Err(DataError::option("values", "at least 1", self.values));
        }
        if u32::try_from(Task::vocab_size(self)).is_err() {
            let expected = "numbers of keys and values of less than 2^32 together";
            return Err(DataError::option("keys", expected, self.keys));
        }
        if !self.other_weight.is_finite() || self.other_weight < 0.0 {
            let expected = "a finite number, at least 0";
            return Err(DataError::option("other_weight", expected, self.other_weight));
        }
        let what = format!("{fewest} pairs and as many questions");
        expect_time(time, fewest.saturating_mul(TOKENS), &what)
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let fitting = self.pairs.iter().filter(|pairs| **pairs <= Self::room(time));
        let fitting: Vec<usize> = fitting.copied().collect();
        let pairs = fitting[rng.random_range(0..fitting.len())];
        let keys = sample(rng, self.keys, pairs).into_iter();
        let mut told: Vec<[u32; 2]> = keys.map(|key| [KEYS + key as u32, self.value(rng)]).collect();
        // A text of T − 2K tokens has T − 3K units: K pairs and T − 4K tokens of filler.
        let units = time - 3 * pairs;
        let mut is_pair = vec![false; units];
        for unit in sample(rng, units, pairs) {
            is_pair[unit] = true;
        }
        let mut tokens = Vec::with_capacity(time + 1);
        let (mut next, mut filler) = (told.iter(), (0..BLOCK).cycle());
        for is_pair in is_pair {
            match is_pair {
                true => tokens.extend(next.next().into_iter().flatten()),
                false => tokens.extend(filler.next()),
            }
        }
        tokens.push(MARK);
        told.shuffle(rng);
        tokens.extend(told.iter().flatten());
        let mut weights = vec![self.other_weight; time];
        // The answer is the target at its key: the last of them at T − 1, one in every two before.
        for question in 0..pairs {
            weights[time - 1 - 2 * question] = 1.0;
        }
        Example::next_token(&tokens, weights)
    }

    fn vocab_size(&self) -> usize {
        (KEYS as usize)
            .saturating_add(self.keys)
            .saturating_add(self.values)
    }
}
