//! Shapes of a WKV-4 recurrence, and every way in which they can be wrong.

use thiserror::Error;

#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, Error as DeviceError};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{ShapeError, all_fit};

/// Where the running maximum of a state begins: a state without tokens is (0, 0, this). Anything less, −∞ included, is
/// taken for this value, so that no difference of two maxima is NaN.
pub const EMPTY_MAX: f32 = -1e38;

/// The shape of a WKV-4 recurrence.
///
/// # Shapes
/// State `[batch, 3, channels]`: numerators, denominators (both divided by e^max) and maxima. Output
/// `[batch, time, channels]`. Both row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Number of independent sequences.
    pub batch: usize,
    /// Tokens of each sequence in this call, or of all together where they are packed; 0 leaves the state as it is.
    pub time: usize,
    /// Channels, each with a state of its own.
    pub channels: usize,
}

operator! {
    "WKV-4", Problem as problem, rows;
    /// What a WKV-4 recurrence reads, `rows` as [`Problem::rows`] says. On devices k, v and the output have one type; all gradients
    /// are f32.
    inputs<R, V> {
        /// k, `[rows, channels]`; −∞ hides a token.
        key: Rows[rows, problem.channels],
        /// Values v, `[rows, channels]`.
        value: Rows[rows, problem.channels],
        /// w, `[channels]`: 0 or less, the logarithm of the decay. Models store time_decay, with w = −exp(time_decay).
        log_decay: Values[problem.channels],
        /// u, `[channels]`: added to the key of the present token. Models call it time_first.
        bonus: Values[problem.channels],
    }
    settings<'a> {
        /// Which rows belong to which sequence.
        sequences: Sequences<'a>,
    }
    /// What a WKV-4 recurrence gives.
    output<R> {
        /// Outputs o, `[rows, channels]`.
        out: Rows[rows, problem.channels],
    }
    /// Numerators, denominators (both divided by e^max) and maxima, `[batch, 3, channels]`.
    state[problem.state_len()]
}

/// Why a WKV-4 recurrence cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum Wkv4Error {
    /// The number of values of some operand does not fit into a `usize`.
    #[error("the problem {0:?} has more values than this machine can address")]
    TooLarge(Problem),
    /// The sequences do not lie as stated.
    #[error(transparent)]
    Sequences(#[from] SequencesError),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A log decay is positive or NaN.
    #[error("log_decay of channel {channel} needs to be 0 or less, found {found}")]
    LogDecayValue {
        /// Index of the channel.
        channel: usize,
        /// Log decay w that was given.
        found: f32,
    },
    /// A step takes exactly one token.
    #[error("a step takes time = 1 token, found {found}")]
    NotOneToken {
        /// Tokens in the problem.
        found: usize,
    },
    /// The chunk holds no token.
    #[error("a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
}

impl Problem {
    /// Values of the state, `batch·3·channels`.
    pub fn state_len(&self) -> usize {
        self.batch * 3 * self.channels
    }

    /// Rows of the views and of the output.
    pub fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// Values of the output, rows times channels.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        self.rows(sequences) * self.channels
    }

    /// A state that has seen no token: zeros, with maxima of [`EMPTY_MAX`].
    pub fn empty_state(&self) -> Vec<f32> {
        let mut state = vec![0.0; self.state_len()];
        if self.channels > 0 {
            let maxima = state.chunks_exact_mut(self.channels).skip(2).step_by(3);
            maxima.for_each(|max| max.fill(EMPTY_MAX));
        }
        state
    }

    /// Checks every shape of a forward call, and the log decays.
    ///
    /// # Errors
    /// [`Wkv4Error`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state: &[f32], out: &[f32]) -> Result<(), Wkv4Error> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state.len())?;
        Ok(OPERATOR.values("out", self.out_len(&inputs.sequences), out.len())?)
    }

    /// Checks the sizes, the layout of the sequences and the inputs.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), Wkv4Error> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        self.expect_inputs(inputs, self.rows(&inputs.sequences))?;
        // There is one per channel, not one per token, so that looking at all of them costs next to nothing.
        match inputs.log_decay.iter().position(|w| w.is_nan() || *w > 0.0) {
            Some(channel) => Err(Wkv4Error::LogDecayValue {
                channel,
                found: inputs.log_decay[channel],
            }),
            None => Ok(()),
        }
    }

    /// Checks that no operand has more values than can be counted.
    pub(crate) fn validate_sizes(&self) -> Result<(), Wkv4Error> {
        let Self {
            batch,
            time,
            channels,
        } = *self;
        match all_fit(&[batch, time, channels]) && all_fit(&[batch, 3, channels]) {
            true => Ok(()),
            false => Err(Wkv4Error::TooLarge(*self)),
        }
    }

    /// Checks every shape of a backward call; `T` is the type of the gradients.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), Wkv4Error> {
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
}
