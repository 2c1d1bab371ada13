//! What mitigations are calibrated on here: the filler text that the passkeys are hidden in.

use crate::error::ProgramError;
use spillway_models::Model;
use spillway_models::evaluation::passkey_text::prompt::{FILLER, PREFIX};

/// So many tokens of it.
///
/// # Errors
/// [`ProgramError::Model`] from the tokenizer.
pub fn filler(model: &Model, length: u64) -> Result<Vec<u32>, ProgramError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut ids = model.tokenizer().encode(PREFIX)?;
    let filler = model.tokenizer().encode(FILLER)?;
    ids.extend(filler.iter().cycle().take(length.saturating_sub(ids.len())));
    ids.truncate(length);
    Ok(ids)
}
