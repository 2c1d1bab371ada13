//! Shapes of a long convolution, and every way they can be wrong.

use crate::operands::operator;
use crate::shape::{Role, ShapeError, all_fit};
use thiserror::Error;

/// What an output sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Tokens up to its own.
    Causal,
    /// Tokens up to its own, those of the pieces before included: with a tail in and out.
    Streamed,
    /// All tokens: those up to its own by the kernel, later ones by a second kernel.
    Both(Later),
}

/// What the first tap of the later kernel meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Later {
    /// The next token, as in state-spaces/s4.
    Next,
    /// The token itself, which the kernel's first tap meets as well, as in H3.
    Current,
}

/// How a long convolution is computed. All forms agree up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// The faster of the others, by their measured costs.
    #[default]
    Auto,
    /// Tap by tap: time · taps multiply-adds per channel.
    Direct,
    /// By fast Fourier transforms.
    Fourier,
}

/// Taps per token that cost as much as a level of radix 2 costs per point. Both forms took equally long at 85, 119 and 210 taps with
/// transforms of 64, 256 and 1024 points (256 channels, AVX-512), and long transforms leave the caches.
pub(super) const TAPS_PER_LEVEL: usize = 14;

/// Shape of a long convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each sequence.
    pub time: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Outputs of each of them.
    pub multiplicity: usize,
    /// Taps of each kernel.
    pub taps: usize,
    /// What an output sees.
    pub direction: Direction,
    /// How the convolution is computed.
    pub method: Method,
}

operator! {
    "long convolution", Problem as problem;
    /// What a long convolution reads.
    inputs<R, V> {
        /// u, `[batch · time, channels]`.
        input: Rows[problem.tokens(), problem.channels],
        /// K, `[multiplicity, channels, taps]`; the first tap meets the token itself.
        kernel: Values[problem.kernel_len()],
        /// K′, of the same shape, for a convolution in both directions; see [`Later`].
        later_kernel: Option<Values>[problem.kernel_len()],
        /// Skip weights D, `[multiplicity, channels]`; zeros where there are none.
        skip: Option<Values>[problem.outputs()],
        /// r, `[batch · time, multiplicity · channels]`: added to the output.
        response: Option<Rows>[problem.tokens(), problem.outputs()],
        /// What earlier pieces of a stream add, `[batch, taps − 1, multiplicity · channels]`; zeros where it is left out.
        tail: Option<Values>[problem.tail_len()],
    }
    /// What a long convolution writes.
    outputs<R, V> {
        /// y, `[batch · time, multiplicity · channels]`.
        out: Rows[problem.tokens(), problem.outputs()],
        /// What this piece and those before add to later ones, in the shape of the tail before; nothing without a stream.
        tail: Values[problem.tail_len()],
    }
}

/// Why a long convolution cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LongConvolutionError {
    /// A convolution without taps.
    #[error("a long convolution needs at least 1 tap, found 0")]
    NoTaps,
    /// A convolution in both directions without its second kernel.
    #[error("a long convolution in both directions needs a later_kernel, found none")]
    NoLaterKernel,
    /// A second kernel where nothing looks ahead.
    #[error("a causal long convolution takes no later_kernel; use Direction::Both")]
    LaterKernel,
    /// No memory could hold it.
    #[error("long convolution: the sizes {0:?} multiply to more than an index can hold")]
    TooLarge(Problem),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Problem {
    /// Rows of input and output.
    pub fn tokens(&self) -> usize {
        self.batch * self.time
    }

    /// Columns of the output, `multiplicity · channels`.
    pub fn outputs(&self) -> usize {
        self.multiplicity * self.channels
    }

    /// Length of a kernel, `multiplicity · channels · taps`.
    pub fn kernel_len(&self) -> usize {
        self.outputs() * self.taps
    }

    /// Length of the tail, `batch · (taps − 1) · multiplicity · channels`; 0 without a stream.
    pub fn tail_len(&self) -> usize {
        self.batch * self.tail_rows() * self.outputs()
    }

    /// Tokens of a sequence that the tail reaches.
    pub(super) fn tail_rows(&self) -> usize {
        match self.direction {
            Direction::Streamed => self.taps.saturating_sub(1),
            Direction::Causal | Direction::Both(_) => 0,
        }
    }

    pub(super) fn reach(&self) -> Reach {
        let ahead = match self.direction {
            Direction::Streamed => self.taps,
            Direction::Causal | Direction::Both(_) => self.taps.min(self.time),
        };
        let (later, shift) = match self.direction {
            Direction::Both(Later::Next) => (self.taps.min(self.time.saturating_sub(1)), 1),
            Direction::Both(Later::Current) => (self.taps.min(self.time), 0),
            Direction::Causal | Direction::Streamed => (0, 0),
        };
        Reach {
            ahead,
            later,
            shift,
            positions: self.time + self.tail_rows(),
            time: self.time,
        }
    }

    /// Whether tap by tap is the faster form, or the one that was asked for.
    pub(super) fn is_direct(&self) -> bool {
        match self.method {
            Method::Direct => true,
            Method::Fourier => self.time == 0,
            Method::Auto => {
                let reach = self.reach();
                reach.meetings() <= reach.transform_cost()
            }
        }
    }

    pub(super) fn validate(&self) -> Result<(), LongConvolutionError> {
        if self.taps == 0 {
            return Err(LongConvolutionError::NoTaps);
        }
        // Scratch is twice as long as time and taps together, rounded up to a power of two, and complex.
        let length = self
            .time
            .checked_add(self.taps)
            .and_then(|sum| sum.checked_mul(16));
        match length {
            Some(length) if all_fit(&[self.batch, self.channels.max(64), self.multiplicity, length]) => {
                Ok(())
            }
            _ => Err(LongConvolutionError::TooLarge(*self)),
        }
    }

    pub(super) fn validate_later(&self, given: bool) -> Result<(), LongConvolutionError> {
        self.validate()?;
        match (self.direction, given) {
            (Direction::Both(_), false) => Err(LongConvolutionError::NoLaterKernel),
            (Direction::Causal | Direction::Streamed, true) => Err(LongConvolutionError::LaterKernel),
            (Direction::Both(_), true) | (Direction::Causal | Direction::Streamed, false) => Ok(()),
        }
    }

    pub(super) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), LongConvolutionError> {
        self.validate_later(inputs.later_kernel.is_some())?;
        Ok(inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?)
    }

    pub(super) fn validate_forward(
        &self,
        inputs: &Inputs,
        outputs: &Outputs,
    ) -> Result<(), LongConvolutionError> {
        self.validate_inputs(inputs)?;
        Ok(outputs.expect(&OPERATOR.in_role(Role::Value), &outputs.extents(self))?)
    }

    pub(super) fn validate_cotangents(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
    ) -> Result<(), LongConvolutionError> {
        self.validate_inputs(inputs)?;
        Ok(cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self))?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), LongConvolutionError> {
        self.validate_cotangents(inputs, cotangents)?;
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self))?)
    }
}

impl<T: Clone + Default> GradientBuffers<T> {
    /// Zeros in the shapes of the inputs.
    pub fn zeros(problem: &Problem, inputs: &Inputs) -> Self {
        inputs.extents(problem).zeros()
    }
}

/// The taps that meet a token, by their lag: output t sees input t − lag by the tap of a lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// Taps of the kernel, of lags 0 … ahead − 1.
    pub ahead: usize,
    /// Taps of the later kernel, of lags −shift … −(shift + later − 1).
    pub later: usize,
    /// Lag of the first of these.
    pub shift: usize,
    /// Outputs: of the tokens, and of the tail behind them.
    pub positions: usize,
    /// Number of inputs.
    pub time: usize,
}

impl Reach {
    /// The largest lag towards later tokens.
    pub fn back(&self) -> usize {
        match self.later {
            0 => 0,
            later => later - 1 + self.shift,
        }
    }

    /// All lags, from −back to ahead − 1.
    pub fn lags(&self) -> usize {
        self.back() + self.ahead
    }

    /// The index of a tap of the later kernel among the lags.
    pub fn later_index(&self, tap: usize) -> usize {
        self.back() - self.shift - tap
    }

    /// Places that a convolution modulo z^N ± 1 must have so that no tap comes back from the other side.
    pub fn places(&self) -> usize {
        self.time + self.back().max(self.ahead.saturating_sub(1))
    }

    /// What transforms cost, in taps.
    pub fn transform_cost(&self) -> usize {
        let points = self.places().next_power_of_two() / 2;
        let levels = points.max(2).ilog2() as usize;
        points.saturating_mul(TAPS_PER_LEVEL * levels)
    }

    /// Pairs of an output and an input that meet.
    pub fn meetings(&self) -> usize {
        let lags = self.ahead + self.later;
        match self.positions > self.time {
            true => self.time.saturating_mul(lags),
            // Of lag d there are `time − d`.
            false => {
                let pairs = |count: usize, first: usize| {
                    let (first, last) = (self.time - first, self.time + 1 - first - count);
                    count.saturating_mul(first + last) / 2
                };
                let later = if self.later > 0 {
                    pairs(self.later, self.shift)
                } else {
                    0
                };
                later + if self.ahead > 0 { pairs(self.ahead, 0) } else { 0 }
            }
        }
    }
}
