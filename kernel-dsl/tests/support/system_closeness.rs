//! Whether a linear state space's outputs and gradients are near those of its definition.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::linear_state_space::GradientBuffers;

use super::Data;
use crate::support::relative_error;

/// Root mean square that expected values count with at least: sums of terms of size one that cancel keep their rounding.
const SMALLEST: f64 = 0.25;

/// What `found` is off by in the relative norm; NaN is not a number either.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let square: f64 = expected.iter().map(|e| e * e).sum();
    let norm = square.sqrt().max(SMALLEST * (expected.len() as f64).sqrt());
    // The helper gives the plain error where the expected values are all 0.
    let scale = if square == 0.0 { 1.0 } else { square.sqrt() };
    relative_error(found, expected) * scale / norm.max(f64::MIN_POSITIVE)
}

/// Whether `found` is off by at most `allowed` in the relative norm; NaN is not.
pub fn close(name: &str, allowed: f64, found: &[f32], expected: &[f64]) -> Result<(), String> {
    let error = error(found, expected);
    match error <= allowed {
        true => Ok(()),
        false => Err(format!("{name} is off by {error:.2e}, allowed {allowed:.2e}")),
    }
}

/// Compares gradients, each by [`close`].
fn close_gradients(
    allowed: f64,
    found: &GradientBuffers,
    expected: &GradientBuffers<f64>,
) -> Result<(), String> {
    let expected = parts(expected).into_iter();
    expected
        .zip(parts(found))
        .try_for_each(|((name, expected), (_, found))| close(name, allowed, found, expected))
}

/// The gradients that there are, with their names.
fn parts<T>(buffers: &GradientBuffers<T>) -> Vec<(&'static str, &[T])> {
    let optional = [
        ("token_step_size", buffers.token_step_size.as_deref()),
        ("step_size", buffers.step_size.as_deref()),
        ("low_rank", buffers.low_rank.as_deref()),
        ("skip", buffers.skip.as_deref()),
        ("state", buffers.state.as_deref()),
        ("input", Some(&buffers.input[..])),
        ("a", Some(&buffers.a[..])),
        ("b", Some(&buffers.b[..])),
        ("c", Some(&buffers.c[..])),
    ];
    let there_are = |(name, values): (_, Option<_>)| values.map(|values| (name, values));
    optional.into_iter().filter_map(there_are).collect()
}

impl Data {
    /// Compares gradients with those of the definition: within `allowed` by [`close`], or within that and what these themselves are off by
    /// when all that is read is moved in its last place (eightfold, for there are roundings on the way too). Where the terms of a sum cancel, as
    /// in the one step size of a lone channel, no more of its digits are left.
    pub fn check_gradients(&self, allowed: f64, found: &GradientBuffers) -> Result<(), String> {
        let expected = self.reference_gradients();
        let Err(reason) = close_gradients(allowed, found, &expected) else {
            return Ok(());
        };
        let moved = self.rounded().reference_gradients();
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let all = parts(found).into_iter().zip(parts(&expected)).zip(parts(&moved));
        for (((name, found), (_, expected)), (_, moved)) in all {
            let own = error(&narrow(moved), expected);
            close(name, allowed + 8.0 * own, found, expected).map_err(|_| reason.clone())?;
        }
        Ok(())
    }

    /// The same, every number moved in its last place or left, at random.
    fn rounded(&self) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let mut moved = self.clone();
        let fields = [
            Some(&mut moved.input),
            moved.token_step_size.as_mut(),
            moved.step_size.as_mut(),
            Some(&mut moved.a),
            Some(&mut moved.b),
            Some(&mut moved.c),
            moved.low_rank.as_mut(),
            moved.skip.as_mut(),
            moved.state.as_mut(),
            Some(&mut moved.out_cotangent),
            moved.state_cotangent.as_mut(),
        ];
        for x in fields.into_iter().flatten().flatten() {
            *x *= 1.0 + f32::EPSILON * random.random_range(-1.0_f32..=1.0).round();
        }
        moved
    }
}
