//! Output and final state.

use super::{Signal, THREADED_WORK, TOKENS_PER_TASK, activate, transpose};
use crate::Sequences;
use crate::causal_conv1d::{Activation, ConvError, Inputs, Problem};
use crate::simd::{dispatch, mul_add_one};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Convolves every channel over time. `state` is read, and left as the last `width − 1` inputs of each sequence.
///
/// # Shapes
/// `state` `[batch, channels, width − 1]` oldest first, `out` `[rows, channels]`, the rest as in [`Inputs`]. Rows of padding come
/// out as 0.
///
/// # Errors
/// [`ConvError`] when a shape does not fit; nothing is written then.
pub fn causal_conv1d(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), ConvError> {
    problem.validate(inputs, state.len(), out.len())?;
    let Problem {
        batch,
        time,
        channels,
        width,
        ..
    } = *problem;
    if out.is_empty() {
        return Ok(());
    }
    let past_len = problem.past_len();
    if time == 1 && inputs.sequences == Sequences::Equal {
        one_token(problem, inputs, state, out);
        return Ok(());
    }
    let past: Vec<Vec<f32>> = (0..batch)
        .map(|b| transpose(&state[b * past_len..(b + 1) * past_len], channels, width - 1))
        .collect();
    let signal = Signal {
        problem,
        x: inputs.input,
        weight: &transpose(inputs.weight, channels, width),
        bias: inputs.bias,
        spans: &inputs.sequences.spans(batch, time),
        past: &past,
    };
    let tokens = |(task, out): (usize, &mut [f32])| {
        let first = task * TOKENS_PER_TASK;
        dispatch(Tokens { signal, first, out });
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
    for b in 0..batch {
        carry(&signal, b, &mut state[b * past_len..(b + 1) * past_len]);
    }
    Ok(())
}

/// The last `width − 1` inputs become the state.
fn carry(signal: &Signal, b: usize, state: &mut [f32]) {
    let (columns, time) = (signal.problem.width - 1, signal.spans[b].len());
    for column in 0..columns {
        let values = signal.input(b, time as isize - columns as isize + column as isize);
        for (state, &value) in state[column..].iter_mut().step_by(columns).zip(values) {
            *state = value;
        }
    }
}

/// Convolves one token of each sequence.
fn one_token(problem: &Problem, inputs: &Inputs, state: &mut [f32], out: &mut [f32]) {
    let past_len = problem.past_len();
    for (b, out) in out.chunks_exact_mut(problem.channels).enumerate() {
        dispatch(OneToken {
            problem,
            x: inputs.input.row(b),
            weight: inputs.weight,
            bias: inputs.bias,
            state: &mut state[b * past_len..(b + 1) * past_len],
            out,
        });
    }
}

/// Convolves one token of one sequence, on the state's own layout: nothing is transposed or allocated.
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
    fn with_simd<S: Simd>(self, simd: S) {
        match self.problem.width {
            4 => self.taps::<S, 4>(simd),
            3 => self.taps::<S, 3>(simd),
            2 => self.taps::<S, 2>(simd),
            _ => self.any_width(simd),
        }
    }
}

impl OneToken<'_> {
    #[inline(always)]
    fn taps<S: Simd, const W: usize>(self, simd: S) {
        let (weights, _) = self.weight.as_chunks::<W>();
        // One zipped walk: an index into any of these would be checked per channel, and keep the loop scalar.
        let pasts = self.state.chunks_exact_mut(W - 1);
        let channels = self.out.iter_mut().zip(weights).zip(pasts).zip(self.x);
        for (((out, taps), past), &x) in channels {
            let mut y = taps[W - 1] * x;
            for (&tap, &past) in taps.iter().zip(past.iter()) {
                y = mul_add_one(simd, tap, past, y);
            }
            for j in 0..W - 2 {
                past[j] = past[j + 1];
            }
            past[W - 2] = x;
            *out = y;
        }
        finish(simd, self.problem.activation, self.bias, self.out);
    }

    #[inline(always)]
    fn any_width<S: Simd>(self, simd: S) {
        let width = self.problem.width;
        for (c, out) in self.out.iter_mut().enumerate() {
            let past = &mut self.state[c * (width - 1)..(c + 1) * (width - 1)];
            let taps = &self.weight[c * width..(c + 1) * width];
            let before: f32 = past.iter().zip(taps).map(|(p, w)| p * w).sum();
            *out = mul_add_one(simd, taps[width - 1], self.x[c], before);
            if let Some(newest) = past.len().checked_sub(1) {
                past.copy_within(1.., 0);
                past[newest] = self.x[c];
            }
        }
        finish(simd, self.problem.activation, self.bias, self.out);
    }
}

/// Some tokens, from row `first` of all rows on.
struct Tokens<'a> {
    signal: Signal<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem {
            channels, activation, ..
        } = *self.signal.problem;
        let mut from = self.signal.sequence_after(self.first);
        for (row, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let row = self.first + row;
            match self.signal.sequence_of(row, &mut from) {
                None => out.fill(0.0),
                Some(b) => {
                    self.signal.convolve(simd, b, row, out);
                    activate(simd, activation, out);
                }
            }
        }
    }
}

/// Adds the bias and applies the activation to one token's outputs.
#[inline(always)]
fn finish<S: Simd>(simd: S, activation: Activation, bias: Option<&[f32]>, out: &mut [f32]) {
    if let Some(bias) = bias {
        for (out, &bias) in out.iter_mut().zip(bias) {
            *out += bias;
        }
    }
    activate(simd, activation, out);
}
