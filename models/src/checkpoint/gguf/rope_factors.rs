//! Llama 3's rescaled angles, of which a file has the quotients f / f' of every pair, and a configuration four numbers.
//!
//! With F the largest quotient, 1/φ = (1 − s)/F + s gives s of every pair, and s = (L/λ − low) / (high − low) is linear in 1/λ between 0
//! and 1: two pairs there give L / (high − low) and low / (high − low). Only these two say anything, so that low may be taken as 1, which it
//! is in the published configurations.

use serde_json::{Value as Json, json};
use spillway_ssm_core::operators::RotaryScaling;

/// How near the quotients that follow from the four numbers must be to those in the file.
const NEAR: f64 = 1e-4;

/// `rope_parameters` of quotients, `None` where no such numbers give them.
pub(super) fn parameters(factors: &[f32], base: f64) -> Option<Json> {
    let rotated = 2.0 * factors.len() as f64;
    let frequency = |pair: usize| base.powf(-2.0 * pair as f64 / rotated);
    let factor = factors.iter().copied().fold(1.0_f32, f32::max);
    if !factor.is_finite() || factors.iter().any(|found| *found < 1.0) {
        return None;
    }
    let inverse = 1.0 / f64::from(factor);
    let between: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .map(|(pair, found)| {
            let share = (1.0 / f64::from(*found) - inverse) / (1.0 - inverse);
            (frequency(pair) / std::f64::consts::TAU, share)
        })
        .filter(|(_, share)| *share > 1e-4 && *share < 1.0 - 1e-4)
        .collect();
    let [(x, s), .., (other_x, other_s)] = between.as_slice() else {
        return None;
    };
    let slope = (s - other_s) / (x - other_x);
    let below = slope * x - s;
    let exact = RotaryScaling {
        factor,
        low: 1.0,
        high: (1.0 + 1.0 / below) as f32,
        length: (slope / below) as f32,
    };
    // The published numbers are whole.
    let whole = RotaryScaling {
        high: exact.high.round(),
        length: exact.length.round(),
        ..exact
    };
    let gives = |scaling: &&RotaryScaling| {
        factors.iter().enumerate().all(|(pair, found)| {
            let frequency = frequency(pair);
            let expected = frequency / scaling.frequency(frequency);
            (f64::from(*found) - expected).abs() <= NEAR * expected
        })
    };
    let found = [whole, exact];
    let scaling = found
        .iter()
        .filter(|scaling| scaling.low < scaling.high)
        .find(gives)?;
    Some(json!({
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.length,
    }))
}
