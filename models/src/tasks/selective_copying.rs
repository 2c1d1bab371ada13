//! Tokens at random places, and the same tokens again.

use rand::rngs::StdRng;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use super::copying;
use super::{Example, Item, Shape, Task, TaskError};

/// M tokens at random places among blanks, in their order, then M markers, at which they are answered in that order. A sequence of T
/// steps has T − M places.
///
/// What stands before a token does not say when it was read, so that no fixed convolution can solve it: what is kept must depend on what
/// is read. Tokens are drawn from 1 to A − 2 with equal probability; 0 is the blank, A − 1 the marker. Source: Gu and Dao, *Mamba*
/// (2312.00752), section 3.1.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveCopying {
    /// Number M of tokens that are to be copied.
    #[serde(default = "copying::tokens")]
    pub tokens: usize,
    /// Vocabulary size A, blank and marker included.
    #[serde(default = "copying::vocab_size")]
    pub vocab_size: usize,
}

impl Task for SelectiveCopying {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        copying::check(self.tokens, self.vocab_size, length)
    }

    fn shape(&self) -> Shape {
        copying::shape(self.vocab_size)
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let tokens = copying::drawn(self.tokens, self.vocab_size, rng);
        let mut places = index::sample(rng, length - self.tokens, self.tokens).into_vec();
        places.sort_unstable();
        copying::example(length, &tokens, &places, tokens.clone(), self.vocab_size)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::tasks::{Answers, Sequence};

    #[test]
    fn the_answers_are_the_tokens_without_the_blanks_wherever_they_stood() {
        let task = SelectiveCopying {
            tokens: 4,
            vocab_size: 12,
        };
        let mut places = [0; 16];
        for seed in 0..200 {
            let example = task.example(20, Item::training(0), &mut StdRng::seed_from_u64(seed));
            let (Sequence::Tokens(inputs), Answers::Classes(answers)) = (&example.inputs, &example.answers)
            else {
                panic!("tokens");
            };
            let tokens: Vec<u32> = inputs[..16].iter().copied().filter(|token| *token != 0).collect();
            assert_eq!(answers[16..], tokens);
            assert!(tokens.iter().all(|token| (1..11).contains(token)));
            for (place, token) in inputs[..16].iter().enumerate() {
                places[place] += usize::from(*token != 0);
            }
        }
        // Each of 16 places in a quarter of 200 sequences: 50, with a standard deviation of 6.
        assert!(places.iter().all(|count| (25..75).contains(count)), "{places:?}");
    }
}
