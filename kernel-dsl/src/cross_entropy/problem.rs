//! Every way that logits, targets and losses can fail to fit.

use crate::Rows;
use crate::shape::{Operator, ShapeError};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("cross-entropy");

/// Why a cross-entropy cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CrossEntropyError {
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
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

/// Checks the targets.
pub(super) fn validate(logits: &Rows, targets: &[u32]) -> Result<(), CrossEntropyError> {
    let (rows, classes) = (logits.rows(), logits.cols());
    OPERATOR.values("targets", rows, targets.len())?;
    let mut indexed = targets.iter().enumerate();
    match indexed.find(|&(_, &target)| target as usize >= classes) {
        None => Ok(()),
        Some((row, &target)) => Err(CrossEntropyError::Target { row, target, classes }),
    }
}
