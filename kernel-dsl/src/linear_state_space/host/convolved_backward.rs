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

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::WIDEST_VECTOR;
use super::convolved::{is_convolution, is_nothing};
use super::tables::{Port, feedback};
use crate::blocks::{BLOCK, block, collect};
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Cotangents, Gradients, Inputs, Problem, StateSpaceError};
use crate::long_convolution::{self as convolution, Direction, Form};
use crate::rows::Rows;
use crate::simd::dispatch;
use crate::vector::{SharedRows, add_rows};

/// Sequences from which one recurrence and a convolution for each cost less than a recurrence for each.
const WORTH_CONVOLVING: usize = 2;
/// Positions whose r are in memory at a time.
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
        form: Form::Auto,
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

/// K, `[outputs, channels, time]`; and the gradient by the state before the first token, where there is room for it.
pub(super) fn kernels(
    problem: &Problem,
    cotangents: &Cotangents,
    discrete: &[(Channel, Discrete)],
    by_state: Option<&mut [f32]>,
) -> Vec<f32> {
    let (channels, time) = (problem.channels, problem.time);
    let mut kernel = vec![0.0; problem.outputs * channels * time];
    let rows = SharedRows::new(&mut kernel, time);
    let by_state = by_state.map(|state| SharedRows::new(state, 2 * channels * problem.state_dim));
    let updates = super::updates(problem) / if by_state.is_some() { 1 } else { problem.batch };
    collect(channels.div_ceil(BLOCK), updates, |index| {
        dispatch(BlockKernels {
            problem,
            cotangents,
            discrete,
            block: block(index, channels),
            kernel: &rows,
            by_state: by_state.as_ref(),
        });
    });
    kernel
}

/// What [`kernels`] gives, of a block of channels.
struct BlockKernels<'a> {
    problem: &'a Problem<'a>,
    cotangents: &'a Cotangents<'a>,
    discrete: &'a [(Channel, Discrete)],
    block: Range<usize>,
    kernel: &'a SharedRows<'a>,
    by_state: Option<&'a SharedRows<'a>>,
}

impl WithSimd for BlockKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem {
            batch,
            time,
            channels,
            outputs,
            state_dim,
            spectrum,
            ..
        } = *self.problem;
        let (len, weight) = (2 * state_dim, spectrum.weight());
        let width = len.next_multiple_of(WIDEST_VECTOR);
        let mut rows = vec![0.0; TILE * width];
        let mut reads = [0.0; TILE];
        let mut sums = vec![0.0; batch * width];
        for h in self.block.clone() {
            let (channel, discrete) = &self.discrete[h];
            sums.fill(0.0);
            for output in 0..outputs {
                let column = output * channels + h;
                // SAFETY: this call alone has these channels.
                let kernel = unsafe { self.kernel.part(column, 0..time) };
                let c = &channel.c[output * state_dim..(output + 1) * state_dim];
                let mut functional = Functional::new(discrete, c);
                for (tile, kernel) in kernel.chunks_mut(TILE).enumerate() {
                    for (k, row) in kernel.iter_mut().zip(rows.chunks_exact_mut(width.max(1))) {
                        *k = (weight * functional.now.inner(&functional.input)) as f32;
                        functional.advance();
                        functional.now.store_conjugate(weight, &mut row[..len]);
                    }
                    let (Some(_), Some(out)) = (self.by_state, &self.cotangents.out) else {
                        continue;
                    };
                    for (b, sum) in sums.chunks_exact_mut(width.max(1)).enumerate() {
                        let reads = &mut reads[..kernel.len()];
                        for (i, read) in reads.iter_mut().enumerate() {
                            *read = out.row(b * time + tile * TILE + i)[column];
                        }
                        add_rows(simd, reads, |i| &rows[i * width..(i + 1) * width], sum);
                    }
                }
            }
            if let Some(state) = self.by_state {
                for (b, sum) in sums.chunks_exact(width.max(1)).enumerate() {
                    // SAFETY: as above.
                    let state = unsafe { state.part(b, h * len..(h + 1) * len) };
                    state.copy_from_slice(&sum[..len]);
                }
            }
        }
    }
}

/// r_l = C Ā^l of one output of a channel, from l = 0 on.
struct Functional {
    decay: Port,
    input: Port,
    /// E_k and F_k.
    feedback: Vec<(Port, Port)>,
    now: Port,
    next: Port,
}

impl Functional {
    fn new(discrete: &Discrete, c: &[pulp::c64]) -> Self {
        Self {
            decay: Port::new(discrete.modes.iter().map(|mode| mode.change + 1.0)),
            input: Port::new(discrete.modes.iter().map(|mode| mode.input)),
            feedback: feedback(discrete),
            now: Port::new(c.iter().copied()),
            next: Port::new(c.iter().copied()),
        }
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.now.times(&self.decay, &mut self.next);
        for (read, write) in &self.feedback {
            self.next.add_scaled(-2.0 * self.now.inner(write), read);
        }
        std::mem::swap(&mut self.now, &mut self.next);
    }
}
