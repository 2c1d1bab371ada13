//! Shapes of a shift system, and every way in which they can be wrong.

use thiserror::Error;

use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Role, ShapeError, all_fit};

/// Sizes.
///
/// # Shapes
/// State `[batch, channels, state_dim]`, the newest input first; the output has `outputs·channels` columns, of which
/// `c·channels + h` is output c of channel h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each sequence; of all together where they are packed. 0 leaves the state as it is.
    pub time: usize,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
    /// Channels H, each with an input and a state of its own.
    pub channels: usize,
    /// Outputs of a channel, each with a C of its own; mostly 1.
    pub outputs: usize,
    /// Values N of a state.
    pub state_dim: usize,
}

operator! {
    "shift state space", Problem<'_> as problem;
    /// What a shift system reads.
    inputs<R, V> {
        /// Inputs u, `[rows, channels]`.
        input: Rows[problem.rows(), problem.channels],
        /// Input weights B, `[channels, state_dim]`.
        b: Values[problem.channels * problem.state_dim],
        /// C, `[outputs, channels, state_dim]`.
        c: Values[problem.outputs * problem.channels * problem.state_dim],
        /// Skip weights D, `[outputs, channels]`; zeros where there are none.
        skip: Option<Values>[problem.outputs * problem.channels],
        /// s before the first token, `[batch, channels, state_dim]`; zeros where there is none.
        state: Option<Values>[problem.state_len()],
    }
    /// What a shift system gives.
    outputs<R, V> {
        /// y, `[rows, outputs·channels]`; 0 in rows of no sequence.
        out: Rows[problem.rows(), problem.outputs * problem.channels],
        /// s after the last token, `[batch, channels, state_dim]`.
        state: Values[problem.state_len()],
    }
}

/// Why a shift system cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShiftError {
    /// The number of values of some operand does not fit into a `usize`.
    #[error("shift state space: the problem has more values than this machine can address")]
    TooLarge,
    /// The sequences do not lie as stated.
    #[error("shift state space: {0}")]
    Sequences(#[from] SequencesError),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A step takes exactly one token.
    #[error(
        "shift state space: a step takes one token of every sequence, found time = {time} and {rows} rows"
    )]
    NotOneToken {
        /// Tokens of the problem.
        time: usize,
        /// Rows of the problem.
        rows: usize,
    },
}

impl Problem<'_> {
    /// Rows of the token views and of the output.
    pub fn rows(&self) -> usize {
        self.sequences.rows(self.batch, self.time)
    }

    /// Values of the state, `batch·channels·state_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.channels * self.state_dim
    }

    /// Values of the output, rows times outputs times channels.
    pub fn out_len(&self) -> usize {
        self.rows() * self.outputs * self.channels
    }

    /// Checks sizes and the layout of the sequences.
    pub(super) fn validate_sizes(&self) -> Result<(), ShiftError> {
        let Self {
            batch,
            time,
            channels,
            outputs,
            state_dim,
            ..
        } = *self;
        let fits = all_fit(&[batch, channels, state_dim])
            && all_fit(&[outputs, channels, state_dim])
            && all_fit(&[batch, time, outputs, channels]);
        match fits {
            true => Ok(self.sequences.validate(batch, time)?),
            false => Err(ShiftError::TooLarge),
        }
    }

    pub(super) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), ShiftError> {
        self.validate_sizes()?;
        Ok(inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?)
    }

    /// Checks a forward call; `T` is the type of what is written.
    pub(super) fn validate_forward<T>(
        &self,
        inputs: &Inputs,
        outputs: &Results<&mut [T], &mut [T]>,
    ) -> Result<(), ShiftError> {
        self.validate_inputs(inputs)?;
        Ok(outputs.expect(&OPERATOR.in_role(Role::Value), &outputs.extents(self))?)
    }

    /// Checks a backward call; `T` is the type of the gradients.
    pub(super) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), ShiftError> {
        self.validate_inputs(inputs)?;
        cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self))?;
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self))?)
    }
}
