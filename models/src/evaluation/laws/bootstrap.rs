//! Intervals of parameters and curves by resampling: sizes with replacement and, within each drawn size, its seeds.
//!
//! Sizes are drawn first because what a law must explain is the difference between sizes; seeds of one size repeat one another. The
//! intervals are percentiles (2.5 and 97.5 %) of the resamples that could be fitted. A resample that holds too few sizes, or only
//! one-sided bounds, cannot; how many these were is part of the answer. With four to eight sizes such intervals are too narrow:
//! of data of a known law the tests only ask that three in four hold the true exponent.
//! Source: Efron & Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 13 and 8.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::law::{ErrorModel, Law};
use super::observation::Point;
use super::{FitError, fit, fit_near};
use crate::evaluation::quantile::of_sorted;

/// Percentiles that are reported.
const PERCENTILES: (f64, f64) = (0.025, 0.975);
/// Resamples that must have been fitted for percentiles to mean anything.
const FEWEST: usize = 40;

/// An interval of 95 % of the resamples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The 2.5 % percentile.
    pub low: f64,
    /// The 97.5 % percentile.
    pub high: f64,
}

/// What resampling says about one law.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Number of resamples that were drawn.
    pub resamples: usize,
    /// Number of resamples that could not be fitted.
    pub failed: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// An interval for each parameter; empty if fewer than 40 resamples could be fitted.
    pub parameters: Vec<Interval>,
    /// The law's length at each size asked for.
    pub band: Vec<(f64, Interval)>,
}

/// Resamples `points` and fits each time; `sizes` are where the band is wanted.
///
/// # Errors
/// [`FitError`] if the points themselves cannot be fitted.
pub fn bootstrap(
    law: Law,
    error: ErrorModel,
    points: &[Point],
    sizes: &[f64],
    (resamples, seed): (usize, u64),
) -> Result<Bootstrap, FitError> {
    let whole = fit(law, error, points)?;
    let groups = by_size(points);
    let mut rng = StdRng::seed_from_u64(seed);
    let drawn = (0..resamples).map(|_| draw(&groups, &mut rng));
    let fits: Vec<_> = drawn
        .filter_map(|points| fit_near(law, error, &points, Some(&whole.parameters)).ok())
        .collect();
    let interval = |value: &dyn Fn(&super::Fit) -> f64| percentiles(fits.iter().map(value).collect());
    let enough = fits.len() >= FEWEST;
    let parameters = (0..law.arity()).map(|index| interval(&|fit: &super::Fit| fit.parameters[index]));
    let band = sizes.iter().map(|&size| {
        (
            size,
            interval(&|fit: &super::Fit| fit.law.at(&fit.parameters, size)),
        )
    });
    Ok(Bootstrap {
        resamples,
        failed: resamples - fits.len(),
        seed,
        parameters: if enough { parameters.collect() } else { Vec::new() },
        band: if enough { band.collect() } else { Vec::new() },
    })
}

fn by_size(points: &[Point]) -> Vec<Vec<Point>> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.size.total_cmp(&b.size));
    sorted
        .chunk_by(|a, b| a.size == b.size)
        .map(<[Point]>::to_vec)
        .collect()
}

fn draw(groups: &[Vec<Point>], rng: &mut StdRng) -> Vec<Point> {
    let mut drawn = Vec::new();
    for _ in 0..groups.len() {
        let group = &groups[rng.random_range(0..groups.len())];
        drawn.extend((0..group.len()).map(|_| group[rng.random_range(0..group.len())]));
    }
    drawn
}

fn percentiles(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    Interval {
        low: of_sorted(&values, PERCENTILES.0),
        high: of_sorted(&values, PERCENTILES.1),
    }
}
