//! Induction heads: what came after the marker?

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

const MARKER: u32 = 0;

/// Random tokens with a marker among them and the marker again at the end, where the token that followed the first one is to be
/// predicted. Only that target has a weight.
///
/// Source: Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023, 4.1.2 (there with 16 ids and
/// 256 tokens).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InductionHeads {
    /// Ids there are: 0 is the marker.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
}

fn vocab_size() -> usize {
    16
}

impl Default for InductionHeads {
    fn default() -> Self {
        Self {
            vocab_size: vocab_size(),
        }
    }
}

impl Task for InductionHeads {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.vocab_size < 3 || u32::try_from(self.vocab_size).is_err() {
            let expected = "3 to 2^32 - 1: a marker and at least two other tokens";
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        expect_time(time, 3, "two markers with a token between them")
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let mut tokens: Vec<u32> = (0..=time)
            .map(|_| rng.random_range(1..self.vocab_size as u32))
            .collect();
        let place = rng.random_range(0..time - 2);
        tokens[place] = MARKER;
        tokens[time - 1] = MARKER;
        tokens[time] = tokens[place + 1];
        let mut weights = vec![0.0; time];
        weights[time - 1] = 1.0;
        Example::next_token(&tokens, weights)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
