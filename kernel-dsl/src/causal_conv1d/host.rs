//! The convolution on the CPU: channels in SIMD lanes, tokens over threads.

use super::{Activation, ConvError, Problem};
use crate::Rows;
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Multiply-adds below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 18;
/// Tokens that one task computes.
const TOKENS_PER_TASK: usize = 32;

/// Convolves every channel over time. `state` is read, and left as the last `width − 1` inputs.
///
/// # Shapes
/// `x` `[batch · time, channels]`, `weight` `[channels, width]`, `bias` `[channels]`, `state` `[batch, channels, width − 1]`
/// oldest first, `out` `[batch · time, channels]`.
///
/// # Errors
/// [`ConvError`] when a shape does not fit; nothing is written then.
pub fn causal_conv1d(
    problem: &Problem,
    x: Rows,
    weight: &[f32],
    bias: Option<&[f32]>,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), ConvError> {
    problem.validate(&x, weight.len(), bias.map(<[f32]>::len), state.len(), out.len())?;
    let Problem {
        batch,
        time,
        channels,
        width,
        ..
    } = *problem;
    if time == 0 || batch == 0 || channels == 0 {
        return Ok(());
    }
    let past_len = channels * (width - 1);
    if time == 1 {
        for b in 0..batch {
            let state = &mut state[b * past_len..(b + 1) * past_len];
            let out = &mut out[b * channels..(b + 1) * channels];
            Arch::new().dispatch(OneToken {
                problem,
                x: x.row(b),
                weight,
                bias,
                state,
                out,
            });
        }
        return Ok(());
    }
    let weight = transpose(weight, channels, width);
    let past: Vec<Vec<f32>> = (0..batch)
        .map(|b| transpose(&state[b * past_len..(b + 1) * past_len], channels, width - 1))
        .collect();
    let tokens = |(task, out): (usize, &mut [f32])| {
        Arch::new().dispatch(Tokens {
            problem,
            x,
            weight: &weight,
            bias,
            past: &past,
            first: task * TOKENS_PER_TASK,
            out,
        });
    };
    if out.len() * width < THREADED_WORK {
        out.chunks_mut(TOKENS_PER_TASK * channels)
            .enumerate()
            .for_each(tokens);
    } else {
        out.par_chunks_mut(TOKENS_PER_TASK * channels)
            .enumerate()
            .for_each(tokens);
    }
    for (b, past) in past.iter().enumerate() {
        carry(problem, x, b, past, &mut state[b * past_len..(b + 1) * past_len]);
    }
    Ok(())
}

/// `[rows, cols]` to `[cols, rows]`.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    for (row, values) in values.chunks_exact(cols.max(1)).enumerate() {
        for (col, &value) in values.iter().enumerate() {
            out[col * rows + row] = value;
        }
    }
    out
}

/// Input `t` of sequence `b`, where negative tokens are the state's.
#[inline(always)]
fn input<'a>(problem: &Problem, x: Rows<'a>, past: &'a [f32], b: usize, t: isize) -> &'a [f32] {
    match usize::try_from(t) {
        Ok(t) => x.row(b * problem.time + t),
        Err(_) => {
            let row = (problem.width as isize - 1 + t) as usize;
            &past[row * problem.channels..(row + 1) * problem.channels]
        }
    }
}

/// The last `width − 1` inputs become the state.
fn carry(problem: &Problem, x: Rows, b: usize, past: &[f32], state: &mut [f32]) {
    let columns = problem.width - 1;
    for column in 0..columns {
        let t = problem.time as isize - columns as isize + column as isize;
        let values = input(problem, x, past, b, t);
        for (state, &value) in state[column..].iter_mut().step_by(columns).zip(values) {
            *state = value;
        }
    }
}

/// One token of one sequence, on the state's own layout: nothing is transposed or allocated.
struct OneToken<'a> {
    problem: &'a Problem,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for OneToken<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        match self.problem.width {
            4 => self.taps::<4>(),
            3 => self.taps::<3>(),
            2 => self.taps::<2>(),
            _ => self.any_width(),
        }
    }
}

impl OneToken<'_> {
    #[inline(always)]
    fn taps<const W: usize>(self) {
        let (weights, _) = self.weight.as_chunks::<W>();
        // One zipped walk: an index into any of these would be checked per channel, and keep the loop scalar.
        let pasts = self.state.chunks_exact_mut(W - 1);
        let channels = self.out.iter_mut().zip(weights).zip(pasts).zip(self.x);
        for (((out, taps), past), &x) in channels {
            let mut y = taps[W - 1] * x;
            for (&tap, &past) in taps.iter().zip(past.iter()) {
                y = tap.mul_add(past, y);
            }
            for j in 0..W - 2 {
                past[j] = past[j + 1];
            }
            past[W - 2] = x;
            *out = y;
        }
        finish(self.problem.activation, self.bias, self.out);
    }

    #[inline(always)]
    fn any_width(self) {
        let width = self.problem.width;
        for (c, out) in self.out.iter_mut().enumerate() {
            let past = &mut self.state[c * (width - 1)..(c + 1) * (width - 1)];
            let taps = &self.weight[c * width..(c + 1) * width];
            let before: f32 = past.iter().zip(taps).map(|(p, w)| p * w).sum();
            *out = taps[width - 1].mul_add(self.x[c], before);
            if let Some(newest) = past.len().checked_sub(1) {
                past.copy_within(1.., 0);
                past[newest] = self.x[c];
            }
        }
        finish(self.problem.activation, self.bias, self.out);
    }
}

/// Some tokens, from row `first` of the batched rows on.
struct Tokens<'a> {
    problem: &'a Problem,
    x: Rows<'a>,
    /// `[width, channels]`.
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    /// Per sequence `[width − 1, channels]`.
    past: &'a [Vec<f32>],
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Problem {
            time,
            channels,
            width,
            activation,
            ..
        } = *self.problem;
        for (row, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let (b, t) = ((self.first + row) / time, (self.first + row) % time);
            out.fill(0.0);
            for (j, taps) in self.weight.chunks_exact(channels).enumerate() {
                let t = t as isize + j as isize - (width as isize - 1);
                let x = input(self.problem, self.x, &self.past[b], b, t);
                for ((out, &w), &x) in out.iter_mut().zip(taps).zip(x) {
                    *out = w.mul_add(x, *out);
                }
            }
            finish(activation, self.bias, out);
        }
    }
}

/// Adds the bias and applies the activation to one token's outputs.
#[inline(always)]
fn finish(activation: Activation, bias: Option<&[f32]>, out: &mut [f32]) {
    if let Some(bias) = bias {
        for (out, &bias) in out.iter_mut().zip(bias) {
            *out += bias;
        }
    }
    if activation == Activation::Silu {
        for out in out.iter_mut() {
            *out = math::silu(*out);
        }
    }
}
