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
    problem.validate()?;
    problem.expect_inputs(inputs)?;
    problem.expect_outputs(outputs)?;
    dispatch(Forward(problem, inputs, outputs));
    Ok(())
}

struct Forward<'a, 'o>(&'a Problem, &'a Inputs<'a>, &'a mut Outputs<'o>);

impl WithSimd for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(problem, &Inputs { raw, bias, a_log }, outputs) = self;
        let (heads, rates) = (problem.heads.max(1), rates(a_log));
        let steps = outputs.step.chunks_exact_mut(heads);
        let rows = steps.zip(outputs.log_decay.chunks_exact_mut(heads));
        for (row, (step, log_decay)) in rows.enumerate() {
            for ((step, x), bias) in step.iter_mut().zip(raw.row(row)).zip(bias) {
                *step = problem.clamp(math::softplus(simd, x + bias));
            }
            for ((log_decay, step), rate) in log_decay.iter_mut().zip(step).zip(&rates) {
                *log_decay = *step * rate;
            }
        }
    }
}

/// Rates A = −e^{A_log}, `[heads]`.
#[inline(always)]
fn rates(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|a_log| -a_log.exp()).collect()
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
    problem.validate()?;
    problem.expect_inputs(inputs)?;
    problem.expect_backward(inputs, cotangents, gradients)?;
    let [bias, a_log] = dispatch(Backward(problem, inputs, cotangents, gradients.raw));
    for (gradient, sums) in [(&mut gradients.bias, bias), (&mut gradients.a_log, a_log)] {
        let pairs = gradient.iter_mut().zip(sums);
        pairs.for_each(|(gradient, sum)| *gradient = sum as f32);
    }
    Ok(())
}

/// Writes the gradient of raw step sizes, and gives those of bias and A_log.
struct Backward<'a>(&'a Problem, &'a Inputs<'a>, &'a Cotangents<'a>, &'a mut [f32]);

impl WithSimd for Backward<'_> {
    /// Sums over tokens in f64: a hundred thousand terms would cost an f32 sum three digits.
    type Output = [Vec<f64>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f64>; 2] {
        let Self(problem, &Inputs { raw, bias, a_log }, cotangents, by_raw) = self;
        let (heads, rates) = (problem.heads, rates(a_log));
        let unseen = vec![0.0; heads];
        let [mut by_bias, mut by_a_log] = [vec![0.0; heads], vec![0.0; heads]];
        for (row, gradient) in by_raw.chunks_exact_mut(heads.max(1)).enumerate() {
            let raw = raw.row(row);
            let by_step = cotangents.step.map_or(&unseen[..], |view| view.row(row));
            let by_log = cotangents.log_decay.map_or(&unseen[..], |view| view.row(row));
            for h in 0..heads {
                let x = raw[h] + bias[h];
                let free = math::softplus(simd, x);
                let slope = if problem.binds(free) {
                    0.0
                } else {
                    math::sigmoid(simd, x)
                };
                gradient[h] = (by_step[h] + rates[h] * by_log[h]) * slope;
                by_bias[h] += f64::from(gradient[h]);
                by_a_log[h] += f64::from(by_log[h] * (problem.clamp(free) * rates[h]));
            }
        }
        [by_bias, by_a_log]
    }
}
