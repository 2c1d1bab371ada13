//! Shift systems on the CPU: threads over blocks of channels; state values in SIMD lanes one token at a time, tokens otherwise.

mod backward;
mod convolved;
mod sequential;

pub use backward::backward;
pub use convolved::{convolved, forward, kernel};
pub use sequential::{sequential, step};

use super::problem::{Inputs, Problem};

/// The updates of state values in a call.
fn updates(problem: &Problem) -> usize {
    problem
        .rows()
        .saturating_mul(problem.channels)
        .saturating_mul(problem.state_dim.max(1))
}

/// Copies the initial state, or zeros.
fn begin(inputs: &Inputs, state: &mut [f32]) {
    match inputs.state {
        Some(initial) => state.copy_from_slice(initial),
        None => state.fill(0.0),
    }
}

/// K of one output of a channel, in f64: the correlation of B with C.
fn correlation(b: &[f32], c: &[f32]) -> Vec<f64> {
    let at = |l: usize| {
        b.iter()
            .zip(&c[l..])
            .map(|(b, c)| f64::from(*b) * f64::from(*c))
            .sum()
    };
    (0..c.len()).map(at).collect()
}
