//! Sequences in every layout, for tests that draw one.

use proptest::prelude::*;
use spillway_kernel_dsl::Sequences;

/// A layout that owns its table.
#[derive(Clone, Debug)]
pub enum Layout {
    /// Sequences of the same length.
    Equal,
    /// Rows of padding before each sequence.
    LeftPadded(Vec<usize>),
    /// Offsets of sequences that lie end to end.
    Packed(Vec<usize>),
}

impl Layout {
    /// The layout as operators take it.
    pub fn sequences(&self) -> Sequences<'_> {
        match self {
            Self::Equal => Sequences::Equal,
            Self::LeftPadded(padding) => Sequences::LeftPadded(padding),
            Self::Packed(offsets) => Sequences::Packed(offsets),
        }
    }

    /// The `time` that a problem states: that of one sequence, or the number of all rows when they are packed.
    pub fn time(&self, time: usize) -> usize {
        match self {
            Self::Equal | Self::LeftPadded(_) => time,
            Self::Packed(offsets) => offsets.last().copied().unwrap_or(0),
        }
    }
}

/// Any layout of `batch` sequences of up to `time` tokens, empty ones among them.
pub fn any_layout(batch: usize, time: usize) -> impl Strategy<Value = Layout> {
    let lengths = || proptest::collection::vec(0..=time, batch);
    prop_oneof![
        Just(Layout::Equal),
        lengths().prop_map(Layout::LeftPadded),
        lengths().prop_map(|lengths| {
            let mut offsets = vec![0];
            for length in lengths {
                offsets.push(offsets[offsets.len() - 1] + length);
            }
            Layout::Packed(offsets)
        }),
    ]
}
