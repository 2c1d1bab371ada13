//! Shapes of a selective scan, and every way in which they can be wrong.

use thiserror::Error;

#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, Error as DeviceError};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{ShapeError, all_fit};

/// The shape of a selective scan.
///
/// # Shapes
/// State `[batch, channels, state_dim]`, output `[batch, time, channels]`, both row-major. Channel `d` reads b and c of
/// group `d / (channels / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Number of independent sequences.
    pub batch: usize,
    /// Tokens of each sequence in this call, or of all together where they are packed; 0 leaves the state as it is.
    pub time: usize,
    /// Channels D, each with a state of its own.
    pub channels: usize,
    /// Values N in the state of a channel.
    pub state_dim: usize,
    /// Groups G of channels that share b and c; `channels` is a multiple of it.
    pub groups: usize,
}

operator! {
    "selective scan", Problem as problem, rows;
    /// What a selective scan reads, `rows` as [`Problem::rows`] says. On devices u, Δ, B, C, z and the output have one type; all
    /// gradients are f32.
    inputs<R, V> {
        /// Inputs u, `[rows, channels]`.
        input: Rows[rows, problem.channels],
        /// Δ, `[rows, channels]`, after its softplus.
        step_size: Rows[rows, problem.channels],
        /// A, `[channels, state_dim]`, negative.
        a: Values[problem.channels * problem.state_dim],
        /// Input vectors B_t of every group, `[rows, groups·state_dim]`.
        b: Rows[rows, problem.groups * problem.state_dim],
        /// Read-out vectors C_t of every group, `[rows, groups·state_dim]`.
        c: Rows[rows, problem.groups * problem.state_dim],
        /// D, `[channels]`: y_t += D∘u_t.
        skip: Option<Values>[problem.channels],
        /// z, `[rows, channels]`: y_t is multiplied by SiLU(z_t).
        gate: Option<Rows>[rows, problem.channels],
    }
    settings<'a> {
        /// Which rows belong to which sequence.
        sequences: Sequences<'a>,
    }
    /// What a selective scan gives.
    output<R> {
        /// Outputs, `[rows, channels]`: y, times SiLU(z) where there is a gate.
        out: Rows[rows, problem.channels],
    }
    /// h, `[batch, channels, state_dim]`.
    state[problem.state_len()]
}

/// Why a selective scan cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ScanError {
    /// The channels do not divide into the groups.
    #[error("{channels} channels do not divide into {groups} groups")]
    Groups {
        /// Number of channels in the problem.
        channels: usize,
        /// Number of groups in the problem.
        groups: usize,
    },
    /// The number of values of some operand does not fit into a `usize`.
    #[error("the problem {0:?} has more values than this machine can address")]
    TooLarge(Problem),
    /// The sequences do not lie as stated.
    #[error(transparent)]
    Sequences(#[from] SequencesError),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A step takes exactly one token.
    #[error("a step takes time = 1 token, found {found}")]
    NotOneToken {
        /// Tokens in the problem.
        found: usize,
    },
    /// The chunk holds no token.
    #[error("a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
    /// A value of A is positive or NaN, found by [`Problem::check_values`].
    #[error("a of channel {channel} and state value {index} needs to be 0 or less, found {found}")]
    AValue {
        /// Index of the channel.
        channel: usize,
        /// Index of the value in the channel's state.
        index: usize,
        /// Value of A that was given.
        found: f32,
    },
    /// A step size is negative or NaN, found by [`Problem::check_values`].
    #[error("step_size of row {row} and channel {channel} needs to be 0 or more, found {found}")]
    StepSizeValue {
        /// Row of the token.
        row: usize,
        /// Index of the channel.
        channel: usize,
        /// Step size Δ that was given.
        found: f32,
    },
}

impl Problem {
    /// Values of the state, `batch·channels·state_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.channels * self.state_dim
    }

    /// Rows of the views and of the output.
    pub fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// Values of the output, rows times channels.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        self.rows(sequences) * self.channels
    }

    /// Channels that share b and c.
    pub fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Checks every shape of a forward call.
    ///
    /// # Errors
    /// [`ScanError`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state: &[f32], out: &[f32]) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state.len())?;
        Ok(OPERATOR.values("out", self.out_len(&inputs.sequences), out.len())?)
    }

    /// Checks the sizes, the layout of the sequences and the inputs.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), ScanError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        Ok(self.expect_inputs(inputs, self.rows(&inputs.sequences))?)
    }

    /// Checks that the sizes divide and that no operand has more values than can be counted.
    pub(crate) fn validate_sizes(&self) -> Result<(), ScanError> {
        let Self {
            batch,
            time,
            channels,
            state_dim,
            groups,
        } = *self;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(ScanError::Groups { channels, groups });
        }
        let fits = all_fit(&[batch, channels, state_dim])
            && all_fit(&[batch, time, channels])
            && all_fit(&[batch, time, groups, state_dim]);
        match fits {
            true => Ok(()),
            false => Err(ScanError::TooLarge(*self)),
        }
    }

    /// Checks every shape of a backward call; `T` is the type of the gradients.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        let rows = self.rows(&inputs.sequences);
        Ok(self.expect_backward(inputs, initial_state_len, cotangents, gradients, rows)?)
    }

    /// Checks every shape and type of a call on a device.
    #[cfg(feature = "cube")]
    pub(super) fn validate_on_device(
        &self,
        inputs: &DeviceInputs,
        state: Option<&DeviceBuffer>,
        cotangents: Option<&DeviceCotangents>,
    ) -> Result<(), DeviceError> {
        self.validate_sizes().map_err(DeviceError::problem)?;
        inputs.sequences.validate(self.batch, self.time)?;
        let types = ElementTypes::all(inputs.dtype());
        self.expect_on_device(inputs, state, cotangents, types, self.rows(&inputs.sequences))
    }

    /// Checks that no value of A is positive or NaN and no step size of a token is negative or NaN: with such values
    /// states grow without bound or are lost. It costs a pass over both, so that no operator does it unasked.
    ///
    /// # Errors
    /// [`ScanError::AValue`] and [`ScanError::StepSizeValue`]; [`ScanError`] when a shape is wrong.
    pub fn check_values(&self, inputs: &Inputs) -> Result<(), ScanError> {
        self.validate_inputs(inputs)?;
        if let Some(at) = inputs.a.iter().position(|a| a.is_nan() || *a > 0.0) {
            return Err(ScanError::AValue {
                channel: at / self.state_dim,
                index: at % self.state_dim,
                found: inputs.a[at],
            });
        }
        for row in (0..self.batch).flat_map(|b| inputs.sequences.span(b, self.time)) {
            let steps = inputs.step_size.row(row);
            if let Some(channel) = steps.iter().position(|step| step.is_nan() || *step < 0.0) {
                return Err(ScanError::StepSizeValue {
                    row,
                    channel,
                    found: steps[channel],
                });
            }
        }
        Ok(())
    }
}
