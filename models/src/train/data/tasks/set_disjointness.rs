//! Set disjointness: two lists, one element in both; which?
//!
//! ```text
//! 1 A 2 B 3 → the shared element            |A| and |B| drawn from a list of sizes, each pair of sizes as often
//! ```
//!
//! Ids 0 to 3 are filler and marks. The other ids are permuted, A is drawn from the first half of the vocabulary so permuted and B from the rest, both
//! without replacement, and then one element of A takes the place of one of B. What is shorter than the sequence stands at its end, after
//! filler. A memory that knows only what came before must hold the first list, whichever is shorter; whoever answers with any member of
//! the shorter list is right in 1/min(|A|, |B|). Source: Arora et al., *Just read twice* (2407.05483), section 3 and appendix on the synthetic.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::super::error::DataError;
use super::{Example, Task, expect_time};

const FILLER: u32 = 0;
const BEFORE_FIRST: u32 = 1;
const BEFORE_SECOND: u32 = 2;
const BEFORE_ANSWER: u32 = 3;
const MARKS: usize = 4;

/// Two lists and what they share. Only the last target has a weight.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SetDisjointness {
    /// Sizes of the first and of the second list; a pair of them is drawn for every sequence.
    pub sizes: Vec<(usize, usize)>,
    /// Vocabulary size, with ids 0 to 3 for filler and marks.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
}

fn vocab_size() -> usize {
    2048
}

impl SetDisjointness {
    /// The task with these sizes.
    pub fn new(sizes: Vec<(usize, usize)>) -> Self {
        Self {
            sizes,
            vocab_size: vocab_size(),
        }
    }
}

impl Task for SetDisjointness {
    fn check(&self, time: usize) -> Result<(), DataError> {
        if self.sizes.is_empty() || self.sizes.iter().any(|(a, b)| *a == 0 || *b == 0) {
            let expected = "at least one pair of sizes, each at least 1";
            return Err(DataError::option("sizes", expected, format!("{:?}", self.sizes)));
        }
        let half = self.vocab_size / 2;
        let (longest_a, longest_b) = self.sizes.iter().fold((0, 0), |(most_a, most_b), (a, b)| {
            (most_a.max(*a), most_b.max(*b))
        });
        if half < longest_a
            || self.vocab_size.saturating_sub(half + MARKS) < longest_b
            || u32::try_from(self.vocab_size).is_err()
        {
            let expected =
                format!("ids for lists of {longest_a} and {longest_b} from a half each, and {MARKS} marks");
            return Err(DataError::option("vocab_size", expected, self.vocab_size));
        }
        let longest = self
            .sizes
            .iter()
            .map(|(a, b)| a.saturating_add(*b))
            .max()
            .unwrap_or(0);
        expect_time(
            time,
            longest.saturating_add(3),
            "the longest lists and three marks",
        )
    }

    fn example(&self, time: usize, rng: &mut StdRng) -> Example {
        let (a, b) = self.sizes[rng.random_range(0..self.sizes.len())];
        let mut ids: Vec<u32> = (MARKS as u32..self.vocab_size as u32).collect();
        ids.shuffle(rng);
        let (first, second) = ids.split_at(self.vocab_size / 2);
        let (first, mut second) = (first[..a].to_vec(), second[..b].to_vec());
        let shared = first[rng.random_range(0..a)];
        second[rng.random_range(0..b)] = shared;
        let mut tokens = vec![FILLER; time - (a + b + 3)];
        tokens.push(BEFORE_FIRST);
        tokens.extend(first);
        tokens.push(BEFORE_SECOND);
        tokens.extend(second);
        tokens.extend([BEFORE_ANSWER, shared]);
        let mut weights = vec![0.0; time];
        weights[time - 1] = 1.0;
        Example::next_token(&tokens, weights)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
