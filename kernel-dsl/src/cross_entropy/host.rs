//! Cross-entropy on the CPU: classes in SIMD lanes, rows over threads.

use super::{Cotangents, CrossEntropyError, Gradients, Inputs, Outputs, Problem};
use crate::Rows;
use crate::math;
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Values below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;
/// Partial sums and maxima: as many as fill the lanes of two wide registers.
const LANES: usize = 32;

/// Writes −log softmax(logits)\[target\] of every row. A row with a NaN, or whose largest logit is infinite, gives NaN.
///
/// # Shapes
/// `logits` `[rows, classes]` (view fewer columns of a padded vocabulary), `targets` and `loss` `[rows]`.
///
/// # Errors
/// [`CrossEntropyError`] when a length or a target does not fit; nothing is written then.
pub fn cross_entropy(logits: Rows, targets: &[u32], loss: &mut [f32]) -> Result<(), CrossEntropyError> {
    let problem = Problem::of(&logits);
    problem.validate(targets)?;
    problem.expect_outputs(&Outputs { loss: &mut *loss })?;
    let Problem { rows, classes } = problem;
    let one = |(row, loss): (usize, &mut f32)| {
        let logits = logits.row(row);
        let (largest, log_sum) = dispatch(LogSumExp(logits));
        // The difference first: large logits would swallow the digits of the logarithm.
        let target = logits[targets[row] as usize];
        *loss = (f64::from(largest) - f64::from(target) + log_sum) as f32;
    };
    if rows * classes < THREADED_WORK {
        loss.iter_mut().enumerate().for_each(one);
    } else {
        loss.par_iter_mut().enumerate().for_each(one);
    }
    Ok(())
}

/// Writes the gradient of Σ cotangent · loss by the logits.
///
/// # Shapes
/// `logits` `[rows, classes]`, `targets` and `cotangent` `[rows]`, `gradient` `[rows, classes]` without gaps, overwritten.
///
/// # Errors
/// [`CrossEntropyError`] when a length or a target does not fit; nothing is written then.
pub fn backward(
    logits: Rows,
    targets: &[u32],
    cotangent: &[f32],
    gradient: &mut [f32],
) -> Result<(), CrossEntropyError> {
    let problem = Problem::of(&logits);
    problem.validate(targets)?;
    problem.expect_backward(
        &Inputs { logits },
        &Cotangents { loss: cotangent },
        &Gradients {
            logits: &mut *gradient,
        },
    )?;
    let Problem { rows, classes } = problem;
    if classes == 0 {
        return Ok(());
    }
    let one = |(row, gradient): (usize, &mut [f32])| {
        dispatch(PullBack {
            logits: logits.row(row),
            target: targets[row] as usize,
            cotangent: cotangent[row],
            gradient,
        });
    };
    if rows * classes < THREADED_WORK {
        gradient.chunks_exact_mut(classes).enumerate().for_each(one);
    } else {
        gradient.par_chunks_exact_mut(classes).enumerate().for_each(one);
    }
    Ok(())
}

impl Problem {
    fn of(logits: &Rows) -> Self {
        Self {
            rows: logits.rows(),
            classes: logits.cols(),
        }
    }
}

struct PullBack<'a> {
    logits: &'a [f32],
    target: usize,
    cotangent: f32,
    gradient: &'a mut [f32],
}

impl WithSimd for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let largest = largest(self.logits);
        let (before, rest) = self.logits.split_at(self.target);
        // softmax − 1 at the target is minus the share of the others: a confident model would lose its digits otherwise.
        let others =
            sum_of_exponentials(simd, before, largest) + sum_of_exponentials(simd, &rest[1..], largest);
        let sum = others + f64::from(math::exp(simd, rest[0] - largest));
        let scale = (f64::from(self.cotangent) / sum) as f32;
        for (gradient, &x) in self.gradient.iter_mut().zip(self.logits) {
            *gradient = scale * math::exp(simd, x - largest);
        }
        self.gradient[self.target] = (-f64::from(self.cotangent) * others / sum) as f32;
    }
}

/// (m, ln Σ_j e^{x_j − m}).
struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f64) {
        let largest = largest(self.0);
        (largest, sum_of_exponentials(simd, self.0, largest).ln())
    }
}

/// Σ_j e^{x_j − m}. Fifty thousand classes leave about 1,600 terms a lane: the lanes are joined in f64 to keep it at that.
#[inline(always)]
fn sum_of_exponentials<S: Simd>(simd: S, values: &[f32], largest: f32) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += math::exp(simd, x - largest);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += math::exp(simd, x - largest);
    }
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

/// The largest value; a NaN among the values shows up in the sum instead.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}
