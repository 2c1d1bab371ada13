//! Which exponents b of T = a Sᵇ the points allow.
//!
//! For every b the other parameters are chosen anew, and ln L(b) − max ln L is kept. By Wilks' theorem the b at which it is above
//! −1.92 form a 95 % interval. b = 1 is a state that needs the same number of elements for each token; larger states need relatively
//! longer training if b > 1. A side on which the likelihood never falls so far is open: the points set no bound there.

use serde::Serialize;

use super::law::{ErrorModel, Law};
use super::likelihood::log_likelihood;
use super::observation::{Observation, Point};
use super::{FitError, INTERVAL_FLOOR, fit, simplex};

/// Half the 95 % quantile of χ² with one degree of freedom.
const DROP: f64 = 1.920_729_410_347_062;
/// Exponents beyond this are not looked at.
const STEEPEST: f64 = 16.0;
const FIRST_STEP: f64 = 0.05;

/// The profile of the exponent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The most likely exponent.
    pub best: f64,
    /// Lower end of the 95 % interval; none if it is open.
    pub low: Option<f64>,
    /// Upper end; none if it is open.
    pub high: Option<f64>,
    /// (b, ln L(b) − max ln L).
    pub curve: Vec<(f64, f64)>,
}

impl Profile {
    /// Whether the 95 % interval holds an exponent.
    pub fn allows(&self, exponent: f64) -> bool {
        self.low.is_none_or(|low| low <= exponent) && self.high.is_none_or(|high| exponent <= high)
    }
}

/// The profile over `exponents`, under log-normal errors.
///
/// # Errors
/// [`FitError`] as fitting the power law.
pub fn exponent(points: &[Point], exponents: &[f64]) -> Result<Profile, FitError> {
    let best = fit(Law::Power, ErrorModel::LogNormal, points)?;
    let found = best.parameters[1];
    let drop = |b: f64| at(points, b, best.sigma) - best.log_likelihood;
    Ok(Profile {
        best: found,
        low: end(&drop, found, -1.0),
        high: end(&drop, found, 1.0),
        curve: exponents.iter().map(|&b| (b, drop(b))).collect(),
    })
}

/// ln L with the exponent held, everything else at its best.
fn at(points: &[Point], exponent: f64, sigma: f64) -> f64 {
    let exact = points
        .iter()
        .all(|point| matches!(point.length, Observation::Exact(_)));
    let floor: f64 = if exact { 1e-6 } else { INTERVAL_FLOOR };
    // ln a that passes through the middle of the points.
    let offsets = points
        .iter()
        .map(|point| point.length.representative().ln() - exponent * point.size.ln());
    let offsets: Vec<f64> = offsets.collect();
    let middle = offsets.iter().sum::<f64>() / offsets.len() as f64;
    let squares: f64 = offsets.iter().map(|offset| (offset - middle).powi(2)).sum();
    let spread = (squares / offsets.len() as f64)
        .sqrt()
        .max(sigma)
        .max(1.1 * floor);
    let function = |coordinates: &[f64]| {
        let (parameters, sigma) = ([coordinates[0].exp(), exponent], coordinates[1].exp());
        if sigma < floor {
            return f64::INFINITY;
        }
        -log_likelihood(Law::Power, ErrorModel::LogNormal, &parameters, sigma, points)
    };
    -simplex::minimise(&function, &[middle, spread.ln()], &[0.3, 0.3], 2).1
}

/// Where the likelihood has fallen by [`DROP`] on one side of the best exponent.
fn end(drop: &dyn Fn(f64) -> f64, best: f64, side: f64) -> Option<f64> {
    let fallen = |distance: f64| drop(best + side * distance) < -DROP;
    let mut outer = FIRST_STEP;
    while !fallen(outer) {
        outer *= 2.0;
        if outer > STEEPEST {
            return None;
        }
    }
    let mut inner = if outer > FIRST_STEP { outer / 2.0 } else { 0.0 };
    while outer - inner > 1e-4 {
        let middle = (inner + outer) / 2.0;
        if fallen(middle) {
            outer = middle;
        } else {
            inner = middle;
        }
    }
    Some(best + side * (inner + outer) / 2.0)
}
