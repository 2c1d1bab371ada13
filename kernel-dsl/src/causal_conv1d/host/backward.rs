//! Gradients of input, taps, bias and initial state.

use super::{Signal, THREADED_WORK, TOKENS_PER_TASK, transpose};
use crate::Rows;
use crate::causal_conv1d::{Activation, ConvError, Cotangents, Gradients, Inputs, Problem};
use crate::math;
use crate::simd::{dispatch, mul_add_one};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Gradients of the loss by all that [`causal_conv1d`](super::causal_conv1d) reads, from its cotangents.
///
/// Sums over tokens are taken in an order that does not depend on the number of threads.
///
/// # Shapes
/// `initial_state` `[batch, channels, width − 1]`, the state before the first token; the rest as in [`Inputs`], [`Cotangents`] and
/// [`Gradients`]. Rows of padding get gradient 0.
///
/// # Errors
/// [`ConvError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), ConvError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    let Problem {
        batch,
        time,
        channels,
        width,
        ..
    } = *problem;
    if channels == 0 {
        return Ok(());
    }
    let past_len = problem.past_len();
    let past: Vec<Vec<f32>> = (0..batch)
        .map(|b| {
            transpose(
                &initial_state[b * past_len..(b + 1) * past_len],
                channels,
                width - 1,
            )
        })
        .collect();
    let signal = Signal {
        problem,
        x: inputs.input,
        weight: &transpose(inputs.weight, channels, width),
        bias: inputs.bias,
        spans: &inputs.sequences.spans(batch, time),
        past: &past,
    };
    let pull_back = PullBack {
        signal,
        cotangent: cotangents.out,
    };
    let sums = tokens(&pull_back, gradients.input);
    write_sums(problem, &sums, gradients);
    for b in 0..batch {
        dispatch(Past {
            pull_back,
            b,
            state: &mut gradients.state[b * past_len..(b + 1) * past_len],
        });
    }
    if let Some(state) = cotangents.state {
        add_state_cotangent(&signal, state, gradients);
    }
    Ok(())
}

/// Writes x̄ and gives the sums w̄ `[width, channels]` and b̄ `[channels]`, one after the other.
fn tokens(pull_back: &PullBack, input: &mut [f32]) -> Vec<f32> {
    let Problem { channels, width, .. } = *pull_back.signal.problem;
    let mut sums = vec![0.0; (width + 1) * channels];
    if input.is_empty() {
        return sums;
    }
    let task = |(task, input): (usize, &mut [f32])| {
        let mut sums = vec![0.0; (width + 1) * channels];
        dispatch(Tokens {
            pull_back: *pull_back,
            first: task * TOKENS_PER_TASK,
            input,
            sums: &mut sums,
        });
        sums
    };
    let parts: Vec<Vec<f32>> = if input.len() * width < THREADED_WORK {
        input
            .chunks_mut(TOKENS_PER_TASK * channels)
            .enumerate()
            .map(task)
            .collect()
    } else {
        input
            .par_chunks_mut(TOKENS_PER_TASK * channels)
            .enumerate()
            .map(task)
            .collect()
    };
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

fn write_sums(problem: &Problem, sums: &[f32], gradients: &mut Gradients) {
    let Problem { channels, width, .. } = *problem;
    let (weight, bias) = sums.split_at(width * channels);
    gradients
        .weight
        .copy_from_slice(&transpose(weight, width, channels));
    if let Some(gradient) = &mut gradients.bias {
        gradient.copy_from_slice(bias);
    }
}

/// The final state is a copy of the last W − 1 of (state, inputs): its cotangent goes where these came from.
fn add_state_cotangent(signal: &Signal, cotangent: &[f32], gradients: &mut Gradients) {
    let Problem { channels, width, .. } = *signal.problem;
    let columns = width - 1;
    for (i, &value) in cotangent.iter().enumerate() {
        let (b, c, column) = (i / columns / channels, i / columns % channels, i % columns);
        let (span, place) = (&signal.spans[b], signal.spans[b].len() + column);
        match place.checked_sub(columns) {
            Some(t) => gradients.input[(span.start + t) * channels + c] += value,
            None => gradients.state[i - column + place] += value,
        }
    }
}

#[derive(Clone, Copy)]
struct PullBack<'a> {
    signal: Signal<'a>,
    /// Cotangent ȳ of the output, `[rows, channels]`.
    cotangent: Rows<'a>,
}

impl PullBack<'_> {
    /// δ = ȳ act′(p) of a row of sequence `b`.
    #[inline(always)]
    fn delta<S: Simd>(&self, simd: S, b: usize, row: usize, delta: &mut [f32]) {
        let cotangent = self.cotangent.row(row);
        match self.signal.problem.activation {
            Activation::None => delta.copy_from_slice(cotangent),
            Activation::Silu => {
                self.signal.convolve(simd, b, row, delta);
                for (delta, &cotangent) in delta.iter_mut().zip(cotangent) {
                    *delta = cotangent * math::silu_derivative(simd, *delta);
                }
            }
        }
    }

    /// Adds weight_j δ, what one token gives to s̄ by tap `j`.
    #[inline(always)]
    fn add_tap<S: Simd>(&self, simd: S, j: usize, delta: &[f32], sum: &mut [f32]) {
        let channels = self.signal.problem.channels;
        let taps = &self.signal.weight[j * channels..(j + 1) * channels];
        for ((sum, &w), &delta) in sum.iter_mut().zip(taps).zip(delta) {
            *sum = mul_add_one(simd, w, delta, *sum);
        }
    }
}

/// Some rows, from `first` on.
struct Tokens<'a> {
    pull_back: PullBack<'a>,
    first: usize,
    /// x̄ of the rows.
    input: &'a mut [f32],
    /// w̄ `[width, channels]` and b̄ `[channels]` of the rows.
    sums: &'a mut [f32],
}

impl WithSimd for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let signal = &self.pull_back.signal;
        let Problem { channels, width, .. } = *signal.problem;
        // δ of the rows here and of the W − 1 rows after them, which read inputs from here too.
        let rows = self.input.len() / channels;
        let mut deltas = vec![0.0; (rows + width - 1) * channels];
        let mut from = signal.sequence_after(self.first);
        for (i, delta) in deltas.chunks_exact_mut(channels).enumerate() {
            let row = self.first + i;
            if let Some(b) = signal.sequence_of(row, &mut from) {
                self.pull_back.delta(simd, b, row, delta);
                if i < rows {
                    add_sums(simd, signal, b, row, delta, self.sums);
                }
            }
        }
        let mut from = signal.sequence_after(self.first);
        for (i, gradient) in self.input.chunks_exact_mut(channels).enumerate() {
            gradient.fill(0.0);
            let row = self.first + i;
            let Some(b) = signal.sequence_of(row, &mut from) else {
                continue;
            };
            let reach = width.min(signal.spans[b].end - row);
            for (later, delta) in deltas[i * channels..]
                .chunks_exact(channels)
                .take(reach)
                .enumerate()
            {
                self.pull_back.add_tap(simd, width - 1 - later, delta, gradient);
            }
        }
    }
}

/// Adds δ s_{t+j} of one row to w̄_j, and δ to b̄.
#[inline(always)]
fn add_sums<S: Simd>(simd: S, signal: &Signal, b: usize, row: usize, delta: &[f32], sums: &mut [f32]) {
    let channels = signal.problem.channels;
    let (weights, bias) = sums.split_at_mut(signal.problem.width * channels);
    for (sum, x) in weights.chunks_exact_mut(channels).zip(signal.taps(b, row)) {
        for ((sum, &delta), &x) in sum.iter_mut().zip(delta).zip(x) {
            *sum = mul_add_one(simd, delta, x, *sum);
        }
    }
    bias.iter_mut().zip(delta).for_each(|(sum, &delta)| *sum += delta);
}

/// The gradient of one sequence's initial state, which the first W − 1 tokens read.
struct Past<'a> {
    pull_back: PullBack<'a>,
    b: usize,
    state: &'a mut [f32],
}

impl WithSimd for Past<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let signal = &self.pull_back.signal;
        let Problem { channels, width, .. } = *signal.problem;
        let (columns, span) = (width - 1, &signal.spans[self.b]);
        let (mut delta, mut past) = (vec![0.0; channels], vec![0.0; columns * channels]);
        for t in 0..columns.min(span.len()) {
            self.pull_back.delta(simd, self.b, span.start + t, &mut delta);
            // s_i meets token t at tap j = i − t.
            for i in t..columns {
                let sum = &mut past[i * channels..(i + 1) * channels];
                self.pull_back.add_tap(simd, i - t, &delta, sum);
            }
        }
        self.state.copy_from_slice(&transpose(&past, columns, channels));
    }
}
