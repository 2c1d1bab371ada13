//! Thresholds for `state-norm:auto`: the largest norm of every head's state inside the training length, on the filler text that
//! the passkeys are hidden in.

use super::prompt::{FILLER, PREFIX};
use crate::error::ProgramError;
use mitigations::Mitigation;
use mitigations::calibrate::{Calibration, Thresholds};
use models::Model;
use ssm_core::Chain;

/// Looks at the state over one training length.
const LOOKS: usize = 64;

/// The mitigation with thresholds if it wants some, as it is otherwise.
///
/// # Errors
/// [`ProgramError::Usage`] when it wants some and nobody says how long the model was trained.
pub fn calibrated(
    mitigation: &Mitigation,
    model: &Model,
    train_length: Option<u64>,
) -> Result<Mitigation, ProgramError> {
    if !mitigation.needs_calibration() {
        return Ok(mitigation.clone());
    }
    let Some(train_length) = train_length else {
        let expected = format!("the model's training length in tokens, which {mitigation} is calibrated on");
        return Err(ProgramError::usage("--train-length", expected, "nothing"));
    };
    let thresholds = thresholds(model, train_length)?;
    mitigation
        .calibrated(&thresholds)
        .map_err(|error| ProgramError::Failed(error.to_string()))
}

fn thresholds(model: &Model, train_length: u64) -> Result<Thresholds, ProgramError> {
    let failed = |error: &dyn std::fmt::Display| ProgramError::Failed(format!("calibration: {error}"));
    let length = usize::try_from(train_length).unwrap_or(usize::MAX);
    let mut ids = model.tokenizer().encode(PREFIX)?;
    let filler = model.tokenizer().encode(FILLER)?;
    ids.extend(filler.iter().cycle().take(length.saturating_sub(ids.len())));
    ids.truncate(length);
    let mut calibration = Calibration::default();
    let mut state = model.start(&Chain::default(), 1)?;
    for stretch in ids.chunks(length.div_ceil(LOOKS).max(1)) {
        model.advance(stretch, &mut state)?;
        let layers = state.layers.iter().map(|layer| &layer.recurrent);
        calibration.observe(layers).map_err(|error| failed(&error))?;
    }
    calibration.thresholds(1.0).map_err(|error| failed(&error))
}
