//! Shapes and choices of a recurrence, and every way in which they can be wrong.

use std::cmp::Ordering;

use thiserror::Error;

#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, Error as DeviceError, expect_state};
use crate::decay::{DecayFormError, DecayKind, DecayScope, LogDecay};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Role, ShapeError, all_fit};

/// When the state is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadOut {
    /// y_t reads h_t, the present token included.
    Inclusive,
    /// y_t reads h_{t-1} + (u∘k_t)(δ_t v_t)ᵀ: the present token comes in by the bonus u only (RWKV-5, RWKV-6).
    Bonus,
}

/// The shape of a recurrence.
///
/// # Shapes
/// State `[batch, heads, key_dim, value_dim]`, output `[rows, heads, value_dim]`, both row-major; `rows` is `batch·time`,
/// or `time` for packed sequences ([`Inputs::sequences`]). Head `h` reads query and key of group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Number of independent sequences.
    pub batch: usize,
    /// Rows of each sequence in this call, or of all packed sequences together; 0 is allowed and leaves the state as it is.
    pub time: usize,
    /// Heads: states per sequence.
    pub heads: usize,
    /// Query and key groups; `heads` is a multiple of it.
    pub groups: usize,
    /// Rows of a state.
    pub key_dim: usize,
    /// Columns of a state.
    pub value_dim: usize,
    /// What the decay depends on.
    pub decay: DecayKind,
    /// When the state is read.
    pub read_out: ReadOut,
}

operator! {
    "recurrence", Problem as problem, rows;
    /// What a recurrence reads, `rows` as [`Sequences::rows`] says.
    ///
    /// On devices query, key, value and the output have one type; log decays and step sizes have one that may be another. Gradients
    /// have the types of their operands, those of constant log decays f32; those of query and key are summed over the heads of a group.
    inputs<R, V> {
        /// Queries q, `[rows, groups·key_dim]`.
        query: Rows[rows, problem.groups * problem.key_dim],
        /// Keys k, `[rows, groups·key_dim]`.
        key: Rows[rows, problem.groups * problem.key_dim],
        /// Values v, `[rows, heads·value_dim]`.
        value: Rows[rows, problem.heads * problem.value_dim],
        /// ln a, in the form that [`Problem::decay`] names: `[heads]` or `[heads, key_dim]` for constants, `[rows, heads]` or
        /// `[rows, heads·key_dim]` per token.
        log_decay: LogDecay[rows, problem.heads * problem.decay.values_per_head(problem.key_dim)],
        /// δ, `[rows, heads]`; `None` is 1.
        step_size: Option<Gates>[rows, problem.heads],
        /// u, `[heads, key_dim]`; present if and only if the read-out is [`ReadOut::Bonus`].
        bonus: Option<Values>[problem.heads * problem.key_dim],
        /// D, `[heads]` or `[heads·value_dim]`: y_t += D∘v_t, with v before δ.
        skip: Option<Values>[problem.heads * problem.value_dim],
    }
    settings<'a> {
        /// Factor on the query.
        scale: f32,
        /// How the sequences lie in the rows: equally long (row `b·time + t` is token `t` of sequence `b`), left-padded or packed.
        sequences: Sequences<'a>,
    }
    /// What a recurrence gives.
    output<R> {
        /// Outputs y, `[rows, heads·value_dim]`.
        out: Rows[rows, problem.heads * problem.value_dim],
    }
    /// h, `[batch, heads, key_dim, value_dim]`.
    state[problem.state_len()]
}

/// Where a log decay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecayIndex {
    /// The row of its token; `None` for constants.
    pub row: Option<usize>,
    /// Index of its head.
    pub head: usize,
    /// Index of its key; 0 where all keys of a head share one decay.
    pub key: usize,
}

impl std::fmt::Display for DecayIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(row) = self.row {
            write!(f, "row {row}, ")?;
        }
        write!(f, "head {}, key {}", self.head, self.key)
    }
}

/// Why a recurrence cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RecurrenceError {
    /// The heads do not divide into the groups.
    #[error("{heads} heads do not divide into {groups} query and key groups")]
    Groups {
        /// Number of heads in the problem.
        heads: usize,
        /// Number of query and key groups in the problem.
        groups: usize,
    },
    /// The number of values of some operand does not fit into a `usize`.
    #[error("the problem {0:?} has more values than this machine can address")]
    TooLarge(Problem),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The skip is neither per head nor per head and value.
    #[error(
        "skip needs {per_head} values (one per head) or {per_value} (one per head and value), found {found}"
    )]
    SkipLength {
        /// Length of a skip with one value per head.
        per_head: usize,
        /// Length of a skip with one value per head and column of the state.
        per_value: usize,
        /// Values that it has.
        found: usize,
    },
    /// Paddings or offsets do not fit the problem.
    #[error(transparent)]
    Sequences(#[from] SequencesError),
    /// A log decay is positive or NaN.
    #[error("log_decay of {at} needs to be at most 0, found {found}")]
    LogDecayRange {
        /// Token, head and key of the log decay.
        at: DecayIndex,
        /// Log decay that was given.
        found: f32,
    },
    /// The log decays come in a form that the problem's decay kind does not have.
    #[error(transparent)]
    DecayForm(#[from] DecayFormError),
    /// The read-out needs a bonus and there is none.
    #[error("the bonus read-out needs a bonus of {expected} values, found none")]
    BonusMissing {
        /// Values that it needs.
        expected: usize,
    },
    /// There is a bonus that the read-out would not use.
    #[error("the inclusive read-out takes no bonus, found one of {found} values")]
    BonusUnused {
        /// Values that it has.
        found: usize,
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
    /// A bound on the norm is negative or NaN.
    #[error("the bound of head {head} needs to be 0 or more, found {found}")]
    BoundRange {
        /// Index of the head.
        head: usize,
        /// Bound that was given for the head.
        found: f32,
    },
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
    pub fn out_len(&self, sequences: Sequences) -> usize {
        sequences.rows(self.batch, self.time) * self.heads * self.value_dim
    }

    /// Log decays that the call reads: 0, `heads`, `heads·key_dim`, or one of the latter two per row.
    pub fn decay_len(&self, sequences: Sequences) -> usize {
        let per_token = self.heads * self.decay.values_per_head(self.key_dim);
        match self.decay {
            DecayKind::PerHeadToken | DecayKind::PerKeyToken => {
                sequences.rows(self.batch, self.time) * per_token
            }
            DecayKind::None | DecayKind::PerHead | DecayKind::PerKey => per_token,
        }
    }

    /// Summed log decays of one head's monoid element: `key_dim` for the kinds that decay per key, else 1 (a zero
    /// without decay).
    pub fn decay_sums_per_head(&self) -> usize {
        match self.decay.scope() {
            DecayScope::None | DecayScope::Head => 1,
            DecayScope::Key => self.key_dim,
        }
    }

    /// Values of the state of one head, `key_dim·value_dim`.
    pub fn head_state_len(&self) -> usize {
        self.key_dim * self.value_dim
    }

    /// The group whose query and key head `head` reads.
    pub fn group_of(&self, head: usize) -> usize {
        head / (self.heads / self.groups)
    }

    /// Checks every shape.
    ///
    /// # Errors
    /// [`RecurrenceError`], naming the operand, what it needs and what it has.
    pub fn validate(&self, inputs: &Inputs, state: &[f32], out: &[f32]) -> Result<(), RecurrenceError> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state.len())?;
        Ok(OPERATOR.values("out", self.out_len(inputs.sequences), out.len())?)
    }

    /// Checks the sizes and the inputs, not the state and the output.
    pub(crate) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), RecurrenceError> {
        self.validate_sizes()?;
        let Self {
            batch,
            time,
            heads,
            key_dim,
            value_dim,
            ..
        } = *self;
        let sequences = match inputs.sequences {
            Sequences::Packed(_) => 1,
            Sequences::Equal | Sequences::LeftPadded(_) => batch,
        };
        let row_len = heads.saturating_mul(key_dim.max(value_dim).max(1));
        if !all_fit(&[sequences, time, row_len]) {
            return Err(RecurrenceError::TooLarge(*self));
        }
        inputs.sequences.validate(batch, time)?;
        inputs.log_decay.expect_form(OPERATOR.0, self.decay)?;
        self.check_bonus(inputs.bonus.map(<[f32]>::len))?;
        let skip = inputs.skip.map(<[f32]>::len);
        inputs.expect(&OPERATOR.in_role(Role::Value), &self.extents_of(inputs, skip))?;
        self.check_skip(skip)
    }

    /// Checks what a backward pass is given; the inputs have been validated.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), RecurrenceError> {
        OPERATOR.values("state", self.state_len(), initial_state_len)?;
        let extents = cotangents.extents(self, self.rows(&inputs.sequences));
        cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &extents)?;
        let extents = self.extents_of(inputs, inputs.skip.map(<[f32]>::len));
        let extents = extents.with_state(self.state_len());
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &extents)?)
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
        let form = inputs.log_decay.expect_form(OPERATOR.0, self.decay);
        form.map_err(DeviceError::problem)?;
        let (bonus, skip) = (inputs.bonus.as_ref(), inputs.skip.as_ref());
        let (bonus, skip) = (bonus.map(DeviceBuffer::len), skip.map(DeviceBuffer::len));
        self.check_bonus(bonus).map_err(DeviceError::problem)?;
        let types = ElementTypes {
            tokens: inputs.query.dtype(),
            gates: inputs.gate_type(),
        };
        let extents = self.extents_of(inputs, skip);
        inputs.expect(&OPERATOR.on_device(Role::Value, types), &extents)?;
        self.check_skip(skip).map_err(DeviceError::problem)?;
        expect_state(OPERATOR, self.state_len(), state)?;
        let Some(cotangents) = cotangents else {
            return Ok(());
        };
        let extents = cotangents.extents(self, self.rows(&inputs.sequences));
        cotangents.expect(&OPERATOR.on_device(Role::Cotangent, types), &extents)
    }

    /// The shapes of inputs like these. A skip has one of two, so that the one at hand is taken for granted here.
    fn extents_of<'a, R, V>(
        &self,
        inputs: &Operands<'a, R, V>,
        skip: Option<usize>,
    ) -> Operands<'a, (usize, usize), usize> {
        Operands {
            skip,
            ..inputs.extents(self, self.rows(&inputs.sequences))
        }
    }

    fn check_bonus(&self, found: Option<usize>) -> Result<(), RecurrenceError> {
        match (self.read_out, found) {
            (ReadOut::Inclusive, Some(found)) => Err(RecurrenceError::BonusUnused { found }),
            (ReadOut::Bonus, None) => Err(RecurrenceError::BonusMissing {
                expected: self.heads * self.key_dim,
            }),
            (ReadOut::Inclusive, None) | (ReadOut::Bonus, Some(_)) => Ok(()),
        }
    }

    fn check_skip(&self, found: Option<usize>) -> Result<(), RecurrenceError> {
        let (per_head, per_value) = (self.heads, self.heads * self.value_dim);
        match found {
            Some(found) if found != per_head && found != per_value => Err(RecurrenceError::SkipLength {
                per_head,
                per_value,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that heads divide into groups and that the size of the state does not overflow.
    pub(crate) fn validate_sizes(&self) -> Result<(), RecurrenceError> {
        let Self {
            batch,
            heads,
            groups,
            key_dim,
            value_dim,
            ..
        } = *self;
        if groups == 0 || !heads.is_multiple_of(groups) {
            return Err(RecurrenceError::Groups { heads, groups });
        }
        if all_fit(&[batch, heads, key_dim, value_dim]) {
            Ok(())
        } else {
            Err(RecurrenceError::TooLarge(*self))
        }
    }

    /// Checks the bounds of a bounded recurrence, one per head.
    pub(crate) fn check_bound(&self, bound: &[f32]) -> Result<(), RecurrenceError> {
        OPERATOR.values("bound", self.heads, bound.len())?;
        match bound.iter().position(|p| p.is_nan() || *p < 0.0) {
            Some(head) => Err(RecurrenceError::BoundRange {
                head,
                found: bound[head],
            }),
            None => Ok(()),
        }
    }
}

impl<T: Clone + Default> GradientBuffers<T> {
    /// Zeros for every input that is given.
    ///
    /// # Errors
    /// [`RecurrenceError`] when a shape of the inputs is wrong.
    pub fn zeros(problem: &Problem, inputs: &Inputs) -> Result<Self, RecurrenceError> {
        problem.validate_inputs(inputs)?;
        let extents = problem.extents_of(inputs, inputs.skip.map(<[f32]>::len));
        Ok(extents.with_state(problem.state_len()).zeros())
    }
}

impl Inputs<'_> {
    /// Looks at every log decay that is read: each must be at most 0, `-inf` included.
    ///
    /// A pass over the log decays, and so left to those who cannot trust where they come from: a NaN would spoil the state
    /// for good, a positive one would let it grow.
    ///
    /// # Errors
    /// [`RecurrenceError::LogDecayRange`] for the first value that is positive or NaN, and whatever is wrong with shapes.
    pub fn check_values(&self, problem: &Problem) -> Result<(), RecurrenceError> {
        problem.validate_inputs(self)?;
        let per_head = problem.decay.values_per_head(problem.key_dim);
        let check = |row: Option<usize>, values: &[f32]| {
            // Written so that NaN is found.
            match values
                .iter()
                .position(|g| !matches!(g.partial_cmp(&0.0), Some(Ordering::Less | Ordering::Equal)))
            {
                None => Ok(()),
                Some(index) => Err(RecurrenceError::LogDecayRange {
                    at: DecayIndex {
                        row,
                        head: index / per_head,
                        key: index % per_head,
                    },
                    found: values[index],
                }),
            }
        };
        match self.log_decay {
            LogDecay::None => Ok(()),
            LogDecay::Constant(values) => check(None, values),
            LogDecay::Token(rows) => (0..problem.batch)
                .flat_map(|b| self.sequences.span(b, problem.time))
                .try_for_each(|row| check(Some(row), rows.row(row))),
        }
    }
}
