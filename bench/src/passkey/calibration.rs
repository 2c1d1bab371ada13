//! What mitigations are calibrated on here: the filler text that the passkeys are hidden in.

use crate::error::ProgramError;
use spillway_mitigations::Mitigation;
use spillway_models::Model;
use spillway_models::evaluation::passkey_text::prompt::{FILLER, PREFIX};

/// The mitigation, which wants numbers, with them.
///
/// # Errors
/// [`ProgramError::Usage`] when nobody says how long the model was trained.
pub fn calibrated(
    mitigation: &Mitigation,
    model: &Model,
    train_length: Option<u64>,
) -> Result<Mitigation, ProgramError> {
    let Some(train_length) = train_length else {
        let expected = format!("the model's training length in tokens, which {mitigation} is calibrated on");
        return Err(ProgramError::usage("--train-length", expected, "nothing"));
    };
    let calibration = crate::calibration::calibration(model, [filler(model, train_length)?])?;
    mitigation
        .calibrated(&calibration)
        .map_err(|error| ProgramError::Failed(error.to_string()))
}

fn filler(model: &Model, train_length: u64) -> Result<Vec<u32>, ProgramError> {
    let length = usize::try_from(train_length).unwrap_or(usize::MAX);
    let mut ids = model.tokenizer().encode(PREFIX)?;
    let filler = model.tokenizer().encode(FILLER)?;
    ids.extend(filler.iter().cycle().take(length.saturating_sub(ids.len())));
    ids.truncate(length);
    Ok(ids)
}
