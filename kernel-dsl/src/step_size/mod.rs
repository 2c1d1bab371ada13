//! Step sizes and decays of a discretised recurrence whose decay is one scalar per head and token.
//!
//! ```text
//! Δ = clamp(softplus(raw + bias), low, high)          log α = −Δ e^{A_log}
//! ```
//!
//! The clamp comes after the softplus. Source: Dao & Gu, 2405.21060, section 7; the decay is a zero-order hold of A = −e^{A_log}.

use crate::Rows;
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use thiserror::Error;

/// Why step sizes cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum StepSizeError {
    /// Bounds out of order, or not numbers.
    #[error("step sizes need 0 ≤ lower limit ≤ upper limit, found {low} and {high}")]
    Limit {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// A buffer's length does not fit the raw values.
    #[error("step sizes: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values that the raw step sizes ask for.
        expected: usize,
        /// Values that came.
        found: usize,
    },
}

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
    let (low, high) = limit;
    if !(low >= 0.0 && low <= high) {
        return Err(StepSizeError::Limit { low, high });
    }
    let (heads, count) = (bias.len(), raw.rows() * raw.cols());
    let columns = if raw.rows() == 0 { heads } else { raw.cols() };
    let lengths = [
        ("the bias", columns, heads),
        ("A_log", columns, a_log.len()),
        ("the step size", count, step.len()),
        ("the log decay", count, log_decay.len()),
    ];
    for (what, expected, found) in lengths {
        if expected != found {
            return Err(StepSizeError::Length {
                what,
                expected,
                found,
            });
        }
    }
    if count > 0 {
        Arch::new().dispatch(Steps {
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
    fn with_simd<S: Simd>(self, _simd: S) {
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
                let delta = math::softplus(raw[h] + self.bias[h]);
                let delta = if delta < low { low } else { delta };
                *step = if delta > high { high } else { delta };
            }
            for ((log_decay, &step), &rate) in log_decay.iter_mut().zip(step.iter()).zip(&rate) {
                *log_decay = step * rate;
            }
        }
    }
}

pub mod reference {
    //! The definition in f64.

    /// (Δ, log α) of one token of one head.
    pub fn step_size(raw: f32, bias: f32, a_log: f32, limit: (f32, f32)) -> (f64, f64) {
        let x = f64::from(raw) + f64::from(bias);
        let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
        let step = softplus.clamp(f64::from(limit.0), f64::from(limit.1));
        (step, -step * f64::from(a_log).exp())
    }
}
