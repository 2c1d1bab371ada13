//! The norms on the CPU: features in SIMD lanes, rows over threads.

use super::problem::check_length;
use super::{GateOrder, NormError, Problem};
use crate::Rows;
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Values below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;
/// Values that one task normalises.
const TASK_WORK: usize = 1 << 14;
/// Partial sums of a mean square: as many as fill the lanes of two wide registers.
const LANES: usize = 32;

/// RMSNorm of every row, gated by SiLU(gate) when there is a gate.
///
/// # Shapes
/// `x`, `gate` and `out` `[rows, features]`; `weight` and `bias` `[features]`.
///
/// # Errors
/// [`NormError`] when a shape does not fit; nothing is written then.
pub fn gated_rms_norm(
    problem: &Problem,
    x: Rows,
    gate: Option<Rows>,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), NormError> {
    problem.validate(&x, gate.as_ref())?;
    let features = problem.features;
    check_length("the weight", features, weight.map_or(features, <[f32]>::len))?;
    check_length("the bias", features, bias.map_or(features, <[f32]>::len))?;
    check_length("the output", problem.rows * features, out.len())?;
    over_rows(out, features, |first, out| {
        Arch::new().dispatch(Gated {
            problem,
            x,
            gate,
            weight,
            bias,
            first,
            out,
        });
    });
    Ok(())
}

/// residual ← residual + x (when there is an x); out ← RMSNorm(residual) ∘ weight: the joint between two blocks.
///
/// # Shapes
/// `residual`, `x` and `out` `[rows, features]`; `weight` `[features]`, which gives the number of features.
///
/// # Errors
/// [`NormError`] when a shape does not fit; nothing is written then.
pub fn add_rms_norm(
    residual: &mut [f32],
    x: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), NormError> {
    let features = weight.len();
    if features == 0 || !residual.len().is_multiple_of(features) {
        return Err(NormError::Groups {
            features: residual.len(),
            group_size: features,
        });
    }
    if eps.is_nan() || eps < 0.0 {
        return Err(NormError::Epsilon(eps));
    }
    check_length(
        "the input",
        residual.len(),
        x.map_or(residual.len(), <[f32]>::len),
    )?;
    check_length("the output", residual.len(), out.len())?;
    let task_len = (TASK_WORK / features).max(1) * features;
    let task = |(i, (residual, out)): (usize, (&mut [f32], &mut [f32]))| {
        let first = i * task_len;
        let x = x.map(|x| &x[first..first + residual.len()]);
        Arch::new().dispatch(Joint {
            residual,
            x,
            weight,
            eps,
            out,
        });
    };
    if out.len() < THREADED_WORK {
        residual
            .chunks_mut(task_len)
            .zip(out.chunks_mut(task_len))
            .enumerate()
            .for_each(task);
    } else {
        let residuals = residual.par_chunks_mut(task_len);
        residuals
            .zip(out.par_chunks_mut(task_len))
            .enumerate()
            .for_each(task);
    }
    Ok(())
}

/// Residual sum and norm of some rows, one row at a time so that it stays in the first cache between the two.
struct Joint<'a> {
    residual: &'a mut [f32],
    x: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for Joint<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let features = self.weight.len();
        let rows = self
            .residual
            .chunks_exact_mut(features)
            .zip(self.out.chunks_exact_mut(features));
        for (row, (residual, out)) in rows.enumerate() {
            if let Some(x) = self.x {
                for (residual, &x) in residual.iter_mut().zip(&x[row * features..]) {
                    *residual += x;
                }
            }
            let scale = 1.0 / (sum_of_squares(residual) / features as f32 + self.eps).sqrt();
            for ((out, &residual), &weight) in out.iter_mut().zip(residual.iter()).zip(self.weight) {
                *out = residual * (scale * weight);
            }
        }
    }
}

/// Calls `task` with the index of its first row, on one thread or several.
fn over_rows(out: &mut [f32], features: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    if features == 0 {
        return;
    }
    let rows = (TASK_WORK / features).max(1);
    if out.len() < THREADED_WORK {
        task(0, out);
    } else {
        out.par_chunks_mut(rows * features)
            .enumerate()
            .for_each(|(i, out)| task(i * rows, out));
    }
}

struct Gated<'a> {
    problem: &'a Problem,
    x: Rows<'a>,
    gate: Option<Rows<'a>>,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Problem {
            features,
            group_size,
            eps,
            order,
            ..
        } = *self.problem;
        for (row, out) in self.out.chunks_exact_mut(features).enumerate() {
            let row = self.first + row;
            let gate = self.gate.as_ref().map(|gate| gate.row(row));
            out.copy_from_slice(self.x.row(row));
            if let (GateOrder::NormAfterGate, Some(gate)) = (order, gate) {
                multiply_by_silu(out, gate);
            }
            for (group, out) in out.chunks_exact_mut(group_size).enumerate() {
                let scale = 1.0 / (sum_of_squares(out) / group_size as f32 + eps).sqrt();
                let columns = group * group_size..(group + 1) * group_size;
                scale_by(out, scale, self.weight.map(|w| &w[columns.clone()]));
            }
            if let Some(bias) = self.bias {
                for (out, &bias) in out.iter_mut().zip(bias) {
                    *out += bias;
                }
            }
            if let (GateOrder::NormBeforeGate, Some(gate)) = (order, gate) {
                multiply_by_silu(out, gate);
            }
        }
    }
}

#[inline(always)]
fn multiply_by_silu(out: &mut [f32], gate: &[f32]) {
    for (out, &gate) in out.iter_mut().zip(gate) {
        *out *= math::silu(gate);
    }
}

#[inline(always)]
fn scale_by(out: &mut [f32], scale: f32, weight: Option<&[f32]>) {
    match weight {
        None => out.iter_mut().for_each(|out| *out *= scale),
        Some(weight) => {
            for (out, &weight) in out.iter_mut().zip(weight) {
                *out *= scale * weight;
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum = value.mul_add(value, *sum);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum = value.mul_add(value, *sum);
    }
    sums.iter().sum()
}
