//! What step sizes are made of, and every way that can be wrong.

use crate::operands::operator;
use crate::shape::ShapeError;
use thiserror::Error;

/// Sizes of the operands, and bounds of the step sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Number of rows, one per token.
    pub tokens: usize,
    /// Values of a row.
    pub heads: usize,
    /// Lower and upper bound of Δ.
    pub limit: (f32, f32),
}

operator! {
    "step sizes", Problem as problem;
    /// What step sizes are made of.
    inputs<R, V> {
        /// Before bias and softplus, `[tokens, heads]`.
        raw: Rows[problem.tokens, problem.heads],
        /// Added to it, `[heads]`.
        bias: Values[problem.heads],
        /// ln of −A, `[heads]`.
        a_log: Values[problem.heads],
    }
    /// Step sizes and decays, in f32 on every device: half precision would forget what sums of log decays need.
    outputs<R> {
        /// Step sizes Δ, `[tokens, heads]`.
        step: Gates[problem.tokens, problem.heads],
        /// log α, `[tokens, heads]`.
        log_decay: Gates[problem.tokens, problem.heads],
    }
}

/// Why step sizes cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum StepSizeError {
    /// Bounds out of order, or not numbers.
    #[error("step sizes need 0 ≤ lower limit ≤ upper limit, found {low} and {high}")]
    Limit {
        /// Lower bound of Δ that was given.
        low: f32,
        /// Upper bound of Δ that was given.
        high: f32,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Problem {
    pub(super) fn validate(&self) -> Result<(), StepSizeError> {
        let (low, high) = self.limit;
        match low >= 0.0 && low <= high {
            true => Ok(()),
            false => Err(StepSizeError::Limit { low, high }),
        }
    }

    /// Whether the clamp changes a step size. A NaN is outside of no limit, and so goes on into results and gradients.
    #[inline(always)]
    pub(super) fn binds(&self, free: f32) -> bool {
        free < self.limit.0 || free > self.limit.1
    }

    /// `max` and `min` would turn a NaN into a bound.
    #[inline(always)]
    pub(super) fn clamp(&self, free: f32) -> f32 {
        let (low, high) = self.limit;
        let step = if free < low { low } else { free };
        if step > high { high } else { step }
    }
}
