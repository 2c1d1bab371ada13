//! Passkey retrieval for models of any size: five digits hidden in filler that is always the same.
//!
//! | ids | what |
//! |---|---|
//! | 0–9 | the digits |
//! | 10–17 | a block of filler, in this order |
//! | 18 19 d d d d d 20 | the block with the passkey, which stands in place of one of filler |
//! | 21 18 19 | the question, after which the digits come once more |
//! | 22–63 | never used |
//!
//! Filler that never changes is what makes this hard: random filler is noise, which a model can learn to ignore at any length,
//! while a text of which every token is expected fills the state all the same. The question ends as the passkey's block begins, as it
//! does in the task of English sentences that this one is a small form of.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

const DIGITS: usize = 5;
const BLOCK: usize = 8;
const FILLER: [u32; BLOCK] = [10, 11, 12, 13, 14, 15, 16, 17];
/// "The passkey is": before the digits, and at the end of the question.
const ANNOUNCEMENT: [u32; 2] = [18, 19];
const STOP: u32 = 20;
const QUESTION: [u32; 3] = [21, ANNOUNCEMENT[0], ANNOUNCEMENT[1]];

/// Passkey retrieval with a vocabulary of 64. The five digits of the answer weigh 1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyLite {
    /// Weight of all other targets.
    #[serde(default = "other_weight")]
    pub other_weight: f32,
}

fn other_weight() -> f32 {
    0.1
}

impl Default for PasskeyLite {
    fn default() -> Self {
        Self {
            other_weight: other_weight(),
        }
    }
}

/// A question, and what should be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasskeyPrompt {
    /// The prompt, which ends with the question.
    pub ids: Vec<u32>,
    /// The digits, each of which is its own id.
    pub answer: [u32; DIGITS],
}

impl PasskeyLite {
    /// Tokens of the shortest prompt: one block, which is the passkey's, and the question.
    pub const SHORTEST: usize = BLOCK + QUESTION.len();
    /// Vocabulary size: every id is below it.
    pub const VOCAB_SIZE: usize = 64;
    /// Tokens of an answer.
    pub const ANSWER: usize = DIGITS;

    /// A prompt of exactly `length` tokens with a random passkey. Of its n = ⌊(length − 3)/8⌋ blocks, the one with index
    /// ⌊depth·(n − 1)⌋ holds the passkey; what is left of the length is the end of a block of filler, at the beginning.
    ///
    /// # Errors
    /// [`DataError::Option`] for fewer than 11 tokens, or a depth outside of \[0, 1\].
    pub fn prompt(&self, length: usize, depth: f64, rng: &mut impl Rng) -> Result<PasskeyPrompt, DataError> {
        if length < Self::SHORTEST {
            let expected = format!("at least {} tokens for a passkey and a question", Self::SHORTEST);
            return Err(DataError::option("length", expected, length));
        }
        if !(0.0..=1.0).contains(&depth) {
            return Err(DataError::option(
                "depth",
                "a number from 0, the beginning, to 1, the end",
                depth,
            ));
        }
        let last = (blocks(length) - 1) as f64;
        // At most the last one, so nothing is cut off.
        Ok(prompt(length, (depth * last).floor() as usize, rng))
    }
}

/// Blocks in a prompt.
fn blocks(length: usize) -> usize {
    (length - QUESTION.len()) / BLOCK
}

/// A prompt of at least the shortest length with the passkey in block `place`.
fn prompt(length: usize, place: usize, rng: &mut impl Rng) -> PasskeyPrompt {
    let answer: [u32; DIGITS] = std::array::from_fn(|_| rng.random_range(0..10));
    let rest = (length - QUESTION.len()) % BLOCK;
    let mut ids = Vec::with_capacity(length);
    ids.extend(&FILLER[BLOCK - rest..]);
    for block in 0..blocks(length) {
        match block == place {
            true => ids.extend(ANNOUNCEMENT.iter().chain(&answer).chain([&STOP])),
            false => ids.extend(FILLER),
        }
    }
    ids.extend(QUESTION);
    PasskeyPrompt { ids, answer }
}

impl Task for PasskeyLite {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if !self.other_weight.is_finite() || self.other_weight < 0.0 {
            return Err(DataError::option(
                "other_weight",
                "a finite number, at least 0",
                self.other_weight,
            ));
        }
        let least = Self::SHORTEST + DIGITS - 1;
        expect_time(
            time,
            least,
            "a passkey, a question and all but the last digit of the answer",
        )
    }

    /// A prompt and its answer, T + 1 tokens together, with the passkey in any of the blocks with equal probability.
    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let length = time + 1 - DIGITS;
        let place = rng.random_range(0..blocks(length));
        let PasskeyPrompt {
            ids: mut tokens,
            answer,
        } = prompt(length, place, rng);
        tokens.extend(answer);
        let mut weights = vec![self.other_weight; time];
        weights[time - DIGITS..].fill(1.0);
        Example::next_token(&tokens, weights)
    }

    fn vocab_size(&self) -> usize {
        Self::VOCAB_SIZE
    }
}
