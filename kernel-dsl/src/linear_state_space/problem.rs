//! Shapes and choices of a linear state space, and every way in which they can be wrong.

use thiserror::Error;

use crate::operands::operator;
use crate::rows::Rows;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Role, ShapeError, all_fit};

/// How far above 1 the square of a given |Ā| may lie: what rounding to f32 leaves of a mode that neither grows nor decays.
const ROUNDING: f64 = 1e-6;

/// How a continuous system becomes a discrete one; z = ΔΛ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Not at all: a and b are Ā and B̄, and there is no step size.
    Given,
    /// Ā = e^z, B̄ = B (e^z − 1) / Λ: exact for inputs that stay as they are between samples. S4D's default.
    ZeroOrderHold,
    /// Ā = (1 + z/2) / (1 − z/2), B̄ = ΔB / (1 − z/2): the trapezoidal rule, which S4 needs.
    Bilinear,
    /// Ā = e^z, B̄ = ΔB: a zero-order hold of the state with Euler's rule for the input, as Mamba has it.
    Mixed,
}

/// Which eigenvalues the N modes of a state stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spectrum {
    /// One of each conjugate pair of a real system of size 2N: y = 2 Re(C x).
    ConjugatePairs,
    /// All of them: y = Re(C x).
    Complete,
}

impl Spectrum {
    /// What Re(C x) is multiplied by.
    pub(super) fn weight(self) -> f64 {
        match self {
            Self::ConjugatePairs => 2.0,
            Self::Complete => 1.0,
        }
    }
}

/// Sizes and choices.
///
/// # Shapes
/// State `[batch, channels, state_dim, 2]`; the output has `outputs·channels` columns, of which `c·channels + h` is output c
/// of channel h.
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
    /// Modes N of a state, each a complex number.
    pub state_dim: usize,
    /// Copies S of A, B and P; channel h has copy h mod S. `channels` is a multiple of it.
    pub copies: usize,
    /// Rank r of what is subtracted from the diagonal; 0 where A is diagonal.
    pub rank: usize,
    /// How the system is made discrete.
    pub rule: Rule,
    /// What the modes stand for.
    pub spectrum: Spectrum,
}

operator! {
    "linear state space", Problem<'_> as problem;
    /// What a linear state space reads. Complex values are pairs (re, im).
    inputs<R, V> {
        /// Inputs u, `[rows, channels]`.
        input: Rows[problem.rows(), problem.channels],
        /// Δ of every token, `[rows, channels]`, 0 or more: for samples that lie irregularly in time.
        token_step_size: Option<Rows>[problem.rows(), problem.channels],
        /// Δ, `[channels]`, positive, where it is the same for all tokens.
        step_size: Option<Values>[problem.channels],
        /// Λ, `[copies, state_dim, 2]`.
        a: Values[2 * problem.copies * problem.state_dim],
        /// B, `[copies, state_dim, 2]`.
        b: Values[2 * problem.copies * problem.state_dim],
        /// C, `[outputs, channels, state_dim, 2]`.
        c: Values[2 * problem.outputs * problem.channels * problem.state_dim],
        /// P, `[rank, copies, state_dim, 2]`: A = Λ − P P*.
        low_rank: Option<Values>[2 * problem.rank * problem.copies * problem.state_dim],
        /// Skip weights D, `[outputs, channels]`; zeros where there are none.
        skip: Option<Values>[problem.outputs * problem.channels],
        /// x before the first token, `[batch, channels, state_dim, 2]`; zeros where there is none.
        state: Option<Values>[problem.state_len()],
    }
    /// What a linear state space gives.
    outputs<R, V> {
        /// y, `[rows, outputs·channels]`; 0 in rows of no sequence.
        out: Rows[problem.rows(), problem.outputs * problem.channels],
        /// x after the last token, `[batch, channels, state_dim, 2]`.
        state: Values[problem.state_len()],
    }
}

/// Why a linear state space cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum StateSpaceError {
    /// The channels do not divide into the copies.
    #[error("linear state space: {channels} channels do not divide into {copies} copies of A and B")]
    Copies {
        /// Number of channels in the problem.
        channels: usize,
        /// Number of copies of A and B in the problem.
        copies: usize,
    },
    /// The number of values of some operand does not fit into a `usize`.
    #[error("linear state space: the problem has more values than this machine can address")]
    TooLarge,
    /// The sequences do not lie as stated.
    #[error("linear state space: {0}")]
    Sequences(#[from] SequencesError),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Step sizes that the rule does not read, or two kinds of them, or none.
    #[error("linear state space: the rule {rule:?} needs {expected}, found {found}")]
    StepSizes {
        /// Rule of the problem, by which the system becomes discrete.
        rule: Rule,
        /// Step sizes that the rule needs, as a phrase.
        expected: &'static str,
        /// Step sizes that were given, as a phrase.
        found: &'static str,
    },
    /// P is missing, or there is one although the rank is 0.
    #[error(
        "linear state space: low_rank needs to be given where the rank is above 0 and nowhere else, found rank {rank}"
    )]
    LowRank {
        /// Rank of the problem.
        rank: usize,
    },
    /// Only the bilinear rule, with one step size per channel and with conjugate pairs, knows a low-rank part.
    #[error(
        "linear state space: rank {rank} needs the bilinear rule, conjugate pairs and a constant step size"
    )]
    Rank {
        /// Rank of the problem.
        rank: usize,
    },
    /// A constant step size is not a positive number.
    #[error(
        "linear state space: step_size of channel {channel} needs to be positive and finite, found {found}"
    )]
    StepSize {
        /// Index of the channel.
        channel: usize,
        /// Step size Δ that was given.
        found: f32,
    },
    /// A step size of a token is negative or no number.
    #[error(
        "linear state space: token_step_size of row {row} and channel {channel} needs to be 0 or more and finite, found {found}"
    )]
    TokenStepSize {
        /// Row of the token.
        row: usize,
        /// Index of the channel.
        channel: usize,
        /// Step size Δ that was given.
        found: f32,
    },
    /// A mode that grows: Re Λ > 0, or |Ā| > 1 where that is given; or one that is no number.
    #[error("linear state space: a of copy {copy} and mode {mode} needs {expected}, found {found:?}")]
    Unstable {
        /// Index of the copy of A.
        copy: usize,
        /// Index of the mode in its copy.
        mode: usize,
        /// What the value of `a` needs to have, as a phrase.
        expected: &'static str,
        /// Value of `a` that was given, (re, im).
        found: (f32, f32),
    },
    /// The chunk holds no token.
    #[error("linear state space: a chunk needs at least one token, found chunk_size = 0")]
    EmptyChunk,
}

impl Problem<'_> {
    /// Rows of the token views and of the output.
    pub fn rows(&self) -> usize {
        self.sequences.rows(self.batch, self.time)
    }

    /// Values of the state, `batch·channels·state_dim·2`.
    pub fn state_len(&self) -> usize {
        2 * self.batch * self.channels * self.state_dim
    }

    /// Values of the output, rows times outputs times channels.
    pub fn out_len(&self) -> usize {
        self.rows() * self.outputs * self.channels
    }

    /// Checks sizes, the layout of the sequences, and which operands there are.
    pub(super) fn validate_choices<R, V>(&self, inputs: &Operands<R, V>) -> Result<(), StateSpaceError> {
        let Self {
            channels,
            copies,
            rank,
            rule,
            ..
        } = *self;
        if channels > 0 && (copies == 0 || !channels.is_multiple_of(copies)) {
            return Err(StateSpaceError::Copies { channels, copies });
        }
        let n = self.state_dim;
        let fits = all_fit(&[2, self.batch, channels, n])
            && all_fit(&[2, self.outputs, channels, n])
            && all_fit(&[2, rank, copies, n])
            && all_fit(&[self.batch, self.time, self.outputs, channels]);
        if !fits {
            return Err(StateSpaceError::TooLarge);
        }
        self.sequences.validate(self.batch, self.time)?;
        let steps = |expected, found| {
            Err(StateSpaceError::StepSizes {
                rule,
                expected,
                found,
            })
        };
        match (rule, inputs.step_size.is_some(), inputs.token_step_size.is_some()) {
            (Rule::Given, false, false) => {}
            (Rule::Given, _, _) => return steps("no step size", "one"),
            (_, true, false) | (_, false, true) => {}
            (_, true, true) => return steps("one step size per channel or one per token", "both"),
            (_, false, false) => return steps("one step size per channel or one per token", "none"),
        }
        if inputs.low_rank.is_some() != (rank > 0) {
            return Err(StateSpaceError::LowRank { rank });
        }
        let of_s4 = rule == Rule::Bilinear
            && self.spectrum == Spectrum::ConjugatePairs
            && inputs.token_step_size.is_none();
        match rank == 0 || of_s4 {
            true => Ok(()),
            false => Err(StateSpaceError::Rank { rank }),
        }
    }

    /// Checks that every mode decays or stays, and every step size is a number that can be one.
    fn validate_values(&self, inputs: &Inputs) -> Result<(), StateSpaceError> {
        let steps = inputs.step_size.unwrap_or_default();
        if let Some(channel) = steps.iter().position(|&step| !(step > 0.0 && step.is_finite())) {
            return Err(StateSpaceError::StepSize {
                channel,
                found: steps[channel],
            });
        }
        for (mode, value) in inputs.a.chunks_exact(2).enumerate() {
            let (re, im) = (f64::from(value[0]), f64::from(value[1]));
            let stable = match self.rule {
                Rule::Given => re * re + im * im <= 1.0 + ROUNDING,
                _ => re <= 0.0 && re.is_finite() && im.is_finite(),
            };
            if !stable {
                return Err(StateSpaceError::Unstable {
                    copy: mode / self.state_dim,
                    mode: mode % self.state_dim,
                    expected: match self.rule {
                        Rule::Given => "a magnitude of at most 1",
                        _ => "a real part of at most 0",
                    },
                    found: (value[0], value[1]),
                });
            }
        }
        match &inputs.token_step_size {
            Some(steps) => expect_step_sizes(
                steps,
                (0..self.batch).flat_map(|b| self.sequences.span(b, self.time)),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), StateSpaceError> {
        self.validate_choices(inputs)?;
        inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?;
        self.validate_values(inputs)
    }

    /// Checks a forward call; `T` is the type of what is written.
    pub(super) fn validate_forward<T>(
        &self,
        inputs: &Inputs,
        outputs: &Results<&mut [T], &mut [T]>,
    ) -> Result<(), StateSpaceError> {
        self.validate_inputs(inputs)?;
        Ok(outputs.expect(&OPERATOR.in_role(Role::Value), &outputs.extents(self))?)
    }

    /// Checks a backward call; `T` is the type of the gradients.
    pub(super) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), StateSpaceError> {
        self.validate_inputs(inputs)?;
        cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self))?;
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self))?)
    }
}

/// Refuses step sizes of tokens that are negative or not finite, in these rows.
pub(super) fn expect_step_sizes(
    steps: &Rows,
    rows: impl IntoIterator<Item = usize>,
) -> Result<(), StateSpaceError> {
    for row in rows {
        let steps = steps.row(row);
        if let Some(channel) = steps.iter().position(|&step| !(step >= 0.0 && step.is_finite())) {
            return Err(StateSpaceError::TokenStepSize {
                row,
                channel,
                found: steps[channel],
            });
        }
    }
    Ok(())
}
