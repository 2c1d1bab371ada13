//! Shapes of a causal convolution, and every way they can be wrong.

#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, Error as DeviceError};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::ShapeError;
use thiserror::Error;

/// What is applied to each output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// No activation: act(y) = y.
    None,
    /// SiLU(y) = y σ(y).
    Silu,
}

/// Shape of a causal convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each sequence; of all together when they are packed.
    pub time: usize,
    /// Channels, each convolved on its own.
    pub channels: usize,
    /// W, the number of taps of a channel.
    pub width: usize,
    /// What is applied to each output.
    pub activation: Activation,
}

operator! {
    "causal convolution", Problem as problem, rows;
    /// What a convolution reads; `rows` is `batch · time`, or `time` when the sequences are packed.
    inputs<R, V> {
        /// x, `[rows, channels]`. Rows of padding get gradient 0.
        input: Rows[rows, problem.channels],
        /// Taps of every channel, `[channels, width]`, one tap a column; the last meets the current token.
        weight: Values[problem.channels * problem.width],
        /// Added before the activation, `[channels]`.
        bias: Option<Values>[problem.channels],
    }
    settings<'a> {
        /// Which rows belong to which sequence.
        sequences: Sequences<'a>,
    }
    /// What a convolution gives.
    output<R> {
        /// Outputs y, `[rows, channels]`.
        out: Rows[rows, problem.channels],
    }
    /// The last `width − 1` inputs of every sequence, `[batch, channels, width − 1]`, oldest first.
    state[problem.state_len()]
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

    /// Rows of the input and of the output.
    pub(super) fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    fn validate_sizes(&self) -> Result<(), ConvError> {
        match self.width {
            0 => Err(ConvError::NoTaps),
            _ => Ok(()),
        }
    }

    fn validate_inputs(&self, inputs: &Inputs) -> Result<(), ConvError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        Ok(self.expect_inputs(inputs, self.rows(&inputs.sequences))?)
    }

    pub(super) fn validate(&self, inputs: &Inputs, state: usize, out: usize) -> Result<(), ConvError> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state)?;
        Ok(OPERATOR.values("out", self.rows(&inputs.sequences) * self.channels, out)?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        state: usize,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), ConvError> {
        self.validate_inputs(inputs)?;
        let rows = self.rows(&inputs.sequences);
        Ok(self.expect_backward(inputs, state, cotangents, gradients, rows)?)
    }

    #[cfg(feature = "cube")]
    pub(super) fn validate_on_device(
        &self,
        inputs: &DeviceInputs,
        state: Option<&DeviceBuffer>,
        cotangents: Option<&DeviceCotangents>,
    ) -> Result<(), DeviceError> {
        self.validate_sizes().map_err(DeviceError::problem)?;
        inputs.sequences.validate(self.batch, self.time)?;
        let types = ElementTypes::all(inputs.input.dtype());
        self.expect_on_device(inputs, state, cotangents, types, self.rows(&inputs.sequences))
    }
}
