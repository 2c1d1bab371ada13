//! The kernels K_l = w Re(C Ā^l B̄) of a system, and what they give of the gradient by the state before the first token; the formulas
//! are those of [`convolved_backward`](super::convolved_backward).

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::WIDEST_VECTOR;
use super::tables::{Port, feedback};
use crate::blocks::{BLOCK, block, collect};
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Cotangents, Problem};
use crate::simd::dispatch;
use crate::vector::{SharedRows, add_rows};

/// Positions whose r are in memory at a time.
const TILE: usize = 64;

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
    /// E_k and F_k of every rank k, which read and write the feedback.
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
