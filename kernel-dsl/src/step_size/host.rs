//! Step sizes on the CPU: heads in SIMD lanes.

use super::{Cotangents, Gradients, Inputs, Outputs, Problem, StepSizeError};
use crate::math;
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};

/// Writes Δ and log α.
///
/// # Errors
/// [`StepSizeError`] when a shape or a limit does not fit; nothing is written then.
pub fn step_size(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), StepSizeError> {
    problem.validate_forward(inputs, outputs)?;
    if problem.tokens * problem.heads > 0 {
        dispatch(Steps {
            problem,
            inputs,
            outputs,
        });
    }
    Ok(())
}

struct Steps<'a, 'o> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    outputs: &'a mut Outputs<'o>,
}

impl WithSimd for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem { heads, limit, .. } = *self.problem;
        let (low, high) = limit;
        let Inputs { raw, bias, a_log } = *self.inputs;
        let rate: Vec<f32> = a_log.iter().map(|&a_log| -a_log.exp()).collect();
        let steps = self.outputs.step.chunks_exact_mut(heads);
        let outputs = steps.zip(self.outputs.log_decay.chunks_exact_mut(heads));
        for (row, (step, log_decay)) in outputs.enumerate() {
            let raw = raw.row(row);
            for (h, step) in step.iter_mut().enumerate() {
                // `max` and `min` would turn a NaN into a bound.
                let delta = math::softplus(simd, raw[h] + bias[h]);
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
/// # Errors
/// [`StepSizeError`] when a shape or a limit does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), StepSizeError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    // Sums over tokens in f64: a hundred thousand terms would cost an f32 sum three digits.
    let mut sums = vec![0.0; 2 * problem.heads];
    dispatch(PullBack {
        problem,
        inputs,
        cotangents,
        by_raw: gradients.raw,
        sums: &mut sums,
    });
    let (by_bias, by_a_log) = sums.split_at(problem.heads);
    for (gradient, sums) in [(&mut gradients.bias, by_bias), (&mut gradients.a_log, by_a_log)] {
        let pairs = gradient.iter_mut().zip(sums);
        pairs.for_each(|(gradient, &sum)| *gradient = sum as f32);
    }
    Ok(())
}

struct PullBack<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    cotangents: &'a Cotangents<'a>,
    by_raw: &'a mut [f32],
    /// Of bias and A_log, `[2, heads]`.
    sums: &'a mut [f64],
}

impl WithSimd for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem { heads, limit, .. } = *self.problem;
        let (low, high) = limit;
        let Inputs { raw, bias, a_log } = *self.inputs;
        let rate: Vec<f32> = a_log.iter().map(|&a_log| -a_log.exp()).collect();
        let zeros = vec![0.0; heads];
        let (bias_sum, a_log_sum) = self.sums.split_at_mut(heads);
        for (row, gradient) in self.by_raw.chunks_exact_mut(heads.max(1)).enumerate() {
            let raw = raw.row(row);
            let by_step = self.cotangents.step.map_or(&zeros[..], |view| view.row(row));
            let by_log = self.cotangents.log_decay.map_or(&zeros[..], |view| view.row(row));
            for h in 0..heads {
                let x = raw[h] + bias[h];
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
