//! What the model does inside its training length, for the mitigations that take their numbers from it, and numbers fitted
//! to what it loses beyond.

use crate::context::Context;
use crate::error::ProgramError;
use spillway_mitigations::Mitigation;
use spillway_mitigations::calibrate::Calibration;
use spillway_mitigations::fit::{FitError, Fitted, Options, Split, fit};
use spillway_mitigations::observer::Observer;
use spillway_models::evaluation::diagnosis::text::Text;
use spillway_models::{Model, ModelError};
use std::ops::ControlFlow;

/// Samples of the states over one segment.
const STATE_SAMPLES: usize = 64;
/// Segments of text that mitigations are calibrated on.
const SEGMENTS: u64 = 16;
/// Samples of a fit, half of them to fit on and half to judge by, and their length in training lengths.
const SAMPLES: u64 = 4;
const SAMPLE_LENGTHS: u64 = 4;

/// What the model alone does over `segments`, each of one training length and read from an empty state; norms are the
/// largest.
///
/// # Errors
/// [`ProgramError::Model`] for ids that the model does not have, [`ProgramError::Failed`] when the states give no numbers.
pub fn calibration(
    model: &Model,
    segments: impl IntoIterator<Item = Vec<u32>>,
) -> Result<Calibration, ProgramError> {
    calibration_watched(model, segments, &mut |_| ())
}

/// [`calibration`] that tells how many tokens it has read, again and again.
///
/// # Errors
/// As there.
pub fn calibration_watched(
    model: &Model,
    segments: impl IntoIterator<Item = Vec<u32>>,
    read: &mut dyn FnMut(u64),
) -> Result<Calibration, ProgramError> {
    let observer = Observer::start();
    for ids in segments {
        let mut state = model.start(&observer.chain(), 1)?;
        for tokens in ids.chunks(ids.len().div_ceil(STATE_SAMPLES).max(1)) {
            model.advance(tokens, &mut state)?;
            read(tokens.len() as u64);
        }
    }
    observer
        .calibration(1.0)
        .map_err(|error| ProgramError::Failed(format!("calibration: {error}")))
}

/// Tokens that a calibration reads.
pub fn tokens(train_length: u64) -> u64 {
    SEGMENTS.saturating_mul(train_length)
}

/// Tokens of a text beyond which it need not be read for a calibration: every segment has several times its own length to lie in.
pub fn most_tokens(train_length: u64) -> usize {
    let most = tokens(train_length).saturating_mul(8).max(1 << 20);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Calibrates mitigations on a text; reads it once, and only if asked.
#[derive(Debug)]
pub struct Calibrator<'a> {
    model: &'a Model,
    text: &'a Text,
    train_length: u64,
    calibration: Option<Calibration>,
    context: Option<&'a Context>,
}

impl<'a> Calibrator<'a> {
    /// A calibrator for `model` on `text`, of which nothing has been read; `train_length` is in tokens.
    pub fn new(model: &'a Model, text: &'a Text, train_length: u64) -> Self {
        Self {
            model,
            text,
            train_length,
            calibration: None,
            context: None,
        }
    }

    /// This, telling how far it has come when it reads.
    #[must_use]
    pub fn watched(mut self, context: &'a Context) -> Self {
        self.context = Some(context);
        self
    }

    /// The model that is calibrated.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// A mitigation with its numbers.
    ///
    /// # Errors
    /// As [`calibration`]; [`ProgramError::Failed`] when the mitigation lacks something.
    pub fn calibrate(&mut self, mitigation: &Mitigation) -> Result<Mitigation, ProgramError> {
        let calibration = match self.calibration.take() {
            Some(calibration) => calibration,
            None => self.read()?,
        };
        let calibrated = mitigation.calibrated(&calibration);
        self.calibration = Some(calibration);
        calibrated.map_err(|error| ProgramError::Failed(error.to_string()))
    }

    fn read(&self) -> Result<Calibration, ProgramError> {
        let Some(context) = self.context else {
            return calibration(self.model, self.segments());
        };
        let progress = context.progress(SEGMENTS * self.train_length, "tokens");
        progress.set_message("calibrating");
        calibration_watched(self.model, self.segments(), &mut |tokens| progress.inc(tokens))
    }

    /// Segments of one training length, a third of the way between evenly spread starts, where no stream starts.
    fn segments(&self) -> impl Iterator<Item = Vec<u32>> {
        (0..SEGMENTS).map(|segment| {
            let start = (3 * segment + 1) * self.text.tokens() / (3 * SEGMENTS);
            self.text.read(start, self.train_length as usize)
        })
    }
}

/// Text form of factors on the step size, one per layer.
pub fn scales(factors: &[f64]) -> String {
    let factors: Vec<String> = factors.iter().map(|factor| format!("{factor:.4}")).collect();
    format!("scales:{}", factors.join(","))
}

/// Readings of a sample that [`fit_scales`] makes at most, over all samples together.
pub fn fit_readings(iterations: u32) -> u64 {
    // Three losses of the samples fitted on in each iteration and one before, two of the others at the end.
    (3 * u64::from(iterations) + 1) * (SAMPLES / 2) + SAMPLES
}

/// Tokens of a sample that [`fit_scales`] reads.
pub fn fit_length(text: &Text, train_length: u64) -> u64 {
    (SAMPLE_LENGTHS * train_length).min((text.tokens() / SAMPLES).saturating_sub(1))
}

/// Factors on the step size, one per layer, that make the loss over four training lengths small; found on `text` alone.
/// `read` hears of every sample that has been read, and may break off.
///
/// # Errors
/// [`ProgramError::Failed`] for a text that is too short or a model whose loss is not finite, [`ProgramError::Model`],
/// [`ProgramError::Interrupted`] when `read` broke off.
pub fn fit_scales(
    model: &Model,
    text: &Text,
    train_length: u64,
    iterations: u32,
    read: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(Mitigation, Fitted), ProgramError> {
    let failed = |error: &dyn std::fmt::Display| ProgramError::Failed(format!("scales:fit: {error}"));
    let length = fit_length(text, train_length);
    let sample = |index: u64| text.read(index * text.tokens() / SAMPLES, length as usize + 1);
    let split = Split::new::<ProgramError>((0..SAMPLES).map(sample).collect(), 0.5);
    let options = Options {
        iterations,
        ..Options::default()
    };
    let start = vec![1.0; model.info().layers];
    let loss = |factors: &[f64], ids: &Vec<u32>| {
        let loss = loss(model, factors, ids)?;
        match read() {
            ControlFlow::Continue(()) => Ok(loss),
            ControlFlow::Break(()) => Err(ProgramError::Interrupted),
        }
    };
    let fitted = fit(&split.map_err(|error| failed(&error))?, &start, &options, loss);
    let fitted = fitted.map_err(|error| match error {
        FitError::Evaluation(error) => error,
        other => failed(&other),
    })?;
    let mitigation = scales(&fitted.values).parse();
    Ok((mitigation.map_err(|error| failed(&error))?, fitted))
}

fn loss(model: &Model, factors: &[f64], ids: &[u32]) -> Result<f64, ModelError> {
    // Factors are finite and above 0, which is all that the text form asks for.
    let mitigation: Mitigation = scales(factors).parse().unwrap_or_default();
    let mut state = model.start(&mitigation.chain(), 1)?;
    let losses = match ids.split_last() {
        Some((_, read)) => model.losses(read, &ids[1..], &mut state)?,
        None => Vec::new(),
    };
    Ok(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64)
}
