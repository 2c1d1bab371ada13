//! What the convolution reads and gives on a device, validated before anything is launched.

use crate::causal_conv1d::problem::OPERATOR;
use crate::causal_conv1d::{ConvError, Problem};
use crate::cube::{DType, DeviceBuffer, DeviceRows, Error, expect_state};
use crate::sequences::Sequences;

/// What a convolution reads on a device; as [`Inputs`](crate::causal_conv1d::Inputs). Weight and bias are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// x, `[rows, channels]`.
    pub input: DeviceRows,
    /// `[channels, width]`; the last tap meets the current token.
    pub weight: DeviceBuffer,
    /// `[channels]`, added before the activation.
    pub bias: Option<DeviceBuffer>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Derivatives of the loss by what a convolution read.
#[derive(Clone, Debug)]
pub struct DeviceGradients {
    /// By x, `[rows, channels]`, in the type of the input. Rows of padding get 0.
    pub input: DeviceBuffer,
    /// By the taps, `[channels, width]` in f32.
    pub weight: DeviceBuffer,
    /// By the bias, `[channels]` in f32, whether there is one or not.
    pub bias: DeviceBuffer,
    /// By the initial state, `[batch, channels, width − 1]` in f32.
    pub state: DeviceBuffer,
}

impl DeviceInputs<'_> {
    /// Checks every shape and type.
    ///
    /// # Errors
    /// [`Error`], naming the argument, what it needs and what it has.
    pub fn validate(&self, problem: &Problem, state: Option<&DeviceBuffer>) -> Result<(), Error> {
        if problem.width == 0 {
            return Err(Error::problem(ConvError::NoTaps));
        }
        self.sequences.validate(problem.batch, problem.time)?;
        let shape = (self.rows(problem), problem.channels);
        OPERATOR.device_rows("input", shape, self.input.dtype(), &self.input)?;
        let weights = problem.channels * problem.width;
        OPERATOR.device_values("weight", (weights, DType::F32), &self.weight)?;
        if let Some(bias) = &self.bias {
            OPERATOR.device_values("bias", (problem.channels, DType::F32), bias)?;
        }
        expect_state(OPERATOR, problem.state_len(), state)
    }

    /// Rows of the input.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }
}
