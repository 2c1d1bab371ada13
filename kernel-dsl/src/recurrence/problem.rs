//! Shapes and choices of a recurrence, and every way in which they can be wrong.

use std::cmp::Ordering;

use thiserror::Error;

use crate::decay::{DecayFormError, DecayKind, DecayScope, LogDecay};
use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Operator, ShapeError, all_fit};

pub(super) const OPERATOR: Operator = Operator("recurrence");

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
    /// Independent sequences.
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

/// What a recurrence reads. Every [`Rows`] has a row per token; which sequence it belongs to is said by `sequences`.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// q, `groups·key_dim` columns.
    pub query: Rows<'a>,
    /// k, `groups·key_dim` columns.
    pub key: Rows<'a>,
    /// v, `heads·value_dim` columns.
    pub value: Rows<'a>,
    /// ln a, in the form that [`Problem::decay`] names.
    pub log_decay: LogDecay<&'a [f32], Rows<'a>>,
    /// δ, `heads` columns; `None` is 1.
    pub step_size: Option<Rows<'a>>,
    /// u, `[heads, key_dim]`; present if and only if the read-out is [`ReadOut::Bonus`].
    pub bonus: Option<&'a [f32]>,
    /// D, `[heads]` or `[heads·value_dim]`: y_t += D∘v_t, with v before δ.
    pub skip: Option<&'a [f32]>,
    /// Factor on the query.
    pub scale: f32,
    /// How the sequences lie in the rows: equally long (row `b·time + t` is token `t` of sequence `b`), left-padded or packed.
    pub sequences: Sequences<'a>,
}

/// Where a log decay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecayIndex {
    /// The row of its token; `None` for constants.
    pub row: Option<usize>,
    /// Its head.
    pub head: usize,
    /// Its key; 0 where all keys of a head share one.
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
        /// Number of heads.
        heads: usize,
        /// Number of groups.
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
        /// Where it is.
        at: DecayIndex,
        /// What it is.
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
        /// Which head.
        head: usize,
        /// Its bound.
        found: f32,
    },
}

impl Problem {
    /// Values of the state, `batch·heads·key_dim·value_dim`.
    pub fn state_len(&self) -> usize {
        self.batch * self.heads * self.head_state_len()
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
            groups,
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
        let rows = inputs.sequences.rows(batch, time);
        OPERATOR.rows("query", (rows, groups * key_dim), &inputs.query)?;
        OPERATOR.rows("key", (rows, groups * key_dim), &inputs.key)?;
        OPERATOR.rows("value", (rows, heads * value_dim), &inputs.value)?;
        self.check_log_decay(inputs, rows)?;
        if let Some(step_size) = &inputs.step_size {
            OPERATOR.rows("step_size", (rows, heads), step_size)?;
        }
        match (self.read_out, inputs.bonus) {
            (ReadOut::Inclusive, None) => {}
            (ReadOut::Inclusive, Some(bonus)) => {
                return Err(RecurrenceError::BonusUnused { found: bonus.len() });
            }
            (ReadOut::Bonus, None) => {
                return Err(RecurrenceError::BonusMissing {
                    expected: heads * key_dim,
                });
            }
            (ReadOut::Bonus, Some(bonus)) => OPERATOR.values("bonus", heads * key_dim, bonus.len())?,
        }
        if let Some(skip) = inputs.skip {
            let (per_head, per_value, found) = (heads, heads * value_dim, skip.len());
            if found != per_head && found != per_value {
                return Err(RecurrenceError::SkipLength {
                    per_head,
                    per_value,
                    found,
                });
            }
        }
        Ok(())
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

    /// Checks the form and the size of the log decays.
    fn check_log_decay(&self, inputs: &Inputs, rows: usize) -> Result<(), RecurrenceError> {
        inputs.log_decay.expect_form(OPERATOR.0, self.decay)?;
        let per_token = self.heads * self.decay.values_per_head(self.key_dim);
        match &inputs.log_decay {
            LogDecay::None => Ok(()),
            LogDecay::Constant(values) => Ok(OPERATOR.values("log_decay", per_token, values.len())?),
            LogDecay::Token(decays) => Ok(OPERATOR.rows("log_decay", (rows, per_token), decays)?),
        }
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
