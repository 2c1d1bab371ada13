//! Systems at another sampling rate than that of training.
//!
//! A system that was trained on samples Δ apart reads every r-th sample with the step rΔ and everything else as it was. Its
//! kernel then has L/r taps. Modes that are too fast for the grid that they were trained on alias differently on another
//! one, so a model that is to change its rate masks them (S4ND, 2210.06583).

use super::error::{Result, require_finite, require_positive};
use num_complex::Complex64;
use std::f64::consts::PI;

/// The step Δ′ = rΔ at r times the distance between samples.
///
/// # Errors
/// Δ or r that is not finite and positive.
pub fn step_at_rate(step: f64, rate: f64) -> Result<f64> {
    require_positive("the step size Δ", || "a change of sampling rate".into(), step)?;
    require_positive("the rate r", || "a change of sampling rate".into(), rate)?;
    Ok(step * rate)
}

/// How many taps a kernel of `length` taps has at the rate r: L/r, rounded to the nearest even number at a tie.
///
/// # Errors
/// r that is not finite and positive.
pub fn length_at_rate(length: usize, rate: f64) -> Result<usize> {
    require_positive("the rate r", || "a change of sampling rate".into(), rate)?;
    Ok((length as f64 / rate).round_ties_even() as usize)
}

/// Which modes a band limit b keeps: those with Δ|Im λ|/2π < b/2.
///
/// Δ is the step of training, without the factor r; the quotient is a frequency in cycles per sample, so that b = 1 keeps
/// what is below the Nyquist frequency. Outputs C of the other modes are to be 0: [`super::Diagonal::band_limited`].
///
/// # Errors
/// Δ that is not finite and positive; an eigenvalue or a limit that is not finite.
pub fn band_limit(eigenvalues: &[Complex64], training_step: f64, limit: f64) -> Result<Vec<bool>> {
    require_positive("the step size Δ", || "a band limit".into(), training_step)?;
    require_finite("the band limit", [limit])?;
    require_finite("the eigenvalues", eigenvalues.iter().flat_map(|z| [z.re, z.im]))?;
    let frequency = |z: &Complex64| training_step * z.im.abs() / (2.0 * PI);
    Ok(eigenvalues.iter().map(|z| frequency(z) < limit / 2.0).collect())
}
