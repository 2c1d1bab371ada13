//! Which rows of the token views belong to which sequence: equal lengths, left padding, or packed end to end.
//!
//! Operators walk each sequence's own rows, so lengths need not agree and nothing is masked after the fact.

use std::ops::Range;

use thiserror::Error;

/// How `batch` sequences lie in the rows of a token view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sequences<'a> {
    /// Sequence `b` is the rows `b·time .. (b + 1)·time`.
    #[default]
    Equal,
    /// As [`Sequences::Equal`], but the first `padding[b]` rows of sequence `b` are no tokens: the state passes them
    /// unchanged, their outputs and gradients are 0, and what the inputs hold there does not matter.
    LeftPadded(&'a [usize]),
    /// Sequence `b` is the rows `offsets[b] .. offsets[b + 1]`. `offsets` has `batch + 1` values, begins at 0 and does not
    /// decrease; the `time` of the problem is the number of all rows, which is the last offset.
    Packed(&'a [usize]),
}

/// Why sequences cannot lie as stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SequencesError {
    /// Another number of paddings or offsets than sequences ask for.
    #[error("{batch} sequences need {expected} {what}, found {found}")]
    Count {
        /// Name of the values that are too many or too few: `paddings` or `offsets`.
        what: &'static str,
        /// Number of sequences in the problem.
        batch: usize,
        /// Values that it needs.
        expected: usize,
        /// Values that it has.
        found: usize,
    },
    /// More padding than rows.
    #[error("the padding of sequence {sequence} needs to be at most {time} rows, found {found}")]
    Padding {
        /// Index of the sequence.
        sequence: usize,
        /// Rows of every sequence.
        time: usize,
        /// Padding that was given, in rows.
        found: usize,
    },
    /// An offset lies before the one that it follows, or the first is not 0, or the last is not the number of rows.
    #[error("offset {index} needs to be {expected}, found {found}")]
    Offset {
        /// Index of the offset.
        index: usize,
        /// What the offset may be.
        expected: OffsetBound,
        /// Offset that was given.
        found: usize,
    },
}

/// What an offset of packed sequences may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetBound {
    /// Exactly this row.
    Exactly(usize),
    /// This row or a later one.
    AtLeast(usize),
}

impl std::fmt::Display for OffsetBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(value) => write!(f, "{value}"),
            Self::AtLeast(value) => write!(f, "at least {value}"),
        }
    }
}

impl Sequences<'_> {
    /// Rows that every token view needs for `batch` sequences at `time`.
    pub fn rows(&self, batch: usize, time: usize) -> usize {
        match self {
            Self::Equal | Self::LeftPadded(_) => batch * time,
            Self::Packed(_) => time,
        }
    }

    /// The rows of sequence `b`. Valid after [`Sequences::validate`].
    #[inline]
    pub fn span(&self, b: usize, time: usize) -> Range<usize> {
        match self {
            Self::Equal => b * time..(b + 1) * time,
            Self::LeftPadded(padding) => b * time + padding[b]..(b + 1) * time,
            Self::Packed(offsets) => offsets[b]..offsets[b + 1],
        }
    }

    /// The rows of every sequence, in order. Valid after [`Sequences::validate`].
    pub(crate) fn spans(&self, batch: usize, time: usize) -> Vec<Range<usize>> {
        (0..batch).map(|b| self.span(b, time)).collect()
    }

    /// Checks the number and the order of paddings or offsets.
    ///
    /// # Errors
    /// [`SequencesError`], naming the sequence or offset, what it needs to be and what it is.
    pub fn validate(&self, batch: usize, time: usize) -> Result<(), SequencesError> {
        match self {
            Self::Equal => Ok(()),
            Self::LeftPadded(padding) => {
                check_count("paddings", batch, batch, padding.len())?;
                match padding.iter().position(|&rows| rows > time) {
                    None => Ok(()),
                    Some(sequence) => Err(SequencesError::Padding {
                        sequence,
                        time,
                        found: padding[sequence],
                    }),
                }
            }
            Self::Packed(offsets) => {
                check_count("offsets", batch, batch + 1, offsets.len())?;
                check_offset(offsets, 0, OffsetBound::Exactly(0))?;
                for index in 1..offsets.len() {
                    check_offset(offsets, index, OffsetBound::AtLeast(offsets[index - 1]))?;
                }
                check_offset(offsets, batch, OffsetBound::Exactly(time))
            }
        }
    }
}

fn check_count(
    what: &'static str,
    batch: usize,
    expected: usize,
    found: usize,
) -> Result<(), SequencesError> {
    if expected == found {
        return Ok(());
    }
    Err(SequencesError::Count {
        what,
        batch,
        expected,
        found,
    })
}

fn check_offset(offsets: &[usize], index: usize, expected: OffsetBound) -> Result<(), SequencesError> {
    let found = offsets[index];
    let fits = match expected {
        OffsetBound::Exactly(value) => found == value,
        OffsetBound::AtLeast(value) => found >= value,
    };
    if fits {
        return Ok(());
    }
    Err(SequencesError::Offset {
        index,
        expected,
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_what_each_layout_says() {
        assert_eq!(Sequences::Equal.span(1, 3), 3..6);
        assert_eq!(Sequences::LeftPadded(&[0, 2]).span(1, 3), 5..6);
        assert_eq!(Sequences::Packed(&[0, 4, 4, 9]).span(1, 9), 4..4);
        assert_eq!(Sequences::Packed(&[0, 4, 4, 9]).rows(3, 9), 9);
    }

    #[test]
    fn paddings_and_offsets_that_do_not_fit_are_named() {
        let text = |sequences: Sequences, batch, time| {
            sequences
                .validate(batch, time)
                .expect_err("they do not fit")
                .to_string()
        };
        assert_eq!(
            text(Sequences::LeftPadded(&[0]), 2, 3),
            "2 sequences need 2 paddings, found 1"
        );
        assert_eq!(
            text(Sequences::LeftPadded(&[0, 4]), 2, 3),
            "the padding of sequence 1 needs to be at most 3 rows, found 4"
        );
        assert_eq!(
            text(Sequences::Packed(&[0, 3]), 2, 3),
            "2 sequences need 3 offsets, found 2"
        );
        assert_eq!(
            text(Sequences::Packed(&[1, 2, 3]), 2, 3),
            "offset 0 needs to be 0, found 1"
        );
        assert_eq!(
            text(Sequences::Packed(&[0, 2, 1]), 2, 3),
            "offset 2 needs to be at least 2, found 1"
        );
        assert_eq!(
            text(Sequences::Packed(&[0, 2, 4]), 2, 3),
            "offset 2 needs to be 3, found 4"
        );
    }
}
