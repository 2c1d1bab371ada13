//! How far f32 moves what equations give: the equations in f64, with every product and quotient that passes through [`rounded`]
//! off by a rounding.
//!
//! Whoever computes in f32 makes such errors, in whatever order. A tolerance that comes from them holds for every order of sums,
//! every width of vectors and every processor, and is as tight as the case allows: near a cancellation it grows, and only there.

use std::cell::RefCell;

use proptest::prelude::{TestCaseError, prop_assert};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A computation may be off by so many times the largest of the draws: by 9 at most in 14,880 comparisons (the models' suites with
/// four seeds, at three levels of vector instructions), by 1 in the median.
pub const DRAWS_APART: f64 = 16.0;
pub const DRAWS: u64 = 4;

thread_local! {
    static ROUNDINGS: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// x(1 + δ) with |δ| ≤ 2⁻²⁴ drawn anew while [`tolerance`] draws, else x.
pub fn rounded(x: f64) -> f64 {
    ROUNDINGS.with_borrow_mut(|rng| match rng {
        Some(rng) => x * (1.0 + rng.random_range(-1.0..1.0) * f64::from(f32::EPSILON) / 2.0),
        None => x,
    })
}

/// ‖found − expected‖ / ‖expected‖, NaN included.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied())
}

/// What equations give with the roundings of a draw, the same ones every time: in between they are as smooth as without.
pub fn drawn<T>(draw: u64, equations: impl FnOnce() -> T) -> T {
    ROUNDINGS.set(Some(StdRng::seed_from_u64(draw)));
    let moved = equations();
    ROUNDINGS.set(None);
    moved
}

/// The relative error that f32 may make where these equations are computed.
pub fn tolerance(equations: impl Fn() -> Vec<f64>) -> f64 {
    let exact = equations();
    let draw = |draw| relative_error(&drawn(draw, &equations), &exact);
    DRAWS_APART * (0..DRAWS).map(draw).fold(f64::from(f32::EPSILON), f64::max)
}

/// Refuses what is further from `expected`, relative to its norm, than the tolerance.
pub fn close(found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    let error = relative_error(found, expected);
    prop_assert!(
        error <= tolerance,
        "relative error {error:e}, where f32 may make {tolerance:e}"
    );
    Ok(())
}
