//! Shapes and choices of a delta rule, and every way in which they can be wrong.

use thiserror::Error;

use crate::Cotangents;
use crate::decay::{DecayFormError, DecayKind, LogDecay};
use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Operator, ShapeError, all_fit};

pub(super) const OPERATOR: Operator = Operator("delta rule");

/// By which matrix a token multiplies the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransitionKind {
    /// (I − β k kᵀ) diag(a): DeltaNet, Gated DeltaNet, KDA.
    Delta,
    /// diag(a) + b pᵀ: RWKV-7, DPLR.
    LowRank,
}

/// The shape of a delta rule.
///
/// # Shapes
/// State `[batch, heads, key_dim, value_dim]`, output `[rows, heads, value_dim]`, both row-major, where the
/// [`Sequences`] say how many rows there are. Head `h` reads query, key, p and b of group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Independent sequences.
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
    /// By which matrix a token multiplies the state.
    pub transition: TransitionKind,
    /// What the decay depends on: nothing, or on the token.
    pub decay: DecayKind,
}

/// What a transition reads beside decay and key.
#[derive(Clone, Copy, Debug)]
pub enum Transition<'a> {
    /// (I − β k kᵀ) diag(a), and the update β k vᵀ.
    Delta {
        /// β, `heads` columns.
        beta: Rows<'a>,
    },
    /// diag(a) + b pᵀ, and the update k vᵀ.
    LowRank {
        /// p, which reads the state before it decays, `groups·key_dim` columns.
        p: Rows<'a>,
        /// b, which writes what p read, `groups·key_dim` columns.
        b: Rows<'a>,
    },
}

/// What a delta rule reads. Every [`Rows`] has as many rows as [`Inputs::sequences`] say.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// q, `groups·key_dim` columns.
    pub query: Rows<'a>,
    /// k, `groups·key_dim` columns. [`Transition::Delta`] keeps states bounded where β ‖k‖² ≤ 2; normalising k is the
    /// caller's.
    pub key: Rows<'a>,
    /// v, `heads·value_dim` columns.
    pub value: Rows<'a>,
    /// β, or p and b, as [`Problem::transition`] names.
    pub transition: Transition<'a>,
    /// ln a, in the form that [`Problem::decay`] names.
    pub log_decay: LogDecay<&'a [f32], Rows<'a>>,
    /// Factor on the query.
    pub scale: f32,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Derivatives of a loss by what a transition reads, in the shapes of [`Transition`] without gaps.
#[derive(Debug)]
pub enum TransitionGradients<'a, T = f32> {
    /// Of [`Transition::Delta`].
    Delta {
        /// By β, `[rows, heads]`.
        beta: &'a mut [T],
    },
    /// Of [`Transition::LowRank`].
    LowRank {
        /// By p, `[rows, groups, key_dim]`.
        p: &'a mut [T],
        /// By b, `[rows, groups, key_dim]`.
        b: &'a mut [T],
    },
}

/// Derivatives of a loss by the inputs, each in the shape of the input without gaps. All are overwritten.
#[derive(Debug)]
pub struct Gradients<'a, T = f32> {
    /// By q, `[rows, groups, key_dim]`.
    pub query: &'a mut [T],
    /// By k, `[rows, groups, key_dim]`.
    pub key: &'a mut [T],
    /// By v, `[rows, heads, value_dim]`.
    pub value: &'a mut [T],
    /// By β, or p and b.
    pub transition: TransitionGradients<'a, T>,
    /// By ln a, `[rows, heads]` or `[rows, heads, key_dim]`; `None` where it is not wanted or there is no decay.
    pub log_decay: Option<&'a mut [T]>,
    /// By the initial state, `[batch, heads, key_dim, value_dim]`.
    pub state: &'a mut [T],
}

/// Why a delta rule cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum DeltaRuleError {
    /// The heads do not divide into the groups.
    #[error("{heads} heads do not divide into {groups} groups")]
    Groups {
        /// Number of heads.
        heads: usize,
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
    /// The inputs, or the gradients, are those of the other transition.
    #[error("the problem says TransitionKind::{expected:?}, found what TransitionKind::{found:?} takes")]
    TransitionForm {
        /// What the problem says.
        expected: TransitionKind,
        /// What came.
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
        /// Which sequence.
        sequence: usize,
        /// Its tokens.
        found: usize,
    },
    /// The chunk holds no token.
    #[error("a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
}

impl Transition<'_> {
    /// Which transition this belongs to.
    pub fn kind(&self) -> TransitionKind {
        match self {
            Self::Delta { .. } => TransitionKind::Delta,
            Self::LowRank { .. } => TransitionKind::LowRank,
        }
    }
}

impl<T> TransitionGradients<'_, T> {
    /// Which transition this belongs to.
    pub fn kind(&self) -> TransitionKind {
        match self {
            Self::Delta { .. } => TransitionKind::Delta,
            Self::LowRank { .. } => TransitionKind::LowRank,
        }
    }
}

impl Problem {
    /// Values of the state, `batch·heads·key_dim·value_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.heads * self.head_state_len()
    }

    /// Values of the output, `rows·heads·value_dim`.
    pub fn out_len(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time) * self.heads * self.value_dim
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
        let rows = inputs.sequences.rows(self.batch, self.time);
        let (on_keys, on_values) = (self.groups * self.key_dim, self.heads * self.value_dim);
        OPERATOR.values("state", self.state_len(), state_len)?;
        cotangents.validate(OPERATOR, (rows, on_values), self.state_len())?;
        OPERATOR.gradient("query", rows * on_keys, gradients.query)?;
        OPERATOR.gradient("key", rows * on_keys, gradients.key)?;
        OPERATOR.gradient("value", rows * on_values, gradients.value)?;
        self.check_kind(gradients.transition.kind())?;
        match &gradients.transition {
            TransitionGradients::Delta { beta } => OPERATOR.gradient("beta", rows * self.heads, beta)?,
            TransitionGradients::LowRank { p, b } => {
                OPERATOR.gradient("p", rows * on_keys, p)?;
                OPERATOR.gradient("b", rows * on_keys, b)?;
            }
        }
        let log_decay = inputs.log_decay.token().map(|_| rows * self.decay_columns());
        OPERATOR.optional_gradient("log_decay", log_decay, gradients.log_decay.as_deref())?;
        Ok(OPERATOR.gradient("state", self.state_len(), gradients.state)?)
    }

    /// Checks the sizes and the inputs, not the state and the output.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), DeltaRuleError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        let rows = inputs.sequences.rows(self.batch, self.time);
        let on_keys = self.groups * self.key_dim;
        OPERATOR.rows("query", (rows, on_keys), &inputs.query)?;
        OPERATOR.rows("key", (rows, on_keys), &inputs.key)?;
        OPERATOR.rows("value", (rows, self.heads * self.value_dim), &inputs.value)?;
        self.check_kind(inputs.transition.kind())?;
        match &inputs.transition {
            Transition::Delta { beta } => OPERATOR.rows("beta", (rows, self.heads), beta)?,
            Transition::LowRank { p, b } => {
                OPERATOR.rows("p", (rows, on_keys), p)?;
                OPERATOR.rows("b", (rows, on_keys), b)?;
            }
        }
        inputs.log_decay.expect_form(OPERATOR.0, self.decay)?;
        match inputs.log_decay.token() {
            None => Ok(()),
            Some(log_decay) => Ok(OPERATOR.rows("log_decay", (rows, self.decay_columns()), log_decay)?),
        }
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
