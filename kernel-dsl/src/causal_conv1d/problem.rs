//! Shapes of a causal convolution, and every way they can be wrong.

use crate::Rows;
use crate::sequences::{Sequences, SequencesError};
use thiserror::Error;

/// What is applied to each output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Tokens of each sequence; of all together when they are packed.
    pub time: usize,
    /// Channels, each convolved on its own.
    pub channels: usize,
    /// Taps W.
    pub width: usize,
    /// What is applied to each output.
    pub activation: Activation,
}

/// What a convolution reads.
///
/// # Shapes
/// `input` `[rows, channels]`, `weight` `[channels, width]`, `bias` `[channels]`; `rows` is `batch · time`, or `time` when the
/// sequences are packed.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// x.
    pub input: Rows<'a>,
    /// One tap a column; the last meets the current token.
    pub weight: &'a [f32],
    /// Added before the activation.
    pub bias: Option<&'a [f32]>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Derivatives of the loss by what a convolution gave.
///
/// # Shapes
/// `out` `[rows, channels]`, `state` `[batch, channels, width − 1]`.
#[derive(Clone, Copy, Debug)]
pub struct Cotangents<'a> {
    /// By the output.
    pub out: Rows<'a>,
    /// By the state after the last token; nothing where the loss does not see it.
    pub state: Option<&'a [f32]>,
}

/// Derivatives of the loss by what a convolution read: contiguous, each in the shape of its input, overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// By x.
    pub input: &'a mut [f32],
    /// By the taps.
    pub weight: &'a mut [f32],
    /// By the bias, where there is one and its gradient is wanted.
    pub bias: Option<&'a mut [f32]>,
    /// By the state before the first token.
    pub state: &'a mut [f32],
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
    /// Rows of a view do not fit the problem.
    #[error(
        "causal convolution: {what} needs {expected_rows} rows of {expected_cols}, found {rows} of {cols}"
    )]
    Rows {
        /// Input or cotangent.
        what: &'static str,
        /// Rows that the problem asks for.
        expected_rows: usize,
        /// channels.
        expected_cols: usize,
        /// Rows that came.
        rows: usize,
        /// Columns that came.
        cols: usize,
    },
    /// A gradient by a bias that is not there.
    #[error("causal convolution: the gradient of the bias needs a bias, found none")]
    NoBias,
    /// Sequences do not lie in the rows as stated.
    #[error("causal convolution: {0}")]
    Sequences(#[from] SequencesError),
}

impl Problem {
    /// Length of the state, `[batch, channels, width − 1]`.
    pub fn state_len(&self) -> usize {
        self.batch * self.channels * self.width.saturating_sub(1)
    }

    /// Length of the state of one sequence.
    pub(super) fn past_len(&self) -> usize {
        self.channels * (self.width - 1)
    }

    pub(super) fn validate(&self, inputs: &Inputs, state: usize, out: usize) -> Result<(), ConvError> {
        if self.width == 0 {
            return Err(ConvError::NoTaps);
        }
        inputs.sequences.validate(self.batch, self.time)?;
        let rows = inputs.sequences.rows(self.batch, self.time);
        self.check_rows("the input", &inputs.input, rows)?;
        let bias = inputs.bias.map_or(self.channels, <[f32]>::len);
        check_length("the weight", self.channels * self.width, inputs.weight.len())?;
        check_length("the bias", self.channels, bias)?;
        check_length("the state", self.state_len(), state)?;
        check_length("the output", rows * self.channels, out)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        state: usize,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), ConvError> {
        let rows = inputs.sequences.rows(self.batch, self.time);
        self.validate(inputs, state, rows * self.channels)?;
        self.check_rows("the cotangent of the output", &cotangents.out, rows)?;
        if let Some(state) = cotangents.state {
            check_length("the cotangent of the state", self.state_len(), state.len())?;
        }
        if gradients.bias.is_some() && inputs.bias.is_none() {
            return Err(ConvError::NoBias);
        }
        let bias = gradients.bias.as_ref().map_or(self.channels, |bias| bias.len());
        check_length(
            "the gradient of the input",
            rows * self.channels,
            gradients.input.len(),
        )?;
        check_length(
            "the gradient of the weight",
            inputs.weight.len(),
            gradients.weight.len(),
        )?;
        check_length("the gradient of the bias", self.channels, bias)?;
        check_length(
            "the gradient of the state",
            self.state_len(),
            gradients.state.len(),
        )
    }

    fn check_rows(&self, what: &'static str, view: &Rows, expected_rows: usize) -> Result<(), ConvError> {
        let (rows, cols, expected_cols) = (view.rows(), view.cols(), self.channels);
        if rows != expected_rows || (rows > 0 && cols != expected_cols) {
            return Err(ConvError::Rows {
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

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), ConvError> {
    if expected == found {
        return Ok(());
    }
    Err(ConvError::Length {
        what,
        expected,
        found,
    })
}
