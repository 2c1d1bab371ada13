//! Gradients, by the kernel: a correlation for the inputs, one for the kernel, and the ends of sequences on their own.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::convolved::{TILE, kernel};
use super::updates;
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::sequences::Sequences;
use crate::shift_state_space::problem::{Cotangents, Gradients, Inputs, Problem, ShiftError};
use crate::simd::dispatch;
use crate::vector::{SharedRows, add_rows, dot};

/// Values in the widest vector.
const WIDEST_VECTOR: usize = 16;

/// The gradients of a loss by every input, from its cotangents by output and final state (see
/// [the module](crate::shift_state_space) for the formulas).
///
/// # Errors
/// [`ShiftError`] when a shape is wrong; no gradient has changed then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), ShiftError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    let mut kernels = vec![0.0; inputs.c.len()];
    kernel(problem, inputs, &mut kernels)?;
    if matches!(problem.sequences, Sequences::LeftPadded(_)) {
        gradients.input.fill(0.0);
    }
    let Problem {
        channels,
        outputs,
        state_dim: n,
        ..
    } = *problem;
    let input = SharedRows::new(gradients.input, channels);
    let state = gradients
        .state
        .as_deref_mut()
        .map(|state| SharedRows::new(state, channels * n));
    // A thread works on all sequences of its channels, so that sums over them need no other.
    let blocks = collect(channels.div_ceil(BLOCK), updates(problem), |index| {
        let block = block(index, channels);
        dispatch(BlockBackward {
            problem,
            inputs,
            cotangents,
            kernels: &kernels,
            block,
            input,
            state,
        })
    });
    for (h, found) in blocks.into_iter().flatten().enumerate() {
        round(&found.b, &mut gradients.b[h * n..(h + 1) * n]);
        for output in 0..outputs {
            let at = output * channels + h;
            round(
                &found.c[output * n..(output + 1) * n],
                &mut gradients.c[at * n..(at + 1) * n],
            );
            if let Some(skip) = &mut gradients.skip {
                skip[at] = found.skip[output] as f32;
            }
        }
    }
    Ok(())
}

fn round(values: &[f64], rounded: &mut [f32]) {
    rounded
        .iter_mut()
        .zip(values)
        .for_each(|(rounded, value)| *rounded = *value as f32);
}

/// Derivatives by B, C, D and K of one channel, over all sequences.
struct Found {
    b: Vec<f64>,
    /// Derivatives by C, `[outputs, state_dim]`.
    c: Vec<f64>,
    /// Derivatives by D, `[outputs]`.
    skip: Vec<f64>,
    /// Derivatives by K, `[outputs, state_dim]`.
    kernel: Vec<f64>,
}

/// The gradients of a block of channels.
struct BlockBackward<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    cotangents: &'a Cotangents<'a>,
    kernels: &'a [f32],
    block: Range<usize>,
    input: SharedRows<'a>,
    state: Option<SharedRows<'a>>,
}

/// The tokens of a channel in a sequence, and their derivatives.
struct Runs<'a> {
    /// Zeros, as many as the kernel is long in whole vectors, then u.
    u: &'a [f32],
    /// ȳ and then zeros, for each output `stride` apart.
    y: &'a [f32],
    stride: usize,
    by_u: &'a mut [f32],
}

impl WithSimd for BlockBackward<'_> {
    type Output = Vec<Found>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Found> {
        let Problem {
            outputs,
            state_dim: n,
            ..
        } = *self.problem;
        let nothing = |_| Found {
            b: vec![0.0; n],
            c: vec![0.0; outputs * n],
            skip: vec![0.0; outputs],
            kernel: vec![0.0; outputs * n],
        };
        let mut found: Vec<Found> = self.block.clone().map(nothing).collect();
        for (sequence, span) in self
            .problem
            .sequences
            .spans(self.problem.batch, self.problem.time)
            .into_iter()
            .enumerate()
        {
            self.sequence(simd, (sequence, span), &mut found);
        }
        for (h, found) in self.block.clone().zip(&mut found) {
            self.through_kernel(h, found);
        }
        found
    }
}

impl BlockBackward<'_> {
    #[inline(always)]
    fn sequence<S: Simd>(&self, simd: S, (sequence, span): (usize, Range<usize>), found: &mut [Found]) {
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *self.problem;
        let width = n.next_multiple_of(WIDEST_VECTOR);
        let padded = span.len().next_multiple_of(TILE);
        let length = width + padded;
        let mut u = vec![0.0; self.block.len() * length];
        gather(
            &self.inputs.input,
            span.clone(),
            self.block.clone(),
            length,
            &mut u[width..],
        );
        let mut y = vec![0.0; outputs * self.block.len() * length];
        if let Some(out) = &self.cotangents.out {
            for (output, runs) in y.chunks_exact_mut((self.block.len() * length).max(1)).enumerate() {
                let columns = output * channels + self.block.start..output * channels + self.block.end;
                gather(out, span.clone(), columns, length, runs);
            }
        }
        let mut by_u = vec![0.0; self.block.len() * padded];
        for (c, (h, found)) in self.block.clone().zip(found).enumerate() {
            let mut runs = Runs {
                u: &u[c * length..][..length],
                y: &y[(c * length).min(y.len())..],
                stride: self.block.len() * length,
                by_u: &mut by_u[c * padded..][..padded],
            };
            self.by_tokens(simd, h, span.len(), &mut runs, found);
            let by_state = self.by_ends((sequence, h), span.len(), width, &mut runs, found);
            if let Some(state) = &self.state {
                // SAFETY: this call alone writes these channels.
                round(&by_state, unsafe { state.part(sequence, h * n..(h + 1) * n) });
            }
        }
        // SAFETY: as before.
        unsafe { scatter(&by_u, padded, span, self.block.clone(), &self.input) };
    }

    /// ∂u by K and D, ∂K and ∂D.
    #[inline(always)]
    fn by_tokens<S: Simd>(&self, simd: S, h: usize, time: usize, runs: &mut Runs, found: &mut Found) {
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *self.problem;
        let width = runs.u.len() - runs.by_u.len();
        // By lags from the longest to 0.
        let mut by_lag = vec![0.0; width];
        for output in 0..outputs {
            let at = output * channels + h;
            let skip = self.inputs.skip.map_or(0.0, |skip| skip[at]);
            let kernel = &self.kernels[at * n..(at + 1) * n];
            let y = &runs.y[output * runs.stride..][..runs.u.len()];
            for first in (0..time).step_by(TILE) {
                let by_u = &mut runs.by_u[first..first + TILE];
                by_u.iter_mut()
                    .zip(&y[first..])
                    .for_each(|(by_u, y)| *by_u += skip * y);
                add_rows(simd, kernel, |l| &y[first + l..][..TILE], by_u);
                let tile = &y[first..time.min(first + TILE)];
                by_lag.fill(0.0);
                add_rows(simd, tile, |t| &runs.u[first + t + 1..][..width], &mut by_lag);
                let by_kernel = found.kernel[output * n..(output + 1) * n].iter_mut();
                by_kernel
                    .zip(by_lag.iter().rev())
                    .for_each(|(sum, by)| *sum += f64::from(*by));
                found.skip[output] += f64::from(dot(simd, &runs.u[width + first..], tile));
            }
        }
    }

    /// What the initial and the final state have to do with tokens and with each other; the derivative by the initial one.
    fn by_ends(
        &self,
        (sequence, h): (usize, usize),
        time: usize,
        width: usize,
        runs: &mut Runs,
        found: &mut Found,
    ) -> Vec<f64> {
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *self.problem;
        let of_state = (sequence * channels + h) * n..(sequence * channels + h + 1) * n;
        let initial = self
            .inputs
            .state
            .map_or(&[][..], |state| &state[of_state.clone()]);
        let mut by_state = vec![0.0; n];
        for output in 0..outputs {
            let at = output * channels + h;
            let c = &self.inputs.c[at * n..(at + 1) * n];
            for t in 0..time.min(n.saturating_sub(1)) {
                let y = f64::from(runs.y[output * runs.stride + t]);
                for i in 0..n - 1 - t {
                    by_state[i] += y * f64::from(c[i + t + 1]);
                }
                for (i, s) in initial.iter().take(n - 1 - t).enumerate() {
                    found.c[output * n + i + t + 1] += y * f64::from(*s);
                }
            }
        }
        let last = self.cotangents.state.map_or(&[][..], |state| &state[of_state]);
        let b = &self.inputs.b[h * n..(h + 1) * n];
        for (i, by) in last.iter().enumerate() {
            if i >= time {
                by_state[i - time] += f64::from(*by);
            }
            for j in 0..(i + 1).min(time) {
                found.b[i - j] += f64::from(*by) * f64::from(runs.u[width + time - 1 - j]);
                runs.by_u[time - 1 - j] += by * b[i - j];
            }
        }
        by_state
    }

    /// Adds what ∂K gives to ∂B and ∂C.
    fn through_kernel(&self, h: usize, found: &mut Found) {
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *self.problem;
        let b = &self.inputs.b[h * n..(h + 1) * n];
        for output in 0..outputs {
            let at = output * channels + h;
            let c = &self.inputs.c[at * n..(at + 1) * n];
            for l in 0..n {
                let by = found.kernel[output * n + l];
                for i in 0..n - l {
                    found.b[i] += by * f64::from(c[i + l]);
                    found.c[output * n + i + l] += by * f64::from(b[i]);
                }
            }
        }
    }
}
