//! Sequences of a text: windows in a shuffled order, or the documents one after the other.

use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::error::DataError;
use super::permutation::Permutation;
use super::seed::mix;
use super::stream::{Row, SequenceNumber, Sequences};

/// In which order a text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Windows that do not overlap, each once per epoch, in an order that differs from epoch to epoch; where the first of them
    /// begins differs, too.
    #[default]
    Shuffled,
    /// Every row of the batch reads on and on, beginning with its share of the text: what truncated back-propagation through
    /// time needs. The text is a ring: after its end comes its beginning.
    Documents,
}

/// The sequences of a text.
pub(super) struct Windows {
    corpus: Corpus,
    order: Order,
    time: u64,
    seed: u64,
}

impl Windows {
    /// Sequences of `time` tokens, at least 1 and fewer than the text has.
    pub(super) fn new(corpus: Corpus, order: Order, time: usize, seed: u64) -> Self {
        Self {
            corpus,
            order,
            time: time as u64,
            seed,
        }
    }

    /// Where a sequence starts.
    fn start(&self, sequence: SequenceNumber) -> u64 {
        match self.order {
            Order::Shuffled => self.shuffled(sequence.index()),
            Order::Documents => {
                let length = u128::from(self.corpus.len());
                let begin = sequence.row as u128 * length / sequence.rows as u128;
                // Below the length, which is an u64.
                ((begin + u128::from(sequence.number) * u128::from(self.time)) % length) as u64
            }
        }
    }

    /// An epoch has ⌊(n − T)/T⌋ windows, one fewer than fit, so that their grid can be shifted by up to T − 1 tokens; or 1.
    fn shuffled(&self, index: u64) -> u64 {
        let (length, time) = (self.corpus.len(), self.time);
        let windows = ((length - time) / time).max(1);
        let epoch = index / windows;
        let seed = mix(self.seed, 0, epoch);
        let shifts = (length - windows * time).min(time);
        let shift = mix(self.seed, 1, epoch) % shifts;
        shift + time * Permutation::new(windows, seed).at(index % windows)
    }
}

impl Sequences for Windows {
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        let start = self.start(sequence);
        self.corpus.read(start, row.ids)?;
        self.corpus.read(start + 1, row.targets)?;
        Ok(self.order == Order::Documents && sequence.number > 0)
    }

    fn vocab_size(&self) -> usize {
        self.corpus.vocab_size()
    }

    fn checksum(&self) -> u64 {
        mix(self.corpus.checksum(), self.corpus.len(), 0)
    }
}
