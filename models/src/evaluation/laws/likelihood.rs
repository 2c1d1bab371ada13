//! The probability of what was observed, under a law and an error model.
//!
//! ```text
//! exact T        ln p = −z²/2 − ln σ − ln √2π + ln g′(T)          z = (g(T) − g(f(S)))/σ
//! T in (l, h]    ln p = ln(Φ(z_h) − Φ(z_l))                        l = none: z_l = −∞, h = none: z_h = +∞
//! ```
//!
//! with g the identity (additive errors) or ln (log-normal ones). The term g′(T) = 1/T of the second makes both densities of T
//! itself, so that likelihoods, and with them AIC, can be compared between error models as long as the points are the same.
//! Of intervals the probability is taken, which has no such term: additive and log-normal errors then assign probabilities to
//! the same events.

use super::law::{ErrorModel, Law};
use super::observation::{Observation, Point};

/// ln √2π, the logarithm of the standard normal density's normaliser.
const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;

/// The log-likelihood of all points; −∞ where the law gives no length that the error model can have.
pub fn log_likelihood(law: Law, error: ErrorModel, parameters: &[f64], sigma: f64, points: &[Point]) -> f64 {
    let of = |point: &Point| one(error, law.at(parameters, point.size), sigma, point.length);
    points.iter().map(of).sum()
}

fn one(error: ErrorModel, predicted: f64, sigma: f64, length: Observation) -> f64 {
    let centre = error.scale(predicted);
    if !centre.is_finite() || sigma.is_nan() || sigma <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let z = |length: f64| (error.scale(length) - centre) / sigma;
    match length {
        Observation::Exact(value) => {
            let jacobian = match error {
                ErrorModel::Additive => 0.0,
                ErrorModel::LogNormal => -value.ln(),
            };
            -0.5 * z(value).powi(2) - sigma.ln() - LN_SQRT_TAU + jacobian
        }
        Observation::Within { low, high } => {
            let low = if low > 0.0 { z(low) } else { f64::NEG_INFINITY };
            log_normal_mass(low, high.map_or(f64::INFINITY, z))
        }
    }
}

/// ln(Φ(high) − Φ(low)), to full precision in both tails.
pub fn log_normal_mass(low: f64, high: f64) -> f64 {
    if low > 0.0 {
        // Both in the upper tail, where differences of Φ near 1 would cancel.
        return log_normal_mass(-high, -low);
    }
    let mass = cumulative(high) - cumulative(low);
    if mass > 0.0 {
        mass.ln()
    } else {
        // Beyond 38 σ nothing is left of the tail: its leading term, which still tells a search where to go.
        let near = -high;
        -0.5 * near * near - near.abs().max(1.0).ln() - LN_SQRT_TAU
    }
}

/// Φ(z), the cumulative distribution function of the standard normal distribution.
fn cumulative(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_of_the_normal_distribution_are_those_of_the_tables() {
        for ((low, high), mass) in [
            ((-1.0f64, 1.0f64), 0.682_689_492_137_086),
            ((f64::NEG_INFINITY, 1.959_963_984_540_054), 0.975),
            ((1.959_963_984_540_054, f64::INFINITY), 0.025),
            ((f64::NEG_INFINITY, f64::INFINITY), 1.0),
        ] {
            let found = log_normal_mass(low, high).exp();
            assert!((found - mass).abs() < 1e-12, "({low}, {high}): {found}");
        }
        // Φ(−20) = 2.7536e−89, from a table of the normal tail.
        let tail = log_normal_mass(20.0, f64::INFINITY);
        assert!((tail - (-203.917_155_37)).abs() < 1e-6, "{tail}");
        let far = log_normal_mass(60.0, 61.0);
        assert!(far.is_finite() && far < log_normal_mass(50.0, 51.0), "{far}");
    }

    #[test]
    fn an_interval_that_shrinks_has_the_density_in_the_limit() {
        let point = |length| [Point { size: 2.0, length }];
        for error in ErrorModel::ALL {
            let value = |length| log_likelihood(Law::Linear, error, &[3.0, 1.0], 0.4, &point(length));
            let (width, exact) = (1e-5, value(Observation::Exact(6.0)));
            let narrow = value(Observation::Within {
                low: 6.0 - width / 2.0,
                high: Some(6.0 + width / 2.0),
            });
            assert!(
                (narrow - width.ln() - exact).abs() < 1e-5,
                "{error}: {narrow} {exact}"
            );
        }
    }

    #[test]
    fn a_law_below_zero_is_impossible_under_log_normal_errors() {
        let points = [Point {
            size: 0.5,
            length: Observation::Exact(1.0),
        }];
        let likelihood = |error| log_likelihood(Law::Linear, error, &[5.0, -4.0], 1.0, &points);
        assert_eq!(likelihood(ErrorModel::LogNormal), f64::NEG_INFINITY);
        assert!(likelihood(ErrorModel::Additive).is_finite());
    }
}
