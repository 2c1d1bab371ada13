//! The monoid of segments: what a run of tokens does to any state that comes in.
//!
//! A segment maps h ↦ A∘h + G, with A = exp(Σ ln a_t) the product of its decays and G the state it would leave behind
//! from zero. Segments compose: (A₂, G₂) after (A₁, G₁) is (A₂∘A₁, A₂∘G₁ + G₂), which is associative, with the identity
//! (1, 0). The decay is kept as a sum of logarithms, so that no product underflows on the way (Blelloch, "Prefix sums and
//! their applications", 1990, section 1.4: first-order recurrences as a scan).

use pulp::{Simd, WithSimd};

use super::problem::{OPERATOR, Problem, RecurrenceError};
use crate::decay::DecayScope;
use crate::math::exp;
use crate::simd::{dispatch, mul_add_one};

/// The element (A, G) of a segment.
///
/// # Shapes
/// `log_decay_sum` `[batch, heads]`, or `[batch, heads, key_dim]` for decays per key; `update`
/// `[batch, heads, key_dim, value_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// ln A, the sum of the log decays of all tokens; zeros without decay.
    pub log_decay_sum: &'a [f32],
    /// G, the state that the segment leaves behind when it begins from zero.
    pub update: &'a [f32],
}

/// An element that can be written, of the same shapes as [`Element`].
#[derive(Debug)]
pub struct ElementMut<'a> {
    /// ln A, the sum of the log decays of all tokens; zeros without decay.
    pub log_decay_sum: &'a mut [f32],
    /// G, the state that the segment leaves behind when it begins from zero.
    pub update: &'a mut [f32],
}

/// Prepends a segment: `second` becomes the element of `first` followed by `second`,
/// (A₂∘A₁, A₂∘G₁ + G₂).
///
/// Only the state's shape and the decay kind of `problem` matter; its `time` does not.
///
/// # Errors
/// [`RecurrenceError`] when a buffer does not have the length that `problem` says.
pub fn compose(problem: &Problem, first: Element, second: ElementMut) -> Result<(), RecurrenceError> {
    check_element(problem, first.log_decay_sum, first.update)?;
    check_element(problem, second.log_decay_sum, second.update)?;
    let spread = Spread::new(problem, second.log_decay_sum);
    dispatch(DecayedSum {
        spread,
        decayed: Source::Other(first.update),
        into: second.update,
    });
    for (sum, earlier) in second.log_decay_sum.iter_mut().zip(first.log_decay_sum) {
        *sum += earlier;
    }
    Ok(())
}

/// Runs a state through a segment: h ← A∘h + G.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a buffer does not have the length that `problem` says.
pub fn apply(problem: &Problem, element: Element, state: &mut [f32]) -> Result<(), RecurrenceError> {
    check_element(problem, element.log_decay_sum, element.update)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    let spread = Spread::new(problem, element.log_decay_sum);
    dispatch(DecayedSum {
        spread,
        decayed: Source::Into(element.update),
        into: state,
    });
    Ok(())
}

/// Checks the lengths of an element's buffers.
pub(super) fn check_element(problem: &Problem, sums: &[f32], update: &[f32]) -> Result<(), RecurrenceError> {
    problem.validate_sizes()?;
    let expected = problem.batch * problem.heads * problem.decay_sums_per_head();
    OPERATOR.values("log_decay_sum", expected, sums.len())?;
    Ok(OPERATOR.values("update", problem.state_len(), update.len())?)
}

/// Log decay sums, and how many consecutive state values share each.
struct Spread<'a> {
    sums: &'a [f32],
    values_per_sum: usize,
}

impl<'a> Spread<'a> {
    fn new(problem: &Problem, sums: &'a [f32]) -> Self {
        let values_per_sum = match problem.decay.scope() {
            DecayScope::Key => problem.value_dim,
            DecayScope::None | DecayScope::Head => problem.head_state_len(),
        };
        Self { sums, values_per_sum }
    }
}

/// Which operand of the sum is multiplied by the decay.
enum Source<'a> {
    /// into ← A∘other + into
    Other(&'a [f32]),
    /// into ← A∘into + other
    Into(&'a [f32]),
}

struct DecayedSum<'a> {
    spread: Spread<'a>,
    decayed: Source<'a>,
    into: &'a mut [f32],
}

impl WithSimd for DecayedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.spread.values_per_sum;
        if width == 0 {
            return;
        }
        for (index, (&sum, into)) in self
            .spread
            .sums
            .iter()
            .zip(self.into.chunks_exact_mut(width))
            .enumerate()
        {
            let decay = exp(simd, sum);
            let part = index * width..(index + 1) * width;
            match self.decayed {
                Source::Other(other) => {
                    into.iter_mut()
                        .zip(&other[part])
                        .for_each(|(x, g)| *x = mul_add_one(simd, *g, decay, *x));
                }
                Source::Into(other) => {
                    into.iter_mut()
                        .zip(&other[part])
                        .for_each(|(x, g)| *x = mul_add_one(simd, *x, decay, *g));
                }
            }
        }
    }
}
