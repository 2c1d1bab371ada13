//! The joint between two blocks: residual sum and RMSNorm in one pass.

use super::{TASK_WORK, THREADED_WORK, add, backward, dot};
use crate::Rows;
use crate::gated_norm::problem::{OPERATOR, check_epsilon};
use crate::gated_norm::{GateOrder, Gradients, Inputs, NormError, Problem, Statistic};
use crate::shape::{Extent, Role};
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

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
    rows_of(residual.len(), features)?;
    check_epsilon(eps)?;
    let x_len = x.map_or(residual.len(), <[f32]>::len);
    OPERATOR.values("x", residual.len(), x_len)?;
    OPERATOR.values("out", residual.len(), out.len())?;
    let task_len = (TASK_WORK / features).max(1) * features;
    let task = |(i, (residual, out)): (usize, (&mut [f32], &mut [f32]))| {
        let first = i * task_len;
        let x = x.map(|x| &x[first..first + residual.len()]);
        dispatch(Joint {
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

/// Derivatives of the loss by what [`add_rms_norm`] read, overwritten.
#[derive(Debug)]
pub struct JointGradients<'a> {
    /// Derivative by the residual before the sum, which is also the one by x, `[rows, features]`.
    pub residual: &'a mut [f32],
    /// Derivative by the weight, `[features]`, where it is wanted.
    pub weight: Option<&'a mut [f32]>,
}

/// Gradients of [`add_rms_norm`] from the cotangents of its output and, where the loss sees it, of the residual after the sum.
///
/// # Shapes
/// `sum`, the residual after the sum, `out_cotangent` and `residual_cotangent` `[rows, features]`; `weight` `[features]`.
///
/// # Errors
/// [`NormError`] when a shape does not fit; nothing is written then.
pub fn add_rms_norm_backward(
    sum: &[f32],
    weight: &[f32],
    eps: f32,
    out_cotangent: &[f32],
    residual_cotangent: Option<&[f32]>,
    gradients: &mut JointGradients,
) -> Result<(), NormError> {
    let features = weight.len();
    let rows = rows_of(sum.len(), features)?;
    OPERATOR.cotangent("out", sum.len(), Some(out_cotangent))?;
    OPERATOR.cotangent("residual", sum.len(), residual_cotangent)?;
    let problem = Problem {
        rows,
        features,
        group_size: features,
        eps,
        statistic: Statistic::MeanSquare,
        order: GateOrder::NormAfterGate,
    };
    let view = |values| view(values, rows, features);
    let inputs = Inputs {
        input: view(sum)?,
        gate: None,
        weight: Some(weight),
        bias: None,
    };
    let mut norm = Gradients {
        input: gradients.residual,
        gate: None,
        weight: gradients.weight.as_deref_mut(),
        bias: None,
    };
    backward(&problem, &inputs, view(out_cotangent)?, &mut norm)?;
    if let Some(cotangent) = residual_cotangent {
        add(gradients.residual, cotangent);
    }
    Ok(())
}

fn view(values: &[f32], rows: usize, features: usize) -> Result<Rows<'_>, NormError> {
    let (expected, found) = (Extent::Values(rows * features), Extent::Values(values.len()));
    let error = |_| OPERATOR.error(Role::Value, "residual", expected, found).into();
    Rows::contiguous(values, rows, features).map_err(error)
}

/// Rows in `len` values.
fn rows_of(len: usize, features: usize) -> Result<usize, NormError> {
    if features == 0 || !len.is_multiple_of(features) {
        return Err(NormError::Groups {
            features: len,
            group_size: features,
        });
    }
    Ok(len / features)
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
    fn with_simd<S: Simd>(self, simd: S) {
        let features = self.weight.len();
        let rows = self
            .residual
            .chunks_exact_mut(features)
            .zip(self.out.chunks_exact_mut(features));
        for (row, (residual, out)) in rows.enumerate() {
            if let Some(x) = self.x {
                add(residual, &x[row * features..][..features]);
            }
            let scale = 1.0 / (dot(simd, residual, residual) / features as f32 + self.eps).sqrt();
            for ((out, &residual), &weight) in out.iter_mut().zip(residual.iter()).zip(self.weight) {
                *out = residual * (scale * weight);
            }
        }
    }
}
