//! Shapes of a norm, and every way they can be wrong.

use crate::Rows;
use thiserror::Error;

/// Whether the gate is applied before or after the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOrder {
    /// norm(x ∘ SiLU(z)): what Mamba-2's checkpoints use.
    NormAfterGate,
    /// norm(x) ∘ SiLU(z).
    NormBeforeGate,
}

/// Shape of a norm over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Rows, each normalised on its own.
    pub rows: usize,
    /// Values in a row.
    pub features: usize,
    /// Neighbouring features that share one mean square; divides `features`.
    pub group_size: usize,
    /// ε, added to the mean square.
    pub eps: f32,
    /// Where the gate is applied, if there is one.
    pub order: GateOrder,
}

/// Why a norm cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum NormError {
    /// Groups do not divide the features.
    #[error("a norm of {features} features cannot be taken in groups of {group_size}")]
    Groups {
        /// Values in a row.
        features: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// ε is negative or not a number.
    #[error("a norm needs ε ≥ 0, found {0}")]
    Epsilon(f32),
    /// Rows do not fit the problem.
    #[error("norm: {what} needs {expected_rows} rows of {expected_cols}, found {rows} of {cols}")]
    Rows {
        /// Input or gate.
        what: &'static str,
        /// Rows that the problem asks for.
        expected_rows: usize,
        /// Features that the problem asks for.
        expected_cols: usize,
        /// Rows that came.
        rows: usize,
        /// Columns that came.
        cols: usize,
    },
    /// A buffer's length does not fit the problem.
    #[error("norm: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values that the problem asks for.
        expected: usize,
        /// Values that came.
        found: usize,
    },
}

impl Problem {
    pub(super) fn validate(&self, x: &Rows, gate: Option<&Rows>) -> Result<(), NormError> {
        let Self {
            features,
            group_size,
            eps,
            ..
        } = *self;
        if group_size == 0 || !features.is_multiple_of(group_size) {
            return Err(NormError::Groups { features, group_size });
        }
        if eps.is_nan() || eps < 0.0 {
            return Err(NormError::Epsilon(eps));
        }
        self.check_rows("the input", x)?;
        gate.map_or(Ok(()), |gate| self.check_rows("the gate", gate))
    }

    fn check_rows(&self, what: &'static str, view: &Rows) -> Result<(), NormError> {
        let (rows, cols) = (view.rows(), view.cols());
        let (expected_rows, expected_cols) = (self.rows, self.features);
        if rows != expected_rows || (rows > 0 && cols != expected_cols) {
            return Err(NormError::Rows {
                what,
                expected_rows,
                expected_cols,
                rows,
                cols,
            });
        }
        Ok(())
    }
}

pub(super) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), NormError> {
    if expected == found {
        return Ok(());
    }
    Err(NormError::Length {
        what,
        expected,
        found,
    })
}
