//! Shapes of a causal convolution, and every way they can be wrong.

use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Operator, ShapeError};
use crate::{Cotangents, Rows};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("causal convolution");

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
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
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
        let bias = inputs.bias.map_or(self.channels, <[f32]>::len);
        OPERATOR.rows("input", (rows, self.channels), &inputs.input)?;
        OPERATOR.values("weight", self.channels * self.width, inputs.weight.len())?;
        OPERATOR.values("bias", self.channels, bias)?;
        OPERATOR.values("state", self.state_len(), state)?;
        Ok(OPERATOR.values("out", rows * self.channels, out)?)
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
        cotangents.validate(OPERATOR, (rows, self.channels), self.state_len())?;
        OPERATOR.gradient("input", rows * self.channels, gradients.input)?;
        OPERATOR.gradient("weight", inputs.weight.len(), gradients.weight)?;
        let bias = inputs.bias.map(<[f32]>::len);
        OPERATOR.optional_gradient("bias", bias, gradients.bias.as_deref())?;
        Ok(OPERATOR.gradient("state", self.state_len(), gradients.state)?)
    }
}
