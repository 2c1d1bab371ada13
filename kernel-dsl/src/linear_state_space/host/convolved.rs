//! Many sequences that begin without a state: the kernel once, and a convolution with each.
//!
//! From no state, y is the convolution of u with K_l = w Re(C Ā^l B̄), which costs as much for one sequence as for any number of them, and
//! the state after the last of T tokens is
//!
//! ```text
//! x_T = Σ_l v_l u_{T−1−l}        v_0 = B̄        v_{l+1} = Ā ∘ v_l − Σ_k 2 Re(E_k · v_l) F_k
//! ```
//!
//! with the feedback E, F of a low rank.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::WIDEST_VECTOR;
use super::kernels::kernels;
use super::tables::{Port, feedback};
use crate::blocks::{BLOCK, block, collect, gather};
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Cotangents, Inputs, Outputs, Problem, StateSpaceError};
use crate::long_convolution::{self as convolution, Direction, Method};
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::{SharedRows, add_rows};

/// Sequences from which one kernel and a convolution for each cost less than a recurrence for each.
const WORTH_CONVOLVING: usize = 8;
/// Powers that are in memory at a time.
const TILE: usize = 64;

/// Whether every sequence begins without a state, at the same step sizes.
pub(super) fn is_convolution(problem: &Problem, inputs: &Inputs) -> bool {
    matches!(problem.sequences, Sequences::Equal)
        && problem.time > 1
        && problem.outputs > 0
        && problem.channels > 0
        && inputs.token_step_size.is_none()
        && is_nothing(inputs.state)
}

/// Whether there are no values but zeros.
pub(super) fn is_nothing(values: Option<&[f32]>) -> bool {
    values.is_none_or(|values| values.iter().all(|&x| x == 0.0))
}

/// Whether outputs and states come sooner by convolutions.
pub(super) fn pays(problem: &Problem, inputs: &Inputs) -> bool {
    problem.batch >= WORTH_CONVOLVING && is_convolution(problem, inputs)
}

/// Outputs and states, where [`is_convolution`] and shapes have been validated.
///
/// # Errors
/// [`StateSpaceError::TooLarge`] for sizes that no convolution can have.
pub(super) fn forward(
    problem: &Problem,
    inputs: &Inputs,
    discrete: &[(Channel, Discrete)],
    outputs: &mut Outputs,
) -> Result<(), StateSpaceError> {
    let Problem {
        batch,
        time,
        channels,
        ..
    } = *problem;
    let nothing = Cotangents {
        out: None,
        state: None,
    };
    let kernel = kernels(problem, &nothing, discrete, None);
    let of_kernel = convolution::Problem {
        batch,
        time,
        channels,
        multiplicity: problem.outputs,
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
    let mut out = convolution::Outputs {
        out: &mut *outputs.out,
        tail: &mut [],
    };
    convolution::long_convolution(&of_kernel, &convolved, &mut out).map_err(|_| StateSpaceError::TooLarge)?;
    let state = SharedRows::new(outputs.state, 2 * channels * problem.state_dim);
    collect(channels.div_ceil(BLOCK), super::updates(problem), |index| {
        dispatch(BlockStates {
            problem,
            inputs,
            discrete,
            block: block(index, channels),
            state: &state,
        });
    });
    Ok(())
}

/// The states of a block of channels after the last token of every sequence.
struct BlockStates<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    discrete: &'a [(Channel, Discrete)],
    block: Range<usize>,
    state: &'a SharedRows<'a>,
}

impl WithSimd for BlockStates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem {
            batch,
            time,
            state_dim,
            ..
        } = *self.problem;
        let len = 2 * state_dim;
        let width = len.next_multiple_of(WIDEST_VECTOR).max(WIDEST_VECTOR);
        let count = self.block.len();
        let mut responses: Vec<Response> = self.discrete[self.block.clone()]
            .iter()
            .map(|(_, discrete)| Response::new(discrete))
            .collect();
        let mut rows = vec![0.0; count * TILE * width];
        let mut tokens = vec![0.0; BLOCK * TILE];
        let mut sums = vec![0.0; batch * count * width];
        // From the last token back, as powers of Ā grow.
        let mut end = time;
        while end > 0 {
            let tile = end.saturating_sub(TILE)..end;
            for (response, rows) in responses.iter_mut().zip(rows.chunks_exact_mut(TILE * width)) {
                for row in rows.chunks_exact_mut(width).take(tile.len()).rev() {
                    response.now.store(&mut row[..len]);
                    response.advance();
                }
            }
            for (sequence, sums) in sums.chunks_exact_mut(count * width).enumerate() {
                let first = sequence * time;
                gather(
                    &self.inputs.input,
                    first + tile.start..first + tile.end,
                    self.block.clone(),
                    TILE,
                    &mut tokens,
                );
                for (c, sum) in sums.chunks_exact_mut(width).enumerate() {
                    let rows = &rows[c * TILE * width..];
                    let u = &tokens[c * TILE..][..tile.len()];
                    add_rows(simd, u, |i| &rows[i * width..(i + 1) * width], sum);
                }
            }
            end = tile.start;
        }
        for (sequence, sums) in sums.chunks_exact(count * width).enumerate() {
            // SAFETY: this call alone has these channels.
            let state = unsafe {
                self.state
                    .part(sequence, self.block.start * len..self.block.end * len)
            };
            for (c, sum) in sums.chunks_exact(width).enumerate() {
                state[c * len..(c + 1) * len].copy_from_slice(&sum[..len]);
            }
        }
    }
}

/// v_l of a channel, from l = 0 on.
struct Response {
    decay: Port,
    /// E_k and F_k of every rank k, which read and write the feedback.
    feedback: Vec<(Port, Port)>,
    now: Port,
    next: Port,
}

impl Response {
    fn new(discrete: &Discrete) -> Self {
        let input = || discrete.modes.iter().map(|mode| mode.input);
        Self {
            decay: Port::new(discrete.modes.iter().map(|mode| mode.change + 1.0)),
            feedback: feedback(discrete),
            now: Port::new(input()),
            next: Port::new(input()),
        }
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.now.times(&self.decay, &mut self.next);
        for (read, write) in &self.feedback {
            self.next.add_scaled(-2.0 * self.now.inner(read), write);
        }
        std::mem::swap(&mut self.now, &mut self.next);
    }
}
