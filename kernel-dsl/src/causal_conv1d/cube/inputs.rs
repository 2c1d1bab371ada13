//! What the convolution reads and gives on a device, validated before anything is launched.

use crate::causal_conv1d::{ConvError, Problem};
use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
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
        self.input.expect("input", self.rows(problem), problem.channels)?;
        self.weight
            .expect("weight", problem.channels * problem.width, DType::F32)?;
        if let Some(bias) = &self.bias {
            bias.expect("bias", problem.channels, DType::F32)?;
        }
        state.map_or(Ok(()), |state| {
            state.expect("state", problem.state_len(), DType::F32)
        })
    }

    /// Rows of the input.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }
}
