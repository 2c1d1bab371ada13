//! Sequences of different lengths, lying in rows in one of three ways.

use std::ops::Range;

use proptest::prelude::*;
use spillway_kernel_dsl::Sequences;

/// An owner of [`Sequences`].
#[derive(Clone, Debug)]
pub enum Layout {
    Equal,
    LeftPadded(Vec<usize>),
    Packed(Vec<usize>),
}

impl Layout {
    pub fn sequences(&self) -> Sequences<'_> {
        match self {
            Self::Equal => Sequences::Equal,
            Self::LeftPadded(padding) => Sequences::LeftPadded(padding),
            Self::Packed(offsets) => Sequences::Packed(offsets),
        }
    }

    /// The rows of each of `batch` sequences.
    pub fn spans(&self, batch: usize, time: usize) -> Vec<Range<usize>> {
        (0..batch).map(|b| self.sequences().span(b, time)).collect()
    }
}

/// Any layout of up to `batch - 1` sequences of up to `time - 1` tokens, with its batch and the `time` of its problem.
pub fn any_layout(batch: Range<usize>, time: Range<usize>) -> impl Strategy<Value = (Layout, usize, usize)> {
    let lengths = (batch, time).prop_flat_map(|(batch, time)| {
        let lengths = proptest::collection::vec(0..=time, batch);
        (Just(time), lengths, 0..3_u8)
    });
    lengths.prop_map(|(time, lengths, kind)| {
        let batch = lengths.len();
        match kind {
            0 => (Layout::Equal, batch, time),
            1 => (Layout::LeftPadded(lengths), batch, time),
            _ => {
                let ends = lengths.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                });
                let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
                let rows = offsets[batch];
                (Layout::Packed(offsets), batch, rows)
            }
        }
    })
}
