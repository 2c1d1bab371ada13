//! Least squares where it has a closed form, or nearly.
//!
//! The linear law in T, and the power law in logarithms, are straight lines. The exponential law is a straight line in
//! e^{cS} − 1 for every c, so that one search over c is left (variable projection: Golub & Pereyra, SIAM J. Numer. Anal. 10,
//! 1973).

use super::law::{ErrorModel, Law};

/// Rates c that are tried lie between these over the largest size: below, the law is a line; above, a step.
const RATES: (f64, f64) = (1e-3, 50.0);
const RATE_STEPS: usize = 60;
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// A straight line through weighted points.
#[derive(Clone, Copy, Debug)]
struct Line {
    slope: f64,
    intercept: f64,
    residual: f64,
}

/// Σ w (y − slope x − intercept)² at its least; `None` where all x are one.
fn line(x: &[f64], y: &[f64], weights: &[f64]) -> Option<Line> {
    let total: f64 = weights.iter().sum();
    let mean = |values: &[f64]| values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() / total;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut xy) = (0.0, 0.0);
    for ((x, y), w) in x.iter().zip(y).zip(weights) {
        xx += w * (x - mean_x) * (x - mean_x);
        xy += w * (x - mean_x) * (y - mean_y);
    }
    let slope = xy / xx;
    let intercept = mean_y - slope * mean_x;
    let terms = x.iter().zip(y).zip(weights);
    let residual = terms
        .map(|((x, y), w)| w * (y - slope * x - intercept).powi(2))
        .sum();
    (xx > 0.0 && slope.is_finite()).then_some(Line {
        slope,
        intercept,
        residual,
    })
}

/// The parameters of `law` with the least weighted squares over (size, length): of the lengths themselves, of their logarithms
/// for the power law, whose points must be above 0. `None` where the sizes do not determine them.
pub fn least_squares(law: Law, sizes: &[f64], lengths: &[f64], weights: &[f64]) -> Option<Vec<f64>> {
    match law {
        Law::Linear => line(sizes, lengths, weights).map(|line| vec![line.slope, line.intercept]),
        Law::Power => {
            let logs = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
            let line = line(&logs(sizes), &logs(lengths), weights)?;
            Some(vec![line.intercept.exp(), line.slope])
        }
        Law::Exponential => exponential(sizes, lengths, weights),
    }
}

fn exponential(sizes: &[f64], lengths: &[f64], weights: &[f64]) -> Option<Vec<f64>> {
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let at = |log_rate: f64| {
        let rate = log_rate.exp() / largest;
        let grown: Vec<f64> = sizes.iter().map(|size| (rate * size).exp_m1()).collect();
        (rate, line(&grown, lengths, weights))
    };
    let residual = |log_rate: f64| at(log_rate).1.map_or(f64::INFINITY, |line| line.residual);
    let (low, high) = (RATES.0.ln(), RATES.1.ln());
    let width = (high - low) / RATE_STEPS as f64;
    let grid = (0..=RATE_STEPS).map(|step| low + width * step as f64);
    let best = grid.min_by(|a, b| residual(*a).total_cmp(&residual(*b)))?;
    let log_rate = golden_section(&residual, (best - width).max(low), (best + width).min(high));
    let (rate, line) = at(log_rate);
    line.map(|line| vec![line.slope, line.intercept, rate])
}

/// Where a function with one minimum between `low` and `high` has it.
fn golden_section(function: &dyn Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut at_left, mut at_right) = (function(left), function(right));
    while high - low > 1e-10 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = function(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = function(right);
        }
    }
    (low + high) / 2.0
}

/// 1 − Σ(y − ŷ)²/Σ(y − ȳ)² on the scale of the error model, over (size, length) pairs that have a place on it.
pub fn r_squared(law: Law, error: ErrorModel, parameters: &[f64], points: &[(f64, f64)]) -> f64 {
    let pairs = points
        .iter()
        .map(|&(size, length)| (error.scale(law.at(parameters, size)), error.scale(length)));
    let pairs: Vec<(f64, f64)> = pairs.collect();
    let mean = pairs.iter().map(|pair| pair.1).sum::<f64>() / pairs.len() as f64;
    let residual: f64 = pairs.iter().map(|(fitted, seen)| (seen - fitted).powi(2)).sum();
    let total: f64 = pairs.iter().map(|(_, seen)| (seen - mean).powi(2)).sum();
    1.0 - residual / total
}
