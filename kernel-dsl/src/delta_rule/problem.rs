//! Shapes and choices of a delta rule, and every way in which they can be wrong.

use thiserror::Error;

pub use super::transition::{Transition, TransitionKind};
#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, DeviceRows, Error as DeviceError};
use crate::decay::{DecayFormError, DecayKind};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{ShapeError, all_fit};

/// The shape of a delta rule.
///
/// # Shapes
/// State `[batch, heads, key_dim, value_dim]`, output `[rows, heads, value_dim]`, both row-major, where the
/// [`Sequences`] say how many rows there are. Head `h` reads query, key, p and b of group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Number of independent sequences.
    pub batch: usize,
    /// Tokens of each sequence in this call, or of all together where they are packed; 0 is allowed and leaves the state
    /// as it is.
    pub time: usize,
    /// Heads: states per sequence.
    pub heads: usize,
    /// Groups of query, key, p and b; `heads` is a multiple of it.
    pub groups: usize,
    /// Rows of a state.
    pub key_dim: usize,
    /// Columns of a state.
    pub value_dim: usize,
    /// Kind of matrix by which a token multiplies the state.
    pub transition: TransitionKind,
    /// What the decay depends on: nothing, or on the token.
    pub decay: DecayKind,
}

operator! {
    "delta rule", Problem as problem, rows;
    /// What a delta rule reads, `rows` as [`Sequences::rows`] says. On devices q, k, v, p, b and the output have one type, log decays and
    /// β have one that may be another; all gradients are f32.
    inputs<R, V> {
        /// Queries q, `[rows, groups·key_dim]`.
        query: Rows[rows, problem.groups * problem.key_dim],
        /// k, `[rows, groups·key_dim]`. [`Transition::Delta`] keeps states bounded where β ‖k‖² ≤ 2; normalising k is the
        /// caller's.
        key: Rows[rows, problem.groups * problem.key_dim],
        /// Values v, `[rows, heads·value_dim]`.
        value: Rows[rows, problem.heads * problem.value_dim],
        /// β, or p and b, as [`Problem::transition`] names.
        transition: Choice<Transition>[rows, problem.heads, problem.groups * problem.key_dim],
        /// ln a, in the form that [`Problem::decay`] names: `[rows, heads]` or `[rows, heads·key_dim]`.
        log_decay: LogDecay[rows, problem.decay_columns()],
    }
    settings<'a> {
        /// Factor on the query.
        scale: f32,
        /// Which rows belong to which sequence.
        sequences: Sequences<'a>,
    }
    /// What a delta rule gives.
    output<R> {
        /// Outputs y, `[rows, heads·value_dim]`.
        out: Rows[rows, problem.heads * problem.value_dim],
    }
    /// S, `[batch, heads, key_dim, value_dim]`.
    state[problem.state_len()]
}

/// Derivatives of a loss by what a transition reads.
pub type TransitionGradients<'a, T = f32> = Transition<&'a mut [T]>;
/// What a transition reads on a device.
#[cfg(feature = "cube")]
pub type DeviceTransition = Transition<DeviceRows>;
/// As [`TransitionGradients`], on a device.
#[cfg(feature = "cube")]
pub type DeviceTransitionGradients = Transition<DeviceBuffer>;

/// Why a delta rule cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum DeltaRuleError {
    /// The heads do not divide into the groups.
    #[error("{heads} heads do not divide into {groups} groups")]
    Groups {
        /// Number of heads in the problem.
        heads: usize,
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
    /// The inputs, or the gradients, are those of the other transition.
    #[error("the problem says TransitionKind::{expected:?}, found what TransitionKind::{found:?} takes")]
    TransitionForm {
        /// What the problem says.
        expected: TransitionKind,
        /// Transition that the inputs, or the gradients, belong to.
        found: TransitionKind,
    },
    /// The log decays come in a form that the problem's decay kind does not have.
    #[error(transparent)]
    DecayForm(#[from] DecayFormError),
    /// The decay would be constant in time, which no model with a delta rule has.
    #[error("a delta rule takes decay kinds None, PerHeadToken and PerKeyToken, found {0:?}")]
    ConstantDecay(DecayKind),
    /// A step takes exactly one row per sequence.
    #[error("a step takes 1 token of sequence {sequence}, found {found}")]
    NotOneToken {
        /// Index of the sequence.
        sequence: usize,
        /// Number of tokens of the sequence.
        found: usize,
    },
    /// The chunk holds no token.
    #[error("a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
}

impl Problem {
    /// Values of the state, `batch·heads·key_dim·value_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.heads * self.head_state_len()
    }

    /// Rows of the inputs and of the output.
    pub(super) fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// Values of the output, `rows·heads·value_dim`.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        self.rows(sequences) * self.heads * self.value_dim
    }

    /// Values of the state of one head, `key_dim·value_dim`.
    pub fn head_state_len(&self) -> usize {
        self.key_dim * self.value_dim
    }

    /// The group whose query and key head `head` reads.
    pub fn group_of(&self, head: usize) -> usize {
        head / (self.heads / self.groups)
    }

    /// Log decays that all heads have at one token.
    pub fn decay_columns(&self) -> usize {
        self.heads * self.decay.values_per_head(self.key_dim)
    }

    /// Checks every shape.
    ///
    /// # Errors
    /// [`DeltaRuleError`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state_len: usize, out_len: usize) -> Result<(), DeltaRuleError> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state_len)?;
        Ok(OPERATOR.values("out", self.out_len(&inputs.sequences), out_len)?)
    }

    /// Checks every shape of a backward pass.
    ///
    /// # Errors
    /// [`DeltaRuleError`], naming the operand, what it needs and what it has.
    pub fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), DeltaRuleError> {
        self.validate_inputs(inputs)?;
        self.check_kind(gradients.transition.kind())?;
        let rows = self.rows(&inputs.sequences);
        Ok(self.expect_backward(inputs, state_len, cotangents, gradients, rows)?)
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
        let kind = self.check_kind(inputs.transition.kind());
        kind.map_err(DeviceError::problem)?;
        let form = inputs.log_decay.expect_form(OPERATOR.0, self.decay);
        form.map_err(DeviceError::problem)?;
        let types = ElementTypes {
            tokens: inputs.dtype(),
            gates: inputs.gate_type(),
        };
        self.expect_on_device(inputs, state, cotangents, types, self.rows(&inputs.sequences))
    }

    /// Checks the sizes and the inputs, not the state and the output.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), DeltaRuleError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        self.check_kind(inputs.transition.kind())?;
        inputs.log_decay.expect_form(OPERATOR.0, self.decay)?;
        Ok(self.expect_inputs(inputs, self.rows(&inputs.sequences))?)
    }

    /// Checks that heads divide into groups and that no product of sizes overflows.
    pub(crate) fn validate_sizes(&self) -> Result<(), DeltaRuleError> {
        let Self {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
            ..
        } = *self;
        if groups == 0 || !heads.is_multiple_of(groups) {
            return Err(DeltaRuleError::Groups { heads, groups });
        }
        if self.decay.is_constant() {
            return Err(DeltaRuleError::ConstantDecay(self.decay));
        }
        let fits = all_fit(&[batch, heads, key_dim, key_dim.max(value_dim)])
            && all_fit(&[batch, time, heads, key_dim.max(value_dim)]);
        match fits {
            true => Ok(()),
            false => Err(DeltaRuleError::TooLarge(*self)),
        }
    }

    fn check_kind(&self, found: TransitionKind) -> Result<(), DeltaRuleError> {
        let expected = self.transition;
        if expected == found {
            Ok(())
        } else {
            Err(DeltaRuleError::TransitionForm { expected, found })
        }
    }
}
