//! Fitting laws of a length against a size of the state, to few points of which often only intervals are known.
//!
//! | module | what is in it |
//! |---|---|
//! | [`law`] | linear, power, exponential; additive and log-normal errors |
//! | [`observation`] | a length, or the interval that it lies in |
//! | [`likelihood`] | the probability of what was observed |
//! | [`mod@least_squares`], [`simplex`] | closed forms and starting points; the search for the most likely parameters |
//! | [`bootstrap`] | intervals of parameters and curves by resampling sizes and, within them, seeds |
//! | [`profile`] | which exponents of the power law the points allow |
//! | [`published`] | the six points of the published experiment, and the laws it states |
//!
//! **Comparing laws.** AIC = 2k − 2 ln L with k the law's parameters and σ. Every likelihood is that of the lengths themselves (see
//! [`likelihood`]), so laws and error models can be compared as long as the points are the same; an exact point at 0 has no
//! place in a log-normal model, and with it no comparison. AICc = AIC + 2k(k + 1)/(n − k − 1) corrects for few points and is
//! undefined for n ≤ k + 1, which is said rather than worked around. Sources: Akaike (1974); Hurvich & Tsai (1989).
//!
//! **σ has a floor.** A law that passes through every interval is certain of them all with σ = 0, and so are its neighbours: the
//! likelihood has a plateau. With σ at least [`INTERVAL_FLOOR`], 5 %, the middle of the plateau is preferred, and [`Fit::at_floor`]
//! says that the scatter is too small to be seen.

pub mod bootstrap;
pub mod law;
pub mod least_squares;
pub mod likelihood;
pub mod observation;
pub mod profile;
pub mod published;
pub mod simplex;

use serde::Serialize;
use thiserror::Error;

use least_squares::{least_squares, r_squared};
use likelihood::log_likelihood;

pub use law::{ErrorModel, Law};
pub use observation::{Observation, Point};

/// Least σ where a length is known as an interval: in logarithms, and times the geometric mean of the lengths otherwise.
pub const INTERVAL_FLOOR: f64 = 0.05;
/// Least σ where every length is known: below it the law passes through all points.
const EXACT_FLOOR: f64 = 1e-6;

/// Why a law cannot be fitted.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum FitError {
    /// Fewer sizes than parameters.
    #[error("{law} law: expected points of at least {needed} sizes, found {found}")]
    TooFewSizes {
        /// The law that was to be fitted.
        law: Law,
        /// Number of the law's parameters, and so of the different sizes that it needs.
        needed: usize,
        /// Number of different sizes among the points.
        found: usize,
    },
    /// A size or length that is no positive number where one is needed.
    #[error(
        "{law} law with {error} errors: expected sizes and lengths above 0, found size {size} with length {length}"
    )]
    NotPositive {
        /// The law that was to be fitted.
        law: Law,
        /// Error model of the fit.
        error: ErrorModel,
        /// Size of the point that cannot be used.
        size: f64,
        /// Length of that point; of an interval, the number that stands for it.
        length: f64,
    },
    /// All lengths are beyond what was tried, on the same side.
    #[error("expected lengths bounded from both sides, found only bounds from {0}")]
    OneSided(&'static str),
    /// Every start of the search was impossible.
    #[error("{law} law with {error} errors: no parameters make the points possible")]
    Impossible {
        /// The law that was to be fitted.
        law: Law,
        /// Error model of the fit.
        error: ErrorModel,
    },
}

/// The most likely parameters of a law.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The law that was fitted.
    pub law: Law,
    /// The error model of the fit.
    pub error: ErrorModel,
    /// a, b and, for the exponential law, c.
    pub parameters: Vec<f64>,
    /// Scatter: in the unit of the lengths, or of logarithms.
    pub sigma: f64,
    /// Whether σ is as small as it is allowed to be, so that the points do not tell the scatter.
    pub at_floor: bool,
    /// Number n of points that were fitted.
    pub points: usize,
    /// Log-likelihood ln L of the points under the fitted law.
    pub log_likelihood: f64,
    /// 2k − 2 ln L.
    pub aic: f64,
    /// AIC with the correction for few points; none where it is undefined.
    pub aicc: Option<f64>,
    /// Share of the variance explained, on the scale of the errors; none where lengths are intervals.
    pub r_squared: Option<f64>,
}

impl Fit {
    /// The law's length at a size.
    pub fn at(&self, size: f64) -> f64 {
        self.law.at(&self.parameters, size)
    }

    /// The law with its parameters.
    pub fn formula(&self) -> String {
        self.law.formula(&self.parameters)
    }

    /// What laws are ranked by: AICc where it is defined.
    pub fn criterion(&self) -> f64 {
        self.aicc.unwrap_or(self.aic)
    }
}

/// Fits `law` to `points` by maximum likelihood; with exact lengths and the error model in which the law is solved in closed
/// form (linear and exponential: additive, power: log-normal) that is least squares.
///
/// # Errors
/// [`FitError`]: too few sizes, lengths that the error model cannot have, only one-sided bounds.
pub fn fit(law: Law, error: ErrorModel, points: &[Point]) -> Result<Fit, FitError> {
    fit_near(law, error, points, None)
}

/// As [`fit`], searching from `near`, the parameters of a similar problem, and nowhere else.
///
/// # Errors
/// As [`fit`].
fn fit_near(law: Law, error: ErrorModel, points: &[Point], near: Option<&[f64]>) -> Result<Fit, FitError> {
    check(law, error, points)?;
    let problem = Problem::new(law, error, points);
    let (parameters, sigma) = problem.solve(near)?;
    let log_likelihood = log_likelihood(law, error, &parameters, sigma, points);
    let (k, n) = ((law.arity() + 1) as f64, points.len() as f64);
    let aic = 2.0 * k - 2.0 * log_likelihood;
    let exact: Option<Vec<(f64, f64)>> = points.iter().map(exact_pair).collect();
    Ok(Fit {
        law,
        error,
        sigma,
        at_floor: sigma <= problem.floor * 1.001,
        points: points.len(),
        log_likelihood,
        aic,
        aicc: (n > k + 1.0).then(|| aic + 2.0 * k * (k + 1.0) / (n - k - 1.0)),
        r_squared: exact.map(|pairs| r_squared(law, error, &parameters, &pairs)),
        parameters,
    })
}

/// Every law under every error model that the points allow, the most plausible first, with the reasons of those left out.
pub fn fit_all(points: &[Point]) -> (Vec<Fit>, Vec<FitError>) {
    let (mut fits, mut errors) = (Vec::new(), Vec::new());
    for (law, error) in Law::ALL
        .into_iter()
        .flat_map(|law| ErrorModel::ALL.map(|error| (law, error)))
    {
        match fit(law, error, points) {
            Ok(fit) => fits.push(fit),
            Err(error) if errors.contains(&error) => {}
            Err(error) => errors.push(error),
        }
    }
    // AICc and AIC must not be mixed: one undefined AICc puts all of them on AIC.
    let corrected = fits.iter().all(|fit| fit.aicc.is_some());
    let criterion = |fit: &Fit| if corrected { fit.criterion() } else { fit.aic };
    fits.sort_by(|a, b| criterion(a).total_cmp(&criterion(b)));
    (fits, errors)
}

fn exact_pair(point: &Point) -> Option<(f64, f64)> {
    match point.length {
        Observation::Exact(length) => Some((point.size, length)),
        Observation::Within { .. } => None,
    }
}

/// Number of different sizes.
pub fn distinct_sizes(points: &[Point]) -> usize {
    let mut sizes: Vec<f64> = points.iter().map(|point| point.size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    sizes.len()
}

fn check(law: Law, error: ErrorModel, points: &[Point]) -> Result<(), FitError> {
    let found = distinct_sizes(points);
    if found < law.arity() {
        let needed = law.arity();
        return Err(FitError::TooFewSizes { law, needed, found });
    }
    for point in points {
        let length = point.length.representative();
        let size_needed = law == Law::Power && point.size <= 0.0;
        let length_needed = error == ErrorModel::LogNormal && length <= 0.0;
        if size_needed || length_needed || !point.size.is_finite() || !length.is_finite() {
            let size = point.size;
            return Err(FitError::NotPositive {
                law,
                error,
                size,
                length,
            });
        }
    }
    let bounded = |side: fn(f64, Option<f64>) -> bool| {
        points.iter().any(|point| match point.length {
            Observation::Exact(_) => true,
            Observation::Within { low, high } => side(low, high),
        })
    };
    match (bounded(|low, _| low > 0.0), bounded(|_, high| high.is_some())) {
        (true, true) => Ok(()),
        (true, false) => Err(FitError::OneSided("below")),
        _ => Err(FitError::OneSided("above")),
    }
}

/// A fit under way, in coordinates in which the search is well conditioned.
struct Problem<'a> {
    law: Law,
    error: ErrorModel,
    points: &'a [Point],
    sizes: Vec<f64>,
    lengths: Vec<f64>,
    /// Where the coordinates of the law are taken: the mean size, or of logarithms.
    centre: f64,
    floor: f64,
}

impl<'a> Problem<'a> {
    fn new(law: Law, error: ErrorModel, points: &'a [Point]) -> Self {
        let sizes: Vec<f64> = points.iter().map(|point| point.size).collect();
        let lengths: Vec<f64> = points.iter().map(|point| point.length.representative()).collect();
        let scaled = |size: &f64| if law == Law::Power { size.ln() } else { *size };
        let centre = sizes.iter().map(scaled).sum::<f64>() / sizes.len() as f64;
        let exact = points.iter().all(|point| exact_pair(point).is_some());
        let relative = if exact { EXACT_FLOOR } else { INTERVAL_FLOOR };
        let positive = || lengths.iter().filter(|length| **length > 0.0);
        let logs = positive().map(|length| length.ln()).sum::<f64>() / positive().count().max(1) as f64;
        let floor = match error {
            ErrorModel::Additive => relative * logs.exp(),
            ErrorModel::LogNormal => relative,
        };
        Self {
            law,
            error,
            points,
            sizes,
            lengths,
            centre,
            floor,
        }
    }

    /// Parameters and σ; from `near`, one quick search.
    fn solve(&self, near: Option<&[f64]>) -> Result<(Vec<f64>, f64), FitError> {
        let exact = self.points.iter().all(|point| exact_pair(point).is_some());
        let closed_form = matches!(
            (self.law, self.error),
            (Law::Linear | Law::Exponential, ErrorModel::Additive) | (Law::Power, ErrorModel::LogNormal)
        );
        if exact
            && closed_form
            && let Some(parameters) = self.starts().into_iter().next()
        {
            let sigma = self.scatter(&parameters);
            return Ok((parameters, sigma));
        }
        let quick = near.and_then(|near| self.search(&[near.to_vec()], 1));
        let best = quick.or_else(|| self.search(&self.starts(), simplex::THOROUGH));
        match best {
            Some(coordinates) => Ok(self.parameters(&coordinates)),
            None => Err(FitError::Impossible {
                law: self.law,
                error: self.error,
            }),
        }
    }

    /// The best coordinates found from any start; none if all are impossible.
    fn search(&self, starts: &[Vec<f64>], searches: usize) -> Option<Vec<f64>> {
        let function = |coordinates: &[f64]| self.objective(coordinates);
        let found = starts.iter().map(|start| {
            let (coordinates, edges) = self.coordinates(start);
            simplex::minimise(&function, &coordinates, &edges, searches)
        });
        let best = found.min_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|(_, value)| value.is_finite())
            .map(|(coordinates, _)| coordinates)
    }

    fn objective(&self, coordinates: &[f64]) -> f64 {
        let (parameters, sigma) = self.parameters(coordinates);
        let steep = self.law == Law::Exponential && !(1e-6..=1e3).contains(&(parameters[2] * self.largest()));
        if sigma < self.floor || steep {
            return f64::INFINITY;
        }
        -log_likelihood(self.law, self.error, &parameters, sigma, self.points)
    }

    fn largest(&self) -> f64 {
        self.sizes.iter().copied().fold(0.0, f64::max)
    }

    /// Root of the mean squared error of the representative lengths, at least the floor.
    fn scatter(&self, parameters: &[f64]) -> f64 {
        let squared = |(size, length): (&f64, &f64)| {
            let fitted = self.law.at(parameters, *size);
            (self.error.scale(*length) - self.error.scale(fitted)).powi(2)
        };
        let squares: f64 = self.sizes.iter().zip(&self.lengths).map(squared).sum();
        let sigma = (squares / self.lengths.len() as f64).sqrt();
        if sigma.is_finite() {
            sigma.max(self.floor)
        } else {
            self.floor.max(1.0)
        }
    }

    /// Least squares of the representative lengths, the same relative to the lengths, and T ∝ S, which is positive everywhere.
    fn starts(&self) -> Vec<Vec<f64>> {
        let even = vec![1.0; self.sizes.len()];
        let relative: Vec<f64> = self
            .lengths
            .iter()
            .map(|length| length.abs().max(1e-12).powi(-2))
            .collect();
        let fitted = |weights: &[f64]| least_squares(self.law, &self.sizes, &self.lengths, weights);
        let logs = self.sizes.iter().zip(&self.lengths).filter_map(|(size, length)| {
            let log = (length / size).ln();
            log.is_finite().then_some(log)
        });
        let logs: Vec<f64> = logs.collect();
        let slope = (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
        let rate = 0.1 / self.largest();
        let proportional = match self.law {
            Law::Linear => vec![slope, 0.0],
            Law::Power => vec![slope, 1.0],
            Law::Exponential => vec![slope / rate, 0.0, rate],
        };
        [fitted(&even), fitted(&relative), Some(proportional)]
            .into_iter()
            .flatten()
            .filter(|start| start.iter().all(|value| value.is_finite()))
            .collect()
    }

    /// Coordinates of the search, with steps to begin with: the law's value in the middle and its slope; for the exponential
    /// law slope at 0, value at 0 and ln c, which keep their sense as c goes to 0. The last is ln σ.
    fn coordinates(&self, start: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let length = self.lengths.iter().copied().fold(0.0, f64::max);
        let slope = length / self.largest();
        let (mut coordinates, mut edges) = match (self.law, start) {
            (Law::Linear, [a, b]) => (vec![a * self.centre + b, *a], vec![0.1 * length, 0.1 * slope]),
            (Law::Power, [a, b]) => (vec![a.ln() + b * self.centre, *b], vec![0.3, 0.3]),
            (_, [a, b, c]) => (vec![a * c, *b, c.ln()], vec![0.1 * slope, 0.1 * length, 0.3]),
            _ => (Vec::new(), Vec::new()),
        };
        // A little above the floor, so that the first simplex has room.
        coordinates.push(self.scatter(start).max(1.1 * self.floor).ln());
        edges.push(0.3);
        (coordinates, edges)
    }

    fn parameters(&self, coordinates: &[f64]) -> (Vec<f64>, f64) {
        match (self.law, coordinates) {
            (Law::Linear, [middle, slope, sigma]) => {
                (vec![*slope, middle - slope * self.centre], sigma.exp())
            }
            (Law::Power, [middle, b, sigma]) => (vec![(middle - b * self.centre).exp(), *b], sigma.exp()),
            (Law::Exponential, [slope, b, c, sigma]) => (vec![slope / c.exp(), *b, c.exp()], sigma.exp()),
            _ => (Vec::new(), f64::NAN),
        }
    }
}

#[cfg(test)]
mod tests;
