//! Linear state spaces on the CPU: modes in SIMD lanes, threads over blocks of channels.

mod backward;
mod backward_token;
mod chunked;
mod convolved;
mod convolved_backward;
mod forward;
mod kernels;
mod sequential;
mod system;
mod tables;
mod token;
mod token_steps;

pub use backward::{DEFAULT_CHUNK_SIZE, backward};
pub use chunked::chunked;
pub use forward::forward;
pub use sequential::sequential;
pub use system::System;

use super::problem::{Inputs, Problem};

/// Values in the widest vector, to a multiple of which the constants of a channel are filled up with zeros.
const WIDEST_VECTOR: usize = 16;

/// The updates of modes in a call.
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
