//! Logits and losses, and every way that they and the targets can fail to fit.

use crate::operands::operator;
use crate::shape::ShapeError;
use thiserror::Error;

/// The shape of the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Rows, each with a target.
    pub rows: usize,
    /// Values of a row.
    pub classes: usize,
}

operator! {
    "cross-entropy", Problem as problem;
    /// What a cross-entropy reads beside the targets.
    inputs<R> {
        /// x, `[rows, classes]`; view fewer columns of a padded vocabulary.
        logits: Rows[problem.rows, problem.classes],
    }
    /// What a cross-entropy gives, in f32 on every device.
    output<V> {
        /// Loss of every row, −log softmax(x)\[target\], `[rows]`.
        loss: Values[problem.rows],
    }
}

/// Why a cross-entropy cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CrossEntropyError {
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A target that no column stands for.
    #[error("cross-entropy: target {target} of row {row} is not one of the {classes} classes")]
    Target {
        /// Index of the row.
        row: usize,
        /// Target that was given for the row.
        target: u32,
        /// Columns of the logits.
        classes: usize,
    },
}

impl Problem {
    /// Checks that every row has a target, and that it is one of the classes.
    pub(super) fn validate(&self, targets: &[u32]) -> Result<(), CrossEntropyError> {
        let Self { rows, classes } = *self;
        OPERATOR.values("targets", rows, targets.len())?;
        let mut indexed = targets.iter().enumerate();
        match indexed.find(|&(_, &target)| target as usize >= classes) {
            None => Ok(()),
            Some((row, &target)) => Err(CrossEntropyError::Target { row, target, classes }),
        }
    }
}
