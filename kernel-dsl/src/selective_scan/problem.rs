//! Shapes of a selective scan, and every way in which they can be wrong.

use thiserror::Error;

use crate::Cotangents;
use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Operator, ShapeError, all_fit};

pub(super) const OPERATOR: Operator = Operator("selective scan");

/// The shape of a selective scan.
///
/// # Shapes
/// State `[batch, channels, state_dim]`, output `[batch, time, channels]`, both row-major. Channel `d` reads b and c of
/// group `d / (channels / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Independent sequences.
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

/// What a selective scan reads. Every [`Rows`] has as many rows as [`Problem::rows`] says.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// u, `channels` columns.
    pub input: Rows<'a>,
    /// Δ, `channels` columns, after its softplus.
    pub step_size: Rows<'a>,
    /// A, `[channels, state_dim]`, negative.
    pub a: &'a [f32],
    /// B, `groups·state_dim` columns.
    pub b: Rows<'a>,
    /// C, `groups·state_dim` columns.
    pub c: Rows<'a>,
    /// D, `[channels]`: y_t += D∘u_t.
    pub skip: Option<&'a [f32]>,
    /// z, `channels` columns: y_t is multiplied by SiLU(z_t).
    pub gate: Option<Rows<'a>>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Where the gradients of the inputs go: contiguous buffers of each input's shape, overwritten.
///
/// `T` is f32, or f64 for [`reference::backward`](crate::selective_scan::reference::backward).
#[derive(Debug)]
pub struct Gradients<'a, T = f32> {
    /// Of u, `[rows, channels]`.
    pub input: &'a mut [T],
    /// Of Δ, `[rows, channels]`.
    pub step_size: &'a mut [T],
    /// Of A, `[channels, state_dim]`.
    pub a: &'a mut [T],
    /// Of B, `[rows, groups·state_dim]`.
    pub b: &'a mut [T],
    /// Of C, `[rows, groups·state_dim]`.
    pub c: &'a mut [T],
    /// Of D, `[channels]`; `None` where it is not wanted or there is no skip.
    pub skip: Option<&'a mut [T]>,
    /// Of z, `[rows, channels]`; `None` where it is not wanted or there is no gate.
    pub gate: Option<&'a mut [T]>,
    /// Of the initial state, `[batch, channels, state_dim]`.
    pub state: &'a mut [T],
}

/// Why a selective scan cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ScanError {
    /// The channels do not divide into the groups.
    #[error("{channels} channels do not divide into {groups} groups")]
    Groups {
        /// Number of channels.
        channels: usize,
        /// Number of groups.
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
        /// Which channel.
        channel: usize,
        /// Which value of its state.
        index: usize,
        /// What it is.
        found: f32,
    },
    /// A step size is negative or NaN, found by [`Problem::check_values`].
    #[error("step_size of row {row} and channel {channel} needs to be 0 or more, found {found}")]
    StepSizeValue {
        /// Which row.
        row: usize,
        /// Which channel.
        channel: usize,
        /// What it is.
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
        let rows = self.rows(&inputs.sequences);
        let (on_channels, on_groups) = ((rows, self.channels), (rows, self.groups * self.state_dim));
        OPERATOR.rows("input", on_channels, &inputs.input)?;
        OPERATOR.rows("step_size", on_channels, &inputs.step_size)?;
        OPERATOR.values("a", self.channels * self.state_dim, inputs.a.len())?;
        OPERATOR.rows("b", on_groups, &inputs.b)?;
        OPERATOR.rows("c", on_groups, &inputs.c)?;
        if let Some(skip) = inputs.skip {
            OPERATOR.values("skip", self.channels, skip.len())?;
        }
        if let Some(gate) = &inputs.gate {
            OPERATOR.rows("gate", on_channels, gate)?;
        }
        Ok(())
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
        let (on_channels, on_groups) = (rows * self.channels, rows * self.groups * self.state_dim);
        OPERATOR.values("state", self.state_len(), initial_state_len)?;
        cotangents.validate(OPERATOR, (rows, self.channels), self.state_len())?;
        OPERATOR.gradient("input", on_channels, gradients.input)?;
        OPERATOR.gradient("step_size", on_channels, gradients.step_size)?;
        OPERATOR.gradient("a", inputs.a.len(), gradients.a)?;
        OPERATOR.gradient("b", on_groups, gradients.b)?;
        OPERATOR.gradient("c", on_groups, gradients.c)?;
        OPERATOR.gradient("state", self.state_len(), gradients.state)?;
        let skip = inputs.skip.map(<[f32]>::len);
        OPERATOR.optional_gradient("skip", skip, gradients.skip.as_deref())?;
        let gate = inputs.gate.map(|_| on_channels);
        Ok(OPERATOR.optional_gradient("gate", gate, gradients.gate.as_deref())?)
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
