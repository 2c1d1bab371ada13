//! Thresholds, the laws fitted to them, and what the points can tell about the laws.

use super::result::RunResult;
use super::threshold::{Quantity, Threshold, thresholds};
use crate::studies::results::distinct;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::laws::bootstrap::{Bootstrap, bootstrap};
use spillway_models::evaluation::laws::profile::{self, Profile};
use spillway_models::evaluation::laws::{Fit, FitError, Observation, Point, distinct_sizes, fit_all};

/// State elements in a unit of our fits.
pub const UNIT: f64 = 1000.0;
/// Exponents over which the likelihood is drawn.
const EXPONENTS: (f64, f64, usize) = (-1.0, 4.0, 101);
/// Sizes at which bands are drawn.
const BAND_SIZES: usize = 41;
/// How far a band goes on beyond the smallest and the largest size, as a factor.
const BAND_MARGIN: f64 = 1.5;

/// Resamples of the bootstrap, and their seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resampling {
    /// Number of resamples of the bootstrap.
    #[serde(default = "thousand")]
    pub resamples: usize,
    /// Seed that the resamples are drawn with.
    #[serde(default)]
    pub seed: u64,
}

fn thousand() -> usize {
    1000
}

impl Default for Resampling {
    fn default() -> Self {
        Self {
            resamples: thousand(),
            seed: 0,
        }
    }
}

/// The laws of one set of points.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Laws {
    /// The points that were fitted.
    pub points: Vec<Point>,
    /// Every law under every error model, the most plausible first.
    pub fits: Vec<Fit>,
    /// Bootstrap of each fit, in the same order; none for the less plausible error model of a law.
    pub bootstraps: Vec<Option<Bootstrap>>,
    /// Why laws are missing.
    pub refused: Vec<String>,
    /// Which exponents of the power law the points allow; none where it cannot be fitted.
    pub profile: Option<Profile>,
}

impl Laws {
    /// Fits everything to `points`.
    pub fn new(points: Vec<Point>, resampling: Resampling) -> Self {
        let (fits, refused) = fit_all(&points);
        let sizes = band_sizes(&points);
        let draws = (resampling.resamples, resampling.seed);
        let bootstraps = fits.iter().enumerate().map(|(index, fit)| {
            let is_better_one = fits[..index].iter().all(|better| better.law != fit.law);
            if resampling.resamples == 0 || !is_better_one {
                return None;
            }
            bootstrap(fit.law, fit.error, &points, &sizes, draws).ok()
        });
        let bootstraps = bootstraps.collect();
        let (low, high, count) = EXPONENTS;
        let step = (high - low) / (count - 1) as f64;
        let exponents: Vec<f64> = (0..count).map(|index| low + step * index as f64).collect();
        Self {
            bootstraps,
            refused: refused.iter().map(FitError::to_string).collect(),
            profile: profile::exponent(&points, &exponents).ok(),
            fits,
            points,
        }
    }

    /// Whether AICc is defined for all laws, so that they are ranked by it, and not by AIC.
    pub fn is_corrected(&self) -> bool {
        self.fits.iter().all(|fit| fit.aicc.is_some())
    }

    /// What a fit is ranked by.
    pub fn criterion(&self, fit: &Fit) -> f64 {
        if self.is_corrected() {
            fit.criterion()
        } else {
            fit.aic
        }
    }

    /// Name of the criterion.
    pub fn criterion_name(&self) -> &'static str {
        if self.is_corrected() { "AICc" } else { "AIC" }
    }

    /// By how much the criterion of a fit exceeds the best one's.
    pub fn behind(&self, fit: &Fit) -> f64 {
        self.fits
            .first()
            .map_or(0.0, |best| self.criterion(fit) - self.criterion(best))
    }
}

/// Sizes from below the smallest to above the largest, evenly spaced in logarithms.
fn band_sizes(points: &[Point]) -> Vec<f64> {
    let sizes = || points.iter().map(|point| point.size).filter(|size| *size > 0.0);
    let low = sizes().fold(f64::INFINITY, f64::min) / BAND_MARGIN;
    let high = sizes().fold(0.0, f64::max) * BAND_MARGIN;
    if low > high {
        return Vec::new();
    }
    let step = (high / low).ln() / (BAND_SIZES - 1) as f64;
    (0..BAND_SIZES)
        .map(|index| low * (step * index as f64).exp())
        .collect()
}

/// The thresholds of one kind for one task, and the laws fitted to them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// Name of the task.
    pub task: String,
    /// Kind of the thresholds.
    pub quantity: Quantity,
    /// The thresholds, one for each state size and seed.
    pub thresholds: Vec<Threshold>,
    /// The laws, sizes in thousands of state elements and lengths in tokens.
    pub laws: Laws,
}

impl Analysis {
    /// What `runs` say about a task; none if it was not evaluated for this threshold.
    pub fn new(
        runs: &[RunResult],
        task: &str,
        quantity: Quantity,
        ratio: f64,
        resampling: Resampling,
    ) -> Option<Self> {
        let thresholds = thresholds(runs, task, quantity, ratio);
        if thresholds.is_empty() {
            return None;
        }
        let points = thresholds
            .iter()
            .filter(|threshold| !threshold.interval.is_empty());
        let points = points.map(|threshold| Point {
            size: threshold.elements as f64 / UNIT,
            length: threshold.interval,
        });
        Some(Self {
            task: task.into(),
            quantity,
            laws: Laws::new(points.collect(), resampling),
            thresholds,
        })
    }

    /// State sizes, the smallest first.
    pub fn sizes(&self) -> Vec<u64> {
        distinct(self.thresholds.iter().map(|threshold| threshold.elements))
    }

    /// Sizes at which two seeds' intervals have nothing in common.
    pub fn disagreeing(&self) -> Vec<u64> {
        let disagree = |size: &u64| {
            let of_size = self
                .thresholds
                .iter()
                .filter(|threshold| threshold.elements == *size);
            let ends = of_size.filter_map(|threshold| match threshold.interval {
                Observation::Within { low, high } => Some((low, high.unwrap_or(f64::INFINITY))),
                Observation::Exact(_) => None,
            });
            let (low, high) = ends.fold((0.0f64, f64::INFINITY), |(low, high), ends| {
                (low.max(ends.0), high.min(ends.1))
            });
            low >= high
        };
        self.sizes().into_iter().filter(disagree).collect()
    }

    /// Sizes of the points that bound the threshold from both sides.
    pub fn two_sided(&self) -> usize {
        let two_sided = self
            .laws
            .points
            .iter()
            .filter(|point| point.length.is_two_sided());
        distinct_sizes(&two_sided.copied().collect::<Vec<_>>())
    }
}
