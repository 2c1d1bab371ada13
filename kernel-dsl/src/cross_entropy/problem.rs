//! Every way that logits, targets and losses can fail to fit.

use crate::Rows;
use thiserror::Error;

/// Why a cross-entropy cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CrossEntropyError {
    /// A buffer's length does not fit the logits.
    #[error("cross-entropy: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// One per row.
        expected: usize,
        /// Values that came.
        found: usize,
    },
    /// A target that no column stands for.
    #[error("cross-entropy: target {target} of row {row} is not one of the {classes} classes")]
    Target {
        /// The row.
        row: usize,
        /// Its target.
        target: u32,
        /// Columns of the logits.
        classes: usize,
    },
}

/// Checks the targets and the buffers that hold one value a row.
pub(super) fn validate(
    logits: &Rows,
    targets: &[u32],
    per_row: (&'static str, usize),
) -> Result<(), CrossEntropyError> {
    let (rows, classes) = (logits.rows(), logits.cols());
    check_length("the targets", rows, targets.len())?;
    check_length(per_row.0, rows, per_row.1)?;
    let mut indexed = targets.iter().enumerate();
    match indexed.find(|&(_, &target)| target as usize >= classes) {
        None => Ok(()),
        Some((row, &target)) => Err(CrossEntropyError::Target { row, target, classes }),
    }
}

pub(super) fn check_length(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), CrossEntropyError> {
    if expected == found {
        return Ok(());
    }
    Err(CrossEntropyError::Length {
        what,
        expected,
        found,
    })
}
