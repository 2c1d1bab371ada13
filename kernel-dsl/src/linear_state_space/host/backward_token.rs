//! The way back through one token of one channel, and the sums over tokens that it adds to.

use pulp::{Simd, c64};

use super::system::Constants;
use super::token::{Modes, swapped};
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::discretise::Mode;
use crate::linear_state_space::problem::Problem;
use crate::simd::mul_add;
use crate::vector::{add_scaled, dot};

/// Sums over tokens by which the derivatives by a channel's constants come, as rows of the length of a state: x̄_t ∘ x_{t−1} and
/// x̄_t ∘ x_{t−1} with swapped pairs (Ā), x̄_t u_t (B̄), ȳ_t x_t of each output (C), s̄ x_{t−1} and −s x̄_t of each rank (E, F).
///
/// Those of a chunk are f32; chunks add up in f64, so that a long sequence costs no digits.
pub(super) struct Sums {
    chunk: Vec<f32>,
    total: Vec<f64>,
    width: usize,
    outputs: usize,
}

impl Sums {
    pub(super) fn new(width: usize, outputs: usize, rank: usize) -> Self {
        let len = (3 + outputs + 2 * rank) * width;
        Self {
            chunk: vec![0.0; len],
            total: vec![0.0; len],
            width,
            outputs,
        }
    }

    /// Ends a chunk: adds its sums to the totals and clears them.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        for (total, chunk) in self.total.iter_mut().zip(&mut self.chunk) {
            *total += f64::from(*chunk);
            *chunk = 0.0;
        }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.total[row * self.width..(row + 1) * self.width]
    }

    /// w conj of a row of products with states, from the derivative by the row itself.
    fn of_read(&self, row: usize, weight: f64) -> impl Iterator<Item = c64> {
        let pairs = self.row(row).chunks_exact(2);
        pairs.map(move |pair| c64::new(weight * pair[0], -weight * pair[1]))
    }

    /// Writes the derivative by C, and gives those by the discrete system.
    pub(super) fn finish(&self, problem: &Problem, found: &mut Channel) -> Discrete {
        let n = problem.state_dim;
        let (re, im, input) = (self.row(0), self.row(1), self.row(2));
        let mode = |i: usize| Mode {
            change: c64::new(re[2 * i] + re[2 * i + 1], im[2 * i + 1] - im[2 * i]),
            input: c64::new(input[2 * i], input[2 * i + 1]),
        };
        for output in 0..self.outputs {
            let values = self.of_read(3 + output, problem.spectrum.weight());
            found.c[output * n..][..n]
                .iter_mut()
                .zip(values)
                .for_each(|(c, value)| *c = value);
        }
        let first = 3 + self.outputs;
        let pairs = |k: usize| {
            self.row(k)
                .chunks_exact(2)
                .take(n)
                .map(|pair| c64::new(pair[0], pair[1]))
        };
        Discrete {
            modes: (0..n).map(mode).collect(),
            read: (0..problem.rank)
                .flat_map(|k| self.of_read(first + k, 2.0).take(n))
                .collect(),
            write: (0..problem.rank)
                .flat_map(|k| pairs(first + problem.rank + k))
                .collect(),
        }
    }
}

/// What a token saw on its way forward, and the derivatives by its outputs.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub u: f32,
    /// ȳ of every output, `stride` apart.
    pub reads: &'a [f32],
    pub stride: usize,
    /// State x_{t−1} before the token, as pairs.
    pub before: &'a [f32],
    /// State x_t after the token, as pairs.
    pub after: &'a [f32],
    /// s of every rank.
    pub feedback: &'a [f32],
}

/// x̄_t += w C̄ ȳ_t.
#[inline(always)]
pub(super) fn read_back<S: Simd>(
    simd: S,
    constants: &Constants,
    seen: &Seen,
    adjoint: &mut [f32],
    sums: &mut Sums,
) {
    let width = sums.width;
    let outputs = constants
        .c
        .chunks_exact(width.max(1))
        .zip(seen.reads.iter().step_by(seen.stride));
    for ((c, &y), sum) in outputs.zip(sums.chunk[3 * width..].chunks_exact_mut(width.max(1))) {
        add_scaled(simd, y, c, adjoint);
        add_scaled(simd, y, seen.after, &mut sum[..seen.after.len()]);
    }
}

/// Takes the adjoint from x̄_t to x̄_{t−1}; gives Re(B̄ᴴ x̄_t).
#[inline(always)]
pub(super) fn retreat<S: Simd>(
    simd: S,
    (modes, constants): (&Modes, &Constants),
    seen: &Seen,
    adjoint: &mut [f32],
    sums: &mut Sums,
    by_feedback: &mut [f32],
) -> f32 {
    let (width, len) = (sums.width, adjoint.len());
    let (of_modes, rest) = sums.chunk.split_at_mut(3 * width);
    let (of_read, of_write) = rest[sums.outputs * width..].split_at_mut(by_feedback.len() * width);
    let writes = constants.feedback.write.chunks_exact(width.max(1));
    let of_writes = of_write.chunks_exact_mut(width.max(1));
    for (((by, s), write), sum) in by_feedback
        .iter_mut()
        .zip(seen.feedback)
        .zip(writes)
        .zip(of_writes)
    {
        *by = -dot(simd, write, adjoint);
        add_scaled(simd, -s, adjoint, &mut sum[..len]);
    }
    let of_input = turn_back(simd, modes, seen, adjoint, (of_modes, width));
    let reads = constants.feedback.read.chunks_exact(width.max(1));
    let of_reads = of_read.chunks_exact_mut(width.max(1));
    for ((by, read), sum) in by_feedback.iter().zip(reads).zip(of_reads) {
        add_scaled(simd, *by, read, adjoint);
        add_scaled(simd, *by, seen.before, &mut sum[..len]);
    }
    of_input
}

/// x̄ ← conj(Ā) x̄, with the sums of Ā and B̄; gives Re(B̄ᴴ x̄_t).
#[inline(always)]
fn turn_back<S: Simd>(
    simd: S,
    modes: &Modes,
    seen: &Seen,
    adjoint: &mut [f32],
    (sums, width): (&mut [f32], usize),
) -> f32 {
    let (re_sum, others) = sums.split_at_mut(width);
    let (im_sum, input_sum) = others.split_at_mut(width);
    let adjoint = S::as_mut_simd_f32s(adjoint).0;
    let count = adjoint.len();
    let of = |values| &S::as_simd_f32s(values).0[..count];
    let (re, im, b, before) = (of(modes.re), of(modes.im), of(modes.input), of(seen.before));
    let re_sum = &mut S::as_mut_simd_f32s(re_sum).0[..count];
    let im_sum = &mut S::as_mut_simd_f32s(im_sum).0[..count];
    let input_sum = &mut S::as_mut_simd_f32s(input_sum).0[..count];
    let u = simd.splat_f32s(seen.u);
    let mut of_input = simd.splat_f32s(0.0);
    for v in 0..count {
        let (by, x) = (adjoint[v], before[v]);
        re_sum[v] = mul_add(simd, by, x, re_sum[v]);
        im_sum[v] = mul_add(simd, by, swapped(simd, x), im_sum[v]);
        input_sum[v] = mul_add(simd, by, u, input_sum[v]);
        of_input = mul_add(simd, b[v], by, of_input);
        let turned = simd.sub_f32s(by, simd.mul_f32s(im[v], swapped(simd, by)));
        adjoint[v] = mul_add(simd, re[v], by, turned);
    }
    simd.reduce_sum_f32s(of_input)
}
