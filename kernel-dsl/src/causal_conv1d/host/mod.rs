//! The convolution on the CPU: channels in SIMD lanes, tokens over threads.

mod backward;
mod forward;

pub use backward::backward;
pub use forward::causal_conv1d;

use std::ops::Range;

use pulp::Simd;

use super::{Activation, Problem};
use crate::simd::mul_add_one;
use crate::{Rows, math};

/// Multiply-adds below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 18;
/// Tokens that one task computes.
const TOKENS_PER_TASK: usize = 32;

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

/// What every token reads: the inputs of its sequence and the state before them.
#[derive(Clone, Copy)]
struct Signal<'a> {
    problem: &'a Problem,
    x: Rows<'a>,
    /// Taps weight_j of all channels, transposed: `[width, channels]`.
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    /// The rows of each sequence.
    spans: &'a [Range<usize>],
    /// Per sequence `[width − 1, channels]`.
    past: &'a [Vec<f32>],
}

impl<'a> Signal<'a> {
    /// The sequence that a row belongs to; `None` for padding. `from` is a sequence not behind the row's.
    #[inline(always)]
    fn sequence_of(&self, row: usize, from: &mut usize) -> Option<usize> {
        while self.spans.get(*from).is_some_and(|span| span.end <= row) {
            *from += 1;
        }
        self.spans
            .get(*from)
            .filter(|span| span.start <= row)
            .map(|_| *from)
    }

    /// The first sequence that ends after `row`.
    fn sequence_after(&self, row: usize) -> usize {
        self.spans.partition_point(|span| span.end <= row)
    }

    /// Input `t` of sequence `b`, where negative tokens are the state's.
    #[inline(always)]
    fn input(&self, b: usize, t: isize) -> &'a [f32] {
        let channels = self.problem.channels;
        match usize::try_from(t) {
            Ok(t) => self.x.row(self.spans[b].start + t),
            Err(_) => {
                let row = (self.problem.width as isize - 1 + t) as usize;
                &self.past[b][row * channels..(row + 1) * channels]
            }
        }
    }

    /// Inputs of the taps of a row, oldest first.
    #[inline(always)]
    fn taps(&self, b: usize, row: usize) -> impl Iterator<Item = &'a [f32]> {
        let (signal, width) = (*self, self.problem.width as isize);
        let t = (row - self.spans[b].start) as isize;
        (0..width).map(move |j| signal.input(b, t + j - (width - 1)))
    }

    /// p of a row: bias + Σ_j weight_j s_{t+j}.
    #[inline(always)]
    fn convolve<S: Simd>(&self, simd: S, b: usize, row: usize, out: &mut [f32]) {
        out.fill(0.0);
        let weights = self.weight.chunks_exact(self.problem.channels);
        for (taps, x) in weights.zip(self.taps(b, row)) {
            for ((out, &w), &x) in out.iter_mut().zip(taps).zip(x) {
                *out = mul_add_one(simd, w, x, *out);
            }
        }
        if let Some(bias) = self.bias {
            for (out, &bias) in out.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }
}

/// Applies the activation in place: p ← act(p).
#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, out: &mut [f32]) {
    if activation == Activation::Silu {
        for out in out.iter_mut() {
            *out = math::silu(simd, *out);
        }
    }
}
