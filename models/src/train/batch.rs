//! Sequences of one step, and the segments that they are cut into.

use std::ops::Range;

/// Sequences of one length with their targets, sequence by sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of sequences in the batch.
    pub sequences: usize,
    /// Tokens of each sequence.
    pub time: usize,
    /// What is read, `[sequences, time]`.
    pub ids: Vec<u32>,
    /// What is to be predicted after each token, `[sequences, time]`.
    pub targets: Vec<u32>,
    /// Weights of the targets in the loss, `[sequences, time]`; all 1 if there are none.
    pub weights: Option<Vec<f32>>,
    /// Whether a sequence goes on where the same row of the batch before ended.
    pub continues: Vec<bool>,
}

/// The same range of tokens of every sequence of a batch.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    batch: &'a Batch,
    range: Range<usize>,
}

impl Batch {
    /// The batch cut into segments of `length` tokens (at least 1), the last of them maybe shorter.
    pub fn segments(&self, length: usize) -> impl Iterator<Item = Segment<'_>> {
        let length = length.max(1);
        (0..self.time).step_by(length).map(move |start| Segment {
            batch: self,
            range: start..self.time.min(start + length),
        })
    }

    /// The same tokens of every sequence.
    pub(super) fn segment(&self, range: Range<usize>) -> Segment<'_> {
        Segment { batch: self, range }
    }

    /// The whole batch as one segment.
    pub fn whole(&self) -> Segment<'_> {
        Segment {
            batch: self,
            range: 0..self.time,
        }
    }
}

impl Segment<'_> {
    /// Number of sequences, which is that of the batch.
    pub fn sequences(&self) -> usize {
        self.batch.sequences
    }

    /// Tokens of each sequence in this segment.
    pub fn time(&self) -> usize {
        self.range.len()
    }

    /// What is read, `[sequences, time]`.
    pub fn ids(&self) -> Vec<u32> {
        self.rows(&self.batch.ids)
    }

    /// What is to be predicted, `[sequences, time]`.
    pub fn targets(&self) -> Vec<u32> {
        self.rows(&self.batch.targets)
    }

    /// Weights of the targets, `[sequences, time]`, if they are not all 1.
    pub fn weights(&self) -> Option<Vec<f32>> {
        self.batch.weights.as_ref().map(|weights| self.rows(weights))
    }

    fn rows<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let rows = values.chunks_exact(self.batch.time.max(1));
        rows.flat_map(|row| &row[self.range.clone()]).copied().collect()
    }
}
