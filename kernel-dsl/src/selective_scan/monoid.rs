//! The monoid of segments: what a run of tokens does to any state that comes in.
//!
//! A segment maps h ↦ exp(A ΣΔ)∘h + U, with ΣΔ the sum of its step sizes per channel and U the state that it would leave
//! behind from zero. A is the same for all segments, so that one number per channel stands for N decays. Segments
//! compose: (ΣΔ₂, U₂) after (ΣΔ₁, U₁) is (ΣΔ₁ + ΣΔ₂, exp(A ΣΔ₂)∘U₁ + U₂), which is associative, with the identity (0, 0).

use pulp::{Simd, WithSimd};

use super::problem::{OPERATOR, Problem, ScanError};
use crate::math::exp;
use crate::simd::{dispatch, mul_add_one};

/// The element (ΣΔ, U) of a segment.
///
/// # Shapes
/// `step_size_sum` `[batch, channels]`; `update` `[batch, channels, state_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// ΣΔ, the sum of the step sizes of all tokens, per channel.
    pub step_size_sum: &'a [f32],
    /// U, the state that the segment leaves behind when it begins from zero.
    pub update: &'a [f32],
}

/// An element that can be written, of the same shapes as [`Element`].
#[derive(Debug)]
pub struct ElementMut<'a> {
    /// ΣΔ, the sum of the step sizes of all tokens, per channel.
    pub step_size_sum: &'a mut [f32],
    /// U, the state that the segment leaves behind when it begins from zero.
    pub update: &'a mut [f32],
}

/// Prepends a segment: `second` becomes the element of `first` followed by `second`. `a` is A, `[channels, state_dim]`.
///
/// Only the state's shape in `problem` matters; its `time` does not.
///
/// # Errors
/// [`ScanError`] when a buffer does not have the length that `problem` says.
pub fn compose(problem: &Problem, a: &[f32], first: Element, second: ElementMut) -> Result<(), ScanError> {
    check_element(problem, a, first.step_size_sum, first.update)?;
    check_element(problem, a, second.step_size_sum, second.update)?;
    dispatch(DecayedSum {
        state_dim: problem.state_dim,
        a,
        sums: second.step_size_sum,
        decayed: Decayed::Other(first.update),
        into: second.update,
    });
    for (sum, earlier) in second.step_size_sum.iter_mut().zip(first.step_size_sum) {
        *sum += earlier;
    }
    Ok(())
}

/// Runs a state through a segment: h ← exp(A ΣΔ)∘h + U.
///
/// # Shapes
/// `a` `[channels, state_dim]`, `state` `[batch, channels, state_dim]`.
///
/// # Errors
/// [`ScanError`] when a buffer does not have the length that `problem` says.
pub fn apply(problem: &Problem, a: &[f32], element: Element, state: &mut [f32]) -> Result<(), ScanError> {
    check_element(problem, a, element.step_size_sum, element.update)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    dispatch(DecayedSum {
        state_dim: problem.state_dim,
        a,
        sums: element.step_size_sum,
        decayed: Decayed::Into(element.update),
        into: state,
    });
    Ok(())
}

fn check_element(problem: &Problem, a: &[f32], sums: &[f32], update: &[f32]) -> Result<(), ScanError> {
    problem.validate_sizes()?;
    OPERATOR.values("a", problem.channels * problem.state_dim, a.len())?;
    OPERATOR.values("step_size_sum", problem.batch * problem.channels, sums.len())?;
    Ok(OPERATOR.values("update", problem.state_len(), update.len())?)
}

/// Which operand of the sum is multiplied by the decay.
enum Decayed<'a> {
    /// into ← decay∘other + into
    Other(&'a [f32]),
    /// into ← decay∘into + other
    Into(&'a [f32]),
}

struct DecayedSum<'a> {
    state_dim: usize,
    a: &'a [f32],
    sums: &'a [f32],
    decayed: Decayed<'a>,
    into: &'a mut [f32],
}

impl WithSimd for DecayedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let n = self.state_dim;
        if n == 0 || self.a.is_empty() {
            return;
        }
        let a = self.a.chunks_exact(n).cycle();
        for (d, ((sum, into), a)) in self
            .sums
            .iter()
            .zip(self.into.chunks_exact_mut(n))
            .zip(a)
            .enumerate()
        {
            match self.decayed {
                Decayed::Other(other) => {
                    for ((x, g), a) in into.iter_mut().zip(&other[d * n..(d + 1) * n]).zip(a) {
                        *x = mul_add_one(simd, *g, exp(simd, sum * a), *x);
                    }
                }
                Decayed::Into(other) => {
                    for ((x, g), a) in into.iter_mut().zip(&other[d * n..(d + 1) * n]).zip(a) {
                        *x = mul_add_one(simd, *x, exp(simd, sum * a), *g);
                    }
                }
            }
        }
    }
}
