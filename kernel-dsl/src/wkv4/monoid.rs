//! The monoid of segments: what a run of tokens does to any state that comes in.
//!
//! A segment multiplies N and M by e^W, W its summed log decays, and adds the sums N' and M' that it would leave behind from
//! an empty state. Segments compose: (W₂, N₂, M₂) after (W₁, N₁, M₁) is (W₁ + W₂, e^{W₂} N₁ + N₂, e^{W₂} M₁ + M₂), which is
//! associative, with the identity (0, empty). Sums are kept as states are, divided by e^m with m = max(m₁ + W₂, m₂).

use pulp::{Simd, WithSimd};

use super::problem::{EMPTY_MAX, OPERATOR, Problem, Wkv4Error};
use crate::math::exp;
use crate::simd::{dispatch, mul_add_one};

/// The element (W, N, M) of a segment.
///
/// # Shapes
/// `log_decay_sum` `[batch, channels]`; `update` `[batch, 3, channels]`, as a state.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// W, the sum of the log decays of all tokens.
    pub log_decay_sum: &'a [f32],
    /// N and M divided by e^m, and m.
    pub update: &'a [f32],
}

/// An element that can be written, of the same shapes as [`Element`].
#[derive(Debug)]
pub struct ElementMut<'a> {
    /// W, the sum of the log decays of all tokens.
    pub log_decay_sum: &'a mut [f32],
    /// N and M divided by e^m, and m.
    pub update: &'a mut [f32],
}

/// Prepends a segment: `second` becomes the element of `first` followed by `second`.
///
/// Only batch and channels of `problem` matter; its `time` does not.
///
/// # Errors
/// [`Wkv4Error`] when a buffer does not have the length that `problem` says.
pub fn compose(problem: &Problem, first: Element, second: ElementMut) -> Result<(), Wkv4Error> {
    check_element(problem, first.log_decay_sum, first.update)?;
    check_element(problem, second.log_decay_sum, second.update)?;
    let mut joined = first.update.to_vec();
    join(problem, second.log_decay_sum, &mut joined, second.update);
    second.update.copy_from_slice(&joined);
    for (sum, earlier) in second.log_decay_sum.iter_mut().zip(first.log_decay_sum) {
        *sum += earlier;
    }
    Ok(())
}

/// Runs a state through a segment.
///
/// # Shapes
/// `state` `[batch, 3, channels]`, read and updated.
///
/// # Errors
/// [`Wkv4Error`] when a buffer does not have the length that `problem` says.
pub fn apply(problem: &Problem, element: Element, state: &mut [f32]) -> Result<(), Wkv4Error> {
    check_element(problem, element.log_decay_sum, element.update)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    join(problem, element.log_decay_sum, state, element.update);
    Ok(())
}

fn check_element(problem: &Problem, sums: &[f32], update: &[f32]) -> Result<(), Wkv4Error> {
    problem.validate_sizes()?;
    OPERATOR.values("log_decay_sum", problem.batch * problem.channels, sums.len())?;
    Ok(OPERATOR.values("update", problem.state_len(), update.len())?)
}

/// state ← e^W state + update, for every sequence.
fn join(problem: &Problem, sums: &[f32], state: &mut [f32], update: &[f32]) {
    let c = problem.channels;
    if c == 0 {
        return;
    }
    let parts = state.chunks_exact_mut(3 * c).zip(update.chunks_exact(3 * c));
    for (sums, (state, update)) in sums.chunks_exact(c).zip(parts) {
        dispatch(Join { sums, state, update });
    }
}

/// [`join`] for one sequence.
struct Join<'a> {
    sums: &'a [f32],
    state: &'a mut [f32],
    update: &'a [f32],
}

impl WithSimd for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let c = self.sums.len();
        let (numerator, rest) = self.state.split_at_mut(c);
        let (denominator, max) = rest.split_at_mut(c);
        let (later_numerator, rest) = self.update.split_at(c);
        let (later_denominator, later_max) = rest.split_at(c);
        for i in 0..c {
            // Nothing lies below the maximum of an empty state, so that no difference of infinities appears.
            let decayed = at_least(max[i], EMPTY_MAX) + self.sums[i];
            let joined = at_least(at_least(decayed, later_max[i]), EMPTY_MAX);
            let (past, present) = (exp(simd, decayed - joined), exp(simd, later_max[i] - joined));
            numerator[i] = mul_add_one(simd, numerator[i], past, present * later_numerator[i]);
            denominator[i] = mul_add_one(simd, denominator[i], past, present * later_denominator[i]);
            max[i] = joined;
        }
    }
}

/// The larger of two, or `x` where it is NaN.
#[inline(always)]
fn at_least(x: f32, bound: f32) -> f32 {
    if x < bound { bound } else { x }
}
