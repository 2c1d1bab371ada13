//! Copying: a random block and the same block again.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

/// The token between the block and its copy.
const DELIMITER: u32 = 0;

/// A random block of ⌊T/2⌋ tokens, a delimiter, and the block again. What has to be kept grows with the length of the sequence, so
/// that the load of a state is known exactly.
///
/// The targets in the copy weigh 1, all others 0. At an odd T one more delimiter follows, of weight 0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CopyTask {
    /// Ids there are: 0 is the delimiter, the others stand in the block with equal probability.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
}

fn vocab_size() -> usize {
    64
}

impl Default for CopyTask {
    fn default() -> Self {
        Self {
            vocab_size: vocab_size(),
        }
    }
}

impl Task for CopyTask {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.vocab_size < 3 || u32::try_from(self.vocab_size).is_err() {
            let expected = "3 to 2^32 - 1: a delimiter and at least two tokens to copy";
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        expect_time(time, 2, "a block of one token and its copy")
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let half = time / 2;
        let block: Vec<u32> = (0..half)
            .map(|_| rng.random_range(1..self.vocab_size as u32))
            .collect();
        let mut tokens = block.clone();
        tokens.push(DELIMITER);
        tokens.extend(block);
        tokens.resize(time + 1, DELIMITER);
        let mut weights = vec![0.0; time];
        weights[half..2 * half].fill(1.0);
        Example::next_token(&tokens, weights)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
