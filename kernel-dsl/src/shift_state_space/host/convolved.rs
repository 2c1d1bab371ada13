//! The shift system by its kernel: N multiply-adds a token and output, with vectors over tokens.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{begin, correlation, sequential, updates};
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::sequences::Sequences;
use crate::shift_state_space::problem::{Inputs, OPERATOR, Outputs, Problem, ShiftError};
use crate::simd::dispatch;
use crate::vector::{SharedRows, add_rows, dot};

/// Tokens of a tile: a multiple of the widest vector whose outputs stay in registers or the first cache.
pub(super) const TILE: usize = 64;

/// K, the response of each output of each channel to one input of 1, without D.
///
/// # Shapes
/// `kernel` `[outputs, channels, state_dim]`.
///
/// # Errors
/// [`ShiftError`] when a shape is wrong; nothing is written then.
pub fn kernel(problem: &Problem, inputs: &Inputs, kernel: &mut [f32]) -> Result<(), ShiftError> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values("kernel", inputs.c.len(), kernel.len())?;
    let n = problem.state_dim;
    for (at, (kernel, c)) in kernel
        .chunks_exact_mut(n.max(1))
        .zip(inputs.c.chunks_exact(n.max(1)))
        .enumerate()
    {
        let h = at % problem.channels;
        let values = correlation(&inputs.b[h * n..(h + 1) * n], c);
        kernel
            .iter_mut()
            .zip(values)
            .for_each(|(k, value)| *k = value as f32);
    }
    Ok(())
}

/// What [`sequential`](crate::shift_state_space::sequential) computes, by whichever form is faster.
///
/// # Errors
/// As for [`sequential`](crate::shift_state_space::sequential).
pub fn forward(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), ShiftError> {
    // The kernel costs about as much as N tokens.
    match problem.rows() > problem.state_dim {
        true => convolved(problem, inputs, outputs),
        false => sequential(problem, inputs, outputs),
    }
}

/// What [`sequential`](crate::shift_state_space::sequential) computes, as a convolution.
///
/// # Errors
/// As for [`sequential`](crate::shift_state_space::sequential).
pub fn convolved(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), ShiftError> {
    let mut kernels = vec![0.0; inputs.c.len()];
    problem.validate_forward(inputs, outputs)?;
    kernel(problem, inputs, &mut kernels)?;
    begin(inputs, outputs.state);
    if matches!(problem.sequences, Sequences::LeftPadded(_)) {
        outputs.out.fill(0.0);
    }
    let Problem {
        batch,
        channels,
        state_dim,
        ..
    } = *problem;
    let state = SharedRows::new(outputs.state, channels * state_dim);
    let out = SharedRows::new(outputs.out, problem.outputs * channels);
    let blocks = channels.div_ceil(BLOCK);
    collect(batch * blocks, updates(problem), |index| {
        let (sequence, block) = (index / blocks, block(index % blocks, channels));
        // SAFETY: every block of every sequence is worked on once, and no two share channels of a sequence.
        let state = unsafe { state.part(sequence, block.start * state_dim..block.end * state_dim) };
        let rows = problem.sequences.span(sequence, problem.time);
        dispatch(Convolution {
            problem,
            inputs,
            kernels: &kernels,
            rows,
            block,
            state,
            out,
        });
    });
    Ok(())
}

/// A block of channels through the tokens of a sequence.
struct Convolution<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    kernels: &'a [f32],
    rows: Range<usize>,
    block: Range<usize>,
    /// States s of the block's channels, `[block, state_dim]`.
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

impl WithSimd for Convolution<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            problem,
            inputs,
            kernels,
            rows,
            block,
            state,
            out,
        } = self;
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *problem;
        if rows.is_empty() {
            return;
        }
        // The inputs of each channel, with as many zeros before them as the kernel is long.
        let length = n + rows.len().next_multiple_of(TILE);
        let mut u = vec![0.0; block.len() * length];
        gather(&inputs.input, rows.clone(), block.clone(), length, &mut u[n..]);
        let mut reads = vec![0.0; outputs * BLOCK * TILE];
        for first in (0..rows.len()).step_by(TILE) {
            let tile = first..rows.len().min(first + TILE);
            for (c, h) in block.clone().enumerate() {
                let u = &u[c * length..][..length];
                for output in 0..outputs {
                    let at = (output * channels + h) * n;
                    let reads = &mut reads[(output * BLOCK + c) * TILE..][..TILE];
                    let skip = inputs.skip.map_or(0.0, |skip| skip[output * channels + h]);
                    for (read, u) in reads.iter_mut().zip(&u[n + first..]) {
                        *read = skip * u;
                    }
                    add_rows(simd, &kernels[at..at + n], |l| &u[n + first - l..][..TILE], reads);
                    let state = &state[c * n..(c + 1) * n];
                    let c = &inputs.c[at..at + n];
                    for t in tile.start..tile.end.min(n.saturating_sub(1)) {
                        reads[t - first] += dot(simd, &c[t + 1..], &state[..n - 1 - t]);
                    }
                }
            }
            for (output, reads) in reads.chunks_exact(BLOCK * TILE).enumerate() {
                let columns = output * channels + block.start..output * channels + block.end;
                let rows = rows.start + tile.start..rows.start + tile.end;
                // SAFETY: this call alone writes these channels of this sequence.
                unsafe { scatter(reads, TILE, rows, columns, &out) };
            }
        }
        for (c, h) in block.enumerate() {
            let u = &u[c * length + n..][..rows.len()];
            last_state(&inputs.b[h * n..(h + 1) * n], u, &mut state[c * n..(c + 1) * n]);
        }
    }
}

/// Takes `state` from before the tokens of `u` to after them.
fn last_state(b: &[f32], u: &[f32], state: &mut [f32]) {
    let (n, time) = (b.len(), u.len());
    for i in (0..n).rev() {
        let kept = if i >= time { state[i - time] } else { 0.0 };
        let newest = u.iter().rev().take(i + 1);
        let sum: f32 = newest.zip(b[..=i].iter().rev()).map(|(u, b)| u * b).sum();
        state[i] = kept + sum;
    }
}
