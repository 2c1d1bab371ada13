//! Shapes of a causal convolution, and every way they can be wrong.

use crate::Rows;
use thiserror::Error;

/// What is applied to each output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// SiLU(y) = y σ(y).
    Silu,
}

/// Shape of a causal convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence.
    pub time: usize,
    /// Channels, each convolved on its own.
    pub channels: usize,
    /// Taps W.
    pub width: usize,
    /// What is applied to each output.
    pub activation: Activation,
}

/// Why a convolution cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConvError {
    /// A convolution without taps.
    #[error("a causal convolution needs a width of at least 1, found 0")]
    NoTaps,
    /// A buffer's length does not fit the problem.
    #[error("causal convolution: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values that the problem asks for.
        expected: usize,
        /// Values that came.
        found: usize,
    },
    /// The input rows do not fit the problem.
    #[error(
        "causal convolution: the input needs {expected_rows} rows of {expected_cols}, found {rows} of {cols}"
    )]
    Input {
        /// batch · time.
        expected_rows: usize,
        /// channels.
        expected_cols: usize,
        /// Rows that came.
        rows: usize,
        /// Columns that came.
        cols: usize,
    },
}

impl Problem {
    /// Length of the state, `[batch, channels, width − 1]`.
    pub fn state_len(&self) -> usize {
        self.batch * self.channels * self.width.saturating_sub(1)
    }

    pub(super) fn validate(
        &self,
        x: &Rows,
        weight: usize,
        bias: Option<usize>,
        state: usize,
        out: usize,
    ) -> Result<(), ConvError> {
        if self.width == 0 {
            return Err(ConvError::NoTaps);
        }
        let (rows, cols) = (x.rows(), x.cols());
        let (expected_rows, expected_cols) = (self.batch * self.time, self.channels);
        if rows != expected_rows || (rows > 0 && cols != expected_cols) {
            return Err(ConvError::Input {
                expected_rows,
                expected_cols,
                rows,
                cols,
            });
        }
        let lengths = [
            ("the weight", self.channels * self.width, weight),
            ("the bias", self.channels, bias.unwrap_or(self.channels)),
            ("the state", self.state_len(), state),
            ("the output", expected_rows * expected_cols, out),
        ];
        for (what, expected, found) in lengths {
            if expected != found {
                return Err(ConvError::Length {
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}
