//! Step sizes on the CPU: heads in SIMD lanes.

use super::problem::{OPERATOR, validate, validate_backward};
use super::{Cotangents, Gradients, StepSizeError};
use crate::Rows;
use crate::math;
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};

/// Writes Δ and log α.
///
/// # Shapes
/// `raw` `[tokens, heads]`; `bias`, `a_log` `[heads]`; `step`, `log_decay` `[tokens, heads]`.
///
/// # Errors
/// [`StepSizeError`] when a shape or a limit does not fit; nothing is written then.
pub fn step_size(
    raw: Rows,
    bias: &[f32],
    a_log: &[f32],
    limit: (f32, f32),
    step: &mut [f32],
    log_decay: &mut [f32],
) -> Result<(), StepSizeError> {
    validate(&raw, bias, a_log, limit)?;
    let count = raw.rows() * raw.cols();
    OPERATOR.values("step", count, step.len())?;
    OPERATOR.values("log_decay", count, log_decay.len())?;
    if count > 0 {
        dispatch(Steps {
            raw,
            bias,
            a_log,
            limit,
            step,
            log_decay,
        });
    }
    Ok(())
}

struct Steps<'a> {
    raw: Rows<'a>,
    bias: &'a [f32],
    a_log: &'a [f32],
    limit: (f32, f32),
    step: &'a mut [f32],
    log_decay: &'a mut [f32],
}

impl WithSimd for Steps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let heads = self.bias.len();
        let (low, high) = self.limit;
        let rate: Vec<f32> = self.a_log.iter().map(|&a_log| -a_log.exp()).collect();
        let outputs = self
            .step
            .chunks_exact_mut(heads)
            .zip(self.log_decay.chunks_exact_mut(heads));
        for (row, (step, log_decay)) in outputs.enumerate() {
            let raw = self.raw.row(row);
            for (h, step) in step.iter_mut().enumerate() {
                // `max` and `min` would turn a NaN into a bound.
                let delta = math::softplus(simd, raw[h] + self.bias[h]);
                let delta = if delta < low { low } else { delta };
                *step = if delta > high { high } else { delta };
            }
            for ((log_decay, &step), &rate) in log_decay.iter_mut().zip(step.iter()).zip(&rate) {
                *log_decay = step * rate;
            }
        }
    }
}

/// Gradients of the loss by all that [`step_size`] reads.
///
/// # Shapes
/// As in [`step_size`], [`Cotangents`] and [`Gradients`].
///
/// # Errors
/// [`StepSizeError`] when a shape or a limit does not fit; nothing is written then.
pub fn backward(
    raw: Rows,
    bias: &[f32],
    a_log: &[f32],
    limit: (f32, f32),
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), StepSizeError> {
    validate(&raw, bias, a_log, limit)?;
    validate_backward(&raw, bias.len(), cotangents, gradients)?;
    // Sums over tokens in f64: a hundred thousand terms would cost an f32 sum three digits.
    let mut sums = vec![0.0; 2 * bias.len()];
    dispatch(PullBack {
        raw,
        bias,
        a_log,
        limit,
        cotangents,
        gradient: gradients.raw,
        sums: &mut sums,
    });
    let (by_bias, by_a_log) = sums.split_at(bias.len());
    for (gradient, sums) in [(&mut gradients.bias, by_bias), (&mut gradients.a_log, by_a_log)] {
        if let Some(gradient) = gradient {
            gradient
                .iter_mut()
                .zip(sums)
                .for_each(|(g, &sum)| *g = sum as f32);
        }
    }
    Ok(())
}

struct PullBack<'a> {
    raw: Rows<'a>,
    bias: &'a [f32],
    a_log: &'a [f32],
    limit: (f32, f32),
    cotangents: &'a Cotangents<'a>,
    gradient: &'a mut [f32],
    /// Of bias and A_log, `[2, heads]`.
    sums: &'a mut [f64],
}

impl WithSimd for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let heads = self.bias.len();
        let (low, high) = self.limit;
        let rate: Vec<f32> = self.a_log.iter().map(|&a_log| -a_log.exp()).collect();
        let zeros = vec![0.0; heads];
        let (bias_sum, a_log_sum) = self.sums.split_at_mut(heads);
        for (row, gradient) in self.gradient.chunks_exact_mut(heads.max(1)).enumerate() {
            let raw = self.raw.row(row);
            let by_step = self.cotangents.step.map_or(&zeros[..], |view| view.row(row));
            let by_log = self.cotangents.log_decay.map_or(&zeros[..], |view| view.row(row));
            for h in 0..heads {
                let x = raw[h] + self.bias[h];
                let free = math::softplus(simd, x);
                let step = if free < low { low } else { free };
                let step = if step > high { high } else { step };
                // A NaN is outside of no limit, and so goes on into the gradient.
                let slope = if free < low || free > high {
                    0.0
                } else {
                    math::sigmoid(simd, x)
                };
                gradient[h] = (by_step[h] + rate[h] * by_log[h]) * slope;
                bias_sum[h] += f64::from(gradient[h]);
                a_log_sum[h] += f64::from(by_log[h] * (step * rate[h]));
            }
        }
    }
}
