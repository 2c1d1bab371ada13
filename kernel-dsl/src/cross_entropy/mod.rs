//! Cross-entropy of each row of logits, in nats.
//!
//! ```text
//! loss = ln Σ_j e^{x_j} − x_target = m + ln Σ_j e^{x_j − m} − x_target,     m = max_j x_j
//! ```

use crate::Rows;
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use thiserror::Error;

/// Values below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;
/// Partial sums and maxima: as many as fill the lanes of two wide registers.
const LANES: usize = 32;

/// Why a cross-entropy cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CrossEntropyError {
    /// A buffer's length does not fit the logits.
    #[error("cross-entropy: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// One per row.
        expected: usize,
        /// Values that came.
        found: usize,
    },
    /// A target that no column stands for.
    #[error("cross-entropy: target {target} of row {row} is not one of the {classes} classes")]
    Target {
        /// The row.
        row: usize,
        /// Its target.
        target: u32,
        /// Columns of the logits.
        classes: usize,
    },
}

/// Writes −log softmax(logits)\[target\] of every row. A row with a NaN, or whose largest logit is infinite, gives NaN.
///
/// # Shapes
/// `logits` `[rows, classes]` (view fewer columns of a padded vocabulary), `targets` and `loss` `[rows]`.
///
/// # Errors
/// [`CrossEntropyError`] when a length or a target does not fit; nothing is written then.
pub fn cross_entropy(logits: Rows, targets: &[u32], loss: &mut [f32]) -> Result<(), CrossEntropyError> {
    let (rows, classes) = (logits.rows(), logits.cols());
    for (what, found) in [("the targets", targets.len()), ("the loss", loss.len())] {
        if found != rows {
            return Err(CrossEntropyError::Length {
                what,
                expected: rows,
                found,
            });
        }
    }
    if let Some((row, &target)) = targets
        .iter()
        .enumerate()
        .find(|&(_, &target)| target as usize >= classes)
    {
        return Err(CrossEntropyError::Target { row, target, classes });
    }
    let one = |(row, loss): (usize, &mut f32)| {
        let logits = logits.row(row);
        let (largest, log_sum) = Arch::new().dispatch(LogSumExp(logits));
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

/// (m, ln Σ_j e^{x_j − m}).
struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> (f32, f64) {
        let largest = largest(self.0);
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += math::exp(x - largest);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += math::exp(x - largest);
        }
        // Fifty thousand classes leave about 1,600 terms a lane: the lanes are joined in f64 to keep it at that.
        let sum: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
        (largest, sum.ln())
    }
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

pub mod reference {
    //! The definition in f64.

    /// −log softmax(logits)\[target\].
    pub fn cross_entropy(logits: &[f32], target: usize) -> f64 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|&x| (f64::from(x) - f64::from(largest)).exp())
            .sum();
        f64::from(largest) + sum.ln() - f64::from(logits[target])
    }
}
