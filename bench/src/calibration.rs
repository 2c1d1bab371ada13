//! What the model does inside its training length, for the mitigations that take their numbers from it.

use crate::error::ProgramError;
use mitigations::calibrate::{Calibration, Observer};
use models::Model;

/// Looks at the states over one stretch.
const LOOKS: usize = 64;

/// What the model alone does over `stretches`, each of one training length and read from an empty state; norms are the
/// largest.
///
/// # Errors
/// [`ProgramError::Model`] for ids that the model does not have, [`ProgramError::Failed`] when the states give no numbers.
pub fn calibration(
    model: &Model,
    stretches: impl IntoIterator<Item = Vec<u32>>,
) -> Result<Calibration, ProgramError> {
    let observer = Observer::start();
    for ids in stretches {
        let mut state = model.start(&observer.chain(), 1)?;
        for tokens in ids.chunks(ids.len().div_ceil(LOOKS).max(1)) {
            model.advance(tokens, &mut state)?;
        }
    }
    observer
        .calibration(1.0)
        .map_err(|error| ProgramError::Failed(format!("calibration: {error}")))
}
