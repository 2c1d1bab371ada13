//! The norms on the CPU: features in SIMD lanes, rows over threads.

mod backward;
mod forward;
mod joint;

pub use backward::backward;
pub use forward::gated_norm;
pub use joint::{JointGradients, add_rms_norm, add_rms_norm_backward};

use pulp::Simd;

use super::{Problem, Statistic};
use crate::math;
use crate::simd::mul_add_one;

/// Values below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;
/// Values that one task normalises.
const TASK_WORK: usize = 1 << 14;
/// Partial sums of a statistic: as many as fill the lanes of two wide registers.
const LANES: usize = 32;

/// y ← (y − μ) r for one group; gives r.
#[inline(always)]
fn normalise<S: Simd>(simd: S, problem: &Problem, y: &mut [f32]) -> f32 {
    if problem.statistic == Statistic::Variance {
        let mean = sum(y) / y.len() as f32;
        y.iter_mut().for_each(|y| *y -= mean);
    }
    let weight = problem.statistic.weight(y.len()) as f32;
    let scale = 1.0 / (dot(simd, y, y) * weight + problem.eps).sqrt();
    y.iter_mut().for_each(|y| *y *= scale);
    scale
}

#[inline(always)]
fn multiply_by_silu<S: Simd>(simd: S, out: &mut [f32], gate: &[f32]) {
    for (out, &gate) in out.iter_mut().zip(gate) {
        *out *= math::silu(simd, gate);
    }
}

#[inline(always)]
fn multiply(out: &mut [f32], by: &[f32]) {
    out.iter_mut().zip(by).for_each(|(out, &by)| *out *= by);
}

#[inline(always)]
fn add(out: &mut [f32], term: &[f32]) {
    out.iter_mut().zip(term).for_each(|(out, &term)| *out += term);
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        add(&mut sums, chunk);
    }
    add(&mut sums, rest);
    sums.iter().sum()
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum = mul_add_one(simd, a, b, *sum);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = mul_add_one(simd, a, b, *sum);
    }
    sums.iter().sum()
}
