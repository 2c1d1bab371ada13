//! Parts of a mixture that are not texts: runs of one token, and texts that end as they began.

use rand::Rng;

use super::error::DataError;
use super::seed::generator;
use super::stream::{Row, SequenceNumber, Sequences};

/// Sequences of one token.
pub(super) struct Repeat(pub(super) u32);

impl Sequences for Repeat {
    fn fill(&self, _: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        row.ids.fill(self.0);
        row.targets.fill(self.0);
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.0 as usize + 1
    }
}

/// Sequences that end as they began.
pub(super) struct RepeatedHeader {
    source: Box<dyn Sequences>,
    length: usize,
    marker: u32,
    seed: u64,
}

impl RepeatedHeader {
    /// Around the sequences of `source`, of `time` tokens each.
    ///
    /// # Errors
    /// [`DataError::Option`] for an empty header, one that leaves no text between its two copies, or a vocabulary of one token.
    pub(super) fn new(
        source: Box<dyn Sequences>,
        length: usize,
        marker: u32,
        time: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        if length == 0 {
            return Err(DataError::option("length", "at least 1 token of header", length));
        }
        let least = length.saturating_mul(2).saturating_add(2);
        if time < least {
            let expected = format!("at least {least} tokens for two headers of {length} and some text");
            return Err(DataError::option("time", expected, time));
        }
        let vocab_size = source.vocab_size();
        if vocab_size < 2 {
            return Err(DataError::option(
                "source",
                "a vocabulary of at least 2 tokens",
                vocab_size,
            ));
        }
        Ok(Self {
            source,
            length,
            marker,
            seed,
        })
    }
}

impl Sequences for RepeatedHeader {
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        self.source.fill(sequence, row)?;
        let mut rng = generator(self.seed, sequence.index(), 0);
        // The marker is left out by moving the ids above it down and back.
        let others =
            self.source.vocab_size() as u32 - u32::from((self.marker as usize) < self.source.vocab_size());
        let draw = |_| {
            let id = rng.random_range(0..others);
            id + u32::from(id >= self.marker)
        };
        let header: Vec<u32> = std::iter::once(self.marker)
            .chain((0..self.length).map(draw))
            .collect();
        let (time, size) = (row.ids.len(), header.len());
        row.ids[..size].copy_from_slice(&header);
        row.targets[..size - 1].copy_from_slice(&header[1..]);
        row.targets[time - size..].copy_from_slice(&header);
        row.ids[time - size + 1..].copy_from_slice(&header[..size - 1]);
        if let Some(weights) = row.weights.get_mut(..self.length) {
            weights.fill(0.0);
        }
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.source.vocab_size().max(self.marker as usize + 1)
    }

    fn is_weighted(&self) -> bool {
        true
    }

    fn checksum(&self) -> u64 {
        self.source.checksum()
    }
}
