//! Which rows of token tensors belong to which sequence.

use crate::error::{Error, Result};
use spillway_kernel_dsl::sequences;
use std::sync::Arc;

/// How sequences lie in tensors of tokens `[batch, time, …]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sequences {
    /// Every row of the batch is a sequence of `time` tokens.
    #[default]
    Equal,
    /// The first `padding[b]` tokens of sequence `b` are none: the state passes them unchanged, their outputs and gradients
    /// are 0, and what the inputs hold there does not matter.
    LeftPadded(Arc<[usize]>),
    /// One row of the batch holds all sequences end to end: sequence `b` is its tokens `offsets[b] .. offsets[b + 1]`.
    /// States have one entry per sequence.
    Packed(Arc<[usize]>),
}

impl Sequences {
    /// Left padding of this many tokens per sequence.
    pub fn left_padded(padding: impl Into<Arc<[usize]>>) -> Self {
        Self::LeftPadded(padding.into())
    }

    /// Sequences packed end to end; `offsets` begins with 0 and ends with the number of all tokens.
    pub fn packed(offsets: impl Into<Arc<[usize]>>) -> Self {
        Self::Packed(offsets.into())
    }

    /// The view that kernels take.
    pub(crate) fn view(&self) -> spillway_kernel_dsl::Sequences<'_> {
        match self {
            Self::Equal => sequences::Sequences::Equal,
            Self::LeftPadded(padding) => sequences::Sequences::LeftPadded(padding),
            Self::Packed(offsets) => sequences::Sequences::Packed(offsets),
        }
    }

    /// Number of sequences, that is, of states, in token tensors `[batch, time, …]`.
    ///
    /// # Errors
    /// [`Error::Sequences`] when paddings or offsets do not fit, [`Error::Shape`] when packed tokens come in several rows.
    pub fn count(&self, batch: usize, time: usize) -> Result<usize> {
        let count = match self {
            Self::Equal | Self::LeftPadded(_) => batch,
            Self::Packed(_) if batch != 1 => {
                return Err(Error::Shape {
                    what: "batch of packed sequences",
                    expected: vec![1],
                    found: vec![batch],
                });
            }
            Self::Packed(_) => self.count_in(batch),
        };
        self.view().validate(count, time)?;
        Ok(count)
    }

    /// As [`Self::count`], of sequences that have been validated.
    pub(crate) fn count_in(&self, batch: usize) -> usize {
        match self {
            Self::Equal | Self::LeftPadded(_) => batch,
            Self::Packed(offsets) => offsets.len().saturating_sub(1),
        }
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self, time: usize) -> usize {
        match self {
            Self::Equal => time,
            Self::LeftPadded(padding) => time - padding.iter().min().copied().unwrap_or(0).min(time),
            Self::Packed(offsets) => offsets
                .windows(2)
                .map(|pair| pair[1].saturating_sub(pair[0]))
                .max()
                .unwrap_or(0),
        }
    }
}
