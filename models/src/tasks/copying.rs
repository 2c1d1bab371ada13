//! Tokens, a pause, and the same tokens again.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_length};

/// What stands where there is nothing.
pub(super) const BLANK: u32 = 0;

/// M tokens first, then blanks, then M markers, at which the tokens are answered in their order, or from the last to the first. A
/// sequence of T steps has T − 2M blanks.
///
/// Tokens are drawn from 1 to A − 2 with equal probability; 0 is the blank, A − 1 the marker. Source: Arjovsky, Shah and Bengio, *Unitary
/// Evolution Recurrent Neural Networks* (1511.06464).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Copying {
    /// Number M of tokens that are to be copied.
    #[serde(default = "tokens")]
    pub tokens: usize,
    /// Vocabulary size A, blank and marker included.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    /// Whether the last token comes first.
    #[serde(default)]
    pub reversed: bool,
}

pub(super) fn tokens() -> usize {
    16
}

pub(super) fn vocab_size() -> usize {
    16
}

impl Task for Copying {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        check(self.tokens, self.vocab_size, length)
    }

    fn shape(&self) -> Shape {
        shape(self.vocab_size)
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let tokens = drawn(self.tokens, self.vocab_size, rng);
        let mut right = tokens.clone();
        if self.reversed {
            right.reverse();
        }
        let places: Vec<usize> = (0..self.tokens).collect();
        example(length, &tokens, &places, right, self.vocab_size)
    }
}

/// Refuses what neither form of copying can be made of.
pub(super) fn check(tokens: usize, vocab_size: usize, length: usize) -> Result<(), TaskError> {
    if vocab_size < 4 || u32::try_from(vocab_size).is_err() {
        let expected = "4 to 2^32 - 1: a blank, a marker and at least two tokens to copy";
        return Err(TaskError::option("vocab_size", expected, vocab_size));
    }
    if tokens == 0 {
        return Err(TaskError::option("tokens", "at least 1", 0));
    }
    expect_length(length, tokens.saturating_mul(2), "the tokens and as many markers")
}

pub(super) fn shape(vocab_size: usize) -> Shape {
    Shape {
        input: Input::Tokens(vocab_size),
        answer: Answer::Class(vocab_size),
        when: When::AtEveryStep,
    }
}

/// `count` tokens to be copied.
pub(super) fn drawn(count: usize, vocab_size: usize, rng: &mut StdRng) -> Vec<u32> {
    let last = vocab_size as u32 - 1;
    (0..count).map(|_| rng.random_range(1..last)).collect()
}

/// The sequence with `tokens` at `places`, and `right` to be answered at the markers at its end.
pub(super) fn example(
    length: usize,
    tokens: &[u32],
    places: &[usize],
    right: Vec<u32>,
    vocab_size: usize,
) -> Example {
    let markers = length - tokens.len();
    let mut inputs = vec![BLANK; length];
    inputs[markers..].fill(vocab_size as u32 - 1);
    for (place, token) in places.iter().zip(tokens) {
        inputs[*place] = *token;
    }
    let mut answers = vec![BLANK; length];
    answers[markers..].copy_from_slice(&right);
    let mut weights = vec![0.0; length];
    weights[markers..].fill(1.0);
    Example {
        inputs: Sequence::Tokens(inputs),
        answers: Answers::Classes(answers),
        weights,
        steps: length,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_tokens_are_asked_for_at_the_markers_and_nowhere_else() {
        for reversed in [false, true] {
            let task = Copying {
                tokens: 3,
                vocab_size: 10,
                reversed,
            };
            for (length, seed) in [(6, 1), (7, 2), (40, 3)] {
                task.check(length).unwrap();
                let example = task.example(length, Item::training(0), &mut StdRng::seed_from_u64(seed));
                let (Sequence::Tokens(inputs), Answers::Classes(answers)) =
                    (&example.inputs, &example.answers)
                else {
                    panic!("tokens");
                };
                let mut tokens = inputs[..3].to_vec();
                assert!(tokens.iter().all(|token| (1..9).contains(token)));
                assert!(inputs[3..length - 3].iter().all(|token| *token == BLANK));
                assert!(inputs[length - 3..].iter().all(|token| *token == 9));
                if reversed {
                    tokens.reverse();
                }
                assert_eq!(answers[length - 3..], tokens);
                assert_eq!(example.weights.iter().sum::<f32>(), 3.0);
                assert_eq!(example.weights[length - 3..], [1.0; 3]);
            }
        }
        let task = Copying {
            tokens: 3,
            vocab_size: 10,
            reversed: false,
        };
        assert!(
            task.check(5).is_err()
                && Copying {
                    vocab_size: 3,
                    ..task
                }
                .check(9)
                .is_err()
        );
    }
}
