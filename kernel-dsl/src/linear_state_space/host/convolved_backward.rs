//! Gradients of several sequences that begin without a state: the kernel once, and a convolution with each.
//!
//! From no state, and where no cotangent asks for the state at the end, y is the convolution of u with K_l = w Re(C Ā^l B̄). Its gradients
//! by u and by K are those of [`long_convolution`], whose K̄ is a sum over all sequences; and those by Δ, A, B, C and P are those of a
//! single sequence, of which the input is an impulse, its outputs are K, and their cotangents are K̄. So what costs the most is done
//! once and not for every sequence. The state before the first token, where its gradient is wanted, has
//!
//! ```text
//! x̄ = Σ_t ȳ_t w conj(r_{t+1})        r_l = C Ā^l        r_{l+1} = Ā ∘ r_l − Σ_k 2 Re(r_l · F_k) E_k
//! ```
//!
//! with the feedback E, F of a low rank, and K_l is w Re(r_l · B̄).

use super::convolved::{is_convolution, is_nothing};
use super::kernels::kernels;
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Cotangents, Gradients, Inputs, Problem, StateSpaceError};
use crate::long_convolution::{self as convolution, Direction, Method};
use crate::rows::Rows;

/// Sequences from which one recurrence and a convolution for each cost less than a recurrence for each.
const WORTH_CONVOLVING: usize = 2;

/// Positions that are turned around at a time.
const TILE: usize = 64;

/// Whether the gradients are those of a convolution, and come sooner by one.
pub(super) fn applies(problem: &Problem, inputs: &Inputs, cotangents: &Cotangents) -> bool {
    problem.batch >= WORTH_CONVOLVING
        && cotangents.out.is_some()
        && is_nothing(cotangents.state)
        && is_convolution(problem, inputs)
}

/// The gradients, where [`applies`]; `of_impulse` is the backward pass of one sequence.
///
/// # Errors
/// Those of `of_impulse`.
pub(super) fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
    discrete: &[(Channel, Discrete)],
    of_impulse: impl FnOnce(&Problem, &Inputs, &Cotangents, &mut Gradients) -> Result<(), StateSpaceError>,
) -> Result<(), StateSpaceError> {
    let Problem {
        batch,
        time,
        channels,
        outputs,
        ..
    } = *problem;
    let kernel = kernels(problem, cotangents, discrete, gradients.state.as_deref_mut());
    let of_kernel = convolution::Problem {
        batch,
        time,
        channels,
        multiplicity: outputs,
        taps: time,
        direction: Direction::Causal,
        method: Method::Auto,
    };
    let convolved = convolution::Inputs {
        input: inputs.input,
        kernel: &kernel,
        later_kernel: None,
        skip: inputs.skip,
        response: None,
        tail: None,
    };
    let by_out = convolution::Cotangents {
        out: cotangents.out,
        tail: None,
    };
    let mut by_kernel = vec![0.0; kernel.len()];
    let mut by_convolved = convolution::Gradients {
        input: &mut *gradients.input,
        kernel: &mut by_kernel,
        later_kernel: None,
        skip: gradients.skip.as_deref_mut(),
        response: None,
        tail: None,
    };
    convolution::backward(&of_kernel, &convolved, &by_out, &mut by_convolved)
        .map_err(|_| StateSpaceError::TooLarge)?;
    let mut impulse = vec![0.0; time * channels];
    impulse[..channels].fill(1.0);
    let by_kernel = turned(&by_kernel, time);
    let mut by_impulse = vec![0.0; time * channels];
    let one = Problem { batch: 1, ..*problem };
    let of_one = Inputs {
        input: Rows::contiguous(&impulse, time, channels).map_err(|_| StateSpaceError::TooLarge)?,
        skip: None,
        state: None,
        ..*inputs
    };
    let by_one = Cotangents {
        out: Rows::contiguous(&by_kernel, time, outputs * channels).ok(),
        state: None,
    };
    let mut by_system = Gradients {
        input: &mut by_impulse,
        token_step_size: None,
        step_size: gradients.step_size.as_deref_mut(),
        a: &mut *gradients.a,
        b: &mut *gradients.b,
        c: &mut *gradients.c,
        low_rank: gradients.low_rank.as_deref_mut(),
        skip: None,
        state: None,
    };
    of_impulse(&one, &of_one, &by_one, &mut by_system)
}

/// `[rows, time]` as `[time, rows]`.
fn turned(values: &[f32], time: usize) -> Vec<f32> {
    let rows = values.len() / time;
    let mut turned = vec![0.0; values.len()];
    for first in (0..time).step_by(TILE) {
        for (row, values) in values.chunks_exact(time).enumerate() {
            let tile = first..(first + TILE).min(time);
            let to = turned[first * rows + row..].iter_mut().step_by(rows);
            to.zip(&values[tile]).for_each(|(to, &value)| *to = value);
        }
    }
    turned
}
