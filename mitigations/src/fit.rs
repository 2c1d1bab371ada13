//! Numbers fitted without derivatives, and judged by samples that the fit never saw.
//!
//! A loss that is the forward pass of a model has no cheap gradient with respect to, say, one step-size factor per layer.
//! Simultaneous perturbation (SPSA; Spall 1992) needs two losses per iteration, whatever the number of parameters:
//!
//! ```text
//! g_k = (L(u + c δ) − L(u − c δ)) / 2c · δ,  δ ∈ {−1, 1}^n random          u ← u − step · g_k / |g_k|_∞,  value = e^u
//! ```
//!
//! Parameters are factors above 0, so the fit runs over their logarithms. The gradient's size says little under noise, so it
//! only gives the direction; the step shrinks linearly to a tenth. A step that does not lower the loss is taken back, and the
//! best values seen are returned, so on the calibration samples the result is never worse than the start.
//!
//! *MambaExtend* (ICLR 2025) fits its factors like this, but its published script accepts steps by a mixture of calibration
//! and evaluation losses. Here that cannot be written: [`Split`] hands the calibration samples to the fit and keeps the test
//! samples until it is over; they are looked at exactly twice, for the start and for the result.

use crate::random::Bits;
use thiserror::Error;

/// Samples, some to fit on, the others to judge by.
#[derive(Clone, Debug)]
pub struct Split<S> {
    calibration: Vec<S>,
    test: Vec<S>,
}

/// How long a fit searches, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Iterations, each of three losses.
    pub iterations: u32,
    /// How far the two probes lie from where the fit stands, in logarithms.
    pub probe: f64,
    /// The first step, in logarithms.
    pub step: f64,
    /// Values stay between 1/`reach` and `reach` times those at the start.
    pub reach: f64,
    /// Seed of the random directions δ that are tried.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            iterations: 50,
            probe: 0.05,
            step: 0.2,
            reach: 100.0,
            seed: 0,
        }
    }
}

/// The result of a fit, and what it gained on either side of the split.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The values with the least calibration loss.
    pub values: Vec<f64>,
    /// Mean loss of the calibration samples.
    pub calibration: Change,
    /// Mean loss of the test samples: the figure to report.
    pub test: Change,
    /// How often the loss of the calibration samples was computed.
    pub evaluations: u32,
}

/// A loss with the values at the start, and with those of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The loss with the values at the start.
    pub before: f64,
    /// The loss with the values of the result.
    pub after: f64,
}

/// Why there is no fit.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum FitError<E> {
    /// One side of a split would be empty.
    #[error(
        "split of {samples} samples with a share of {share} for calibration: expected at least one sample on each side"
    )]
    Split {
        /// All samples of the text.
        samples: usize,
        /// The share asked for.
        share: f64,
    },
    /// An option or a value at the start makes no sense.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// The option or value that makes no sense, as a phrase.
        what: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// The number that was found.
        found: f64,
    },
    /// The loss at the start is no number.
    #[error("loss at the start: expected a finite number, found {0}")]
    Loss(f64),
    /// The loss could not be computed.
    #[error(transparent)]
    Evaluation(E),
}

impl<S> Split<S> {
    /// The first `share` of the samples for calibration, the others for the test. Samples cut out of one text should come in
    /// its order: then the two sides overlap nowhere but at one border.
    ///
    /// # Errors
    /// [`FitError::Split`].
    pub fn new<E>(mut samples: Vec<S>, share: f64) -> Result<Self, FitError<E>> {
        let count = (samples.len() as f64 * share).round();
        if !(count >= 1.0 && count < samples.len() as f64) {
            return Err(FitError::Split {
                samples: samples.len(),
                share,
            });
        }
        let test = samples.split_off(count as usize);
        Ok(Self {
            calibration: samples,
            test,
        })
    }
}

/// Fits values above 0, from `start`, so that the mean of `loss(values, sample)` over the calibration samples is small.
///
/// ```
/// use spillway_mitigations::fit::{FitError, Options, Split, fit};
///
/// // The loss is least at values (2, 0.5), up to a little noise that differs from sample to sample.
/// let split = Split::new((0..10).collect(), 0.5)?;
/// let loss = |values: &[f64], sample: &u32| {
///     let far = (values[0].ln() - 2f64.ln()).powi(2) + (values[1].ln() - 0.5f64.ln()).powi(2);
///     Ok::<f64, std::convert::Infallible>(far + 0.01 * f64::from(sample % 3))
/// };
/// let fitted = fit(&split, &[1.0, 1.0], &Options::default(), loss)?;
/// assert!(fitted.test.after < 0.1 * fitted.test.before);
/// # Ok::<(), FitError<std::convert::Infallible>>(())
/// ```
///
/// # Errors
/// [`FitError::Value`] and [`FitError::Loss`] for what cannot be begun with; whatever `loss` gives. A loss that is not
/// finite on the way is a bad step, and taken back.
pub fn fit<S, E>(
    split: &Split<S>,
    start: &[f64],
    options: &Options,
    mut loss: impl FnMut(&[f64], &S) -> Result<f64, E>,
) -> Result<Fitted, FitError<E>> {
    validate(start, options)?;
    let origin: Vec<f64> = start.iter().map(|value| value.ln()).collect();
    let mut search = Search {
        options: *options,
        bits: Bits::new(&[options.seed]),
        at: origin.clone(),
        at_loss: mean_loss(&split.calibration, start, &mut loss)?,
        best: origin.clone(),
        best_loss: f64::INFINITY,
        origin,
        evaluations: 1,
    };
    if !search.at_loss.is_finite() {
        return Err(FitError::Loss(search.at_loss));
    }
    search.best_loss = search.at_loss;
    let before = search.at_loss;
    for iteration in 0..options.iterations {
        search.iterate(iteration, |values| {
            mean_loss(&split.calibration, values, &mut loss)
        })?;
    }
    let values: Vec<f64> = search.best.iter().map(|log| log.exp()).collect();
    Ok(Fitted {
        calibration: Change {
            before,
            after: search.best_loss,
        },
        test: Change {
            before: mean_loss(&split.test, start, &mut loss)?,
            after: mean_loss(&split.test, &values, &mut loss)?,
        },
        values,
        evaluations: search.evaluations,
    })
}

/// Where a fit stands; positions are logarithms of values.
struct Search {
    options: Options,
    bits: Bits,
    origin: Vec<f64>,
    at: Vec<f64>,
    at_loss: f64,
    best: Vec<f64>,
    best_loss: f64,
    evaluations: u32,
}

impl Search {
    /// Two probes, one step.
    fn iterate<E>(
        &mut self,
        iteration: u32,
        mut loss: impl FnMut(&[f64]) -> Result<f64, E>,
    ) -> Result<(), E> {
        let direction: Vec<f64> = self.at.iter().map(|_| self.bits.sign()).collect();
        let probe = self.options.probe;
        let (_, above) = self.look(&direction, probe, &mut loss)?;
        let (_, below) = self.look(&direction, -probe, &mut loss)?;
        let progress = f64::from(iteration) / f64::from(self.options.iterations.max(1));
        let step = self.options.step * (1.0 - 0.9 * progress);
        // A probe without a number is as bad as can be.
        let step = match above.total_cmp(&below) {
            std::cmp::Ordering::Less => step,
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Greater => -step,
        };
        let (there, loss_there) = self.look(&direction, step, &mut loss)?;
        if loss_there < self.at_loss {
            self.at = there;
            self.at_loss = loss_there;
        }
        Ok(())
    }

    /// The position `distance` along `direction`, and the loss there.
    fn look<E>(
        &mut self,
        direction: &[f64],
        distance: f64,
        loss: &mut impl FnMut(&[f64]) -> Result<f64, E>,
    ) -> Result<(Vec<f64>, f64), E> {
        let reach = self.options.reach.ln();
        let moved = self.at.iter().zip(direction).zip(&self.origin);
        let there: Vec<f64> = moved
            .map(|((at, sign), origin)| (at + distance * sign).clamp(origin - reach, origin + reach))
            .collect();
        let values: Vec<f64> = there.iter().map(|log| log.exp()).collect();
        let found = loss(&values)?;
        self.evaluations += 1;
        let found = if found.is_finite() { found } else { f64::INFINITY };
        if found < self.best_loss {
            self.best.clone_from(&there);
            self.best_loss = found;
        }
        Ok((there, found))
    }
}

fn mean_loss<S, E>(
    samples: &[S],
    values: &[f64],
    loss: &mut impl FnMut(&[f64], &S) -> Result<f64, E>,
) -> Result<f64, FitError<E>> {
    let mut sum = 0.0;
    for sample in samples {
        sum += loss(values, sample).map_err(FitError::Evaluation)?;
    }
    Ok(sum / samples.len() as f64)
}

fn validate<E>(start: &[f64], options: &Options) -> Result<(), FitError<E>> {
    let above = |what, number: f64, least: f64, expected| {
        if number.is_finite() && number > least {
            return Ok(());
        }
        Err(FitError::Value {
            what,
            expected,
            found: number,
        })
    };
    for &value in start {
        above("value at the start", value, 0.0, "a finite number above 0")?;
    }
    above("probe", options.probe, 0.0, "a finite number above 0")?;
    above("step", options.step, 0.0, "a finite number above 0")?;
    above("reach", options.reach, 1.0, "a finite number above 1")
}
