//! Thresholds for `state-norm:auto`: the largest norm of every head's state inside the training length.

use crate::error::ProgramError;
use mitigations::calibrate::{Calibration, Thresholds};
use models::Model;
use ssm_core::Chain;

/// Looks at the states over one stretch.
const LOOKS: usize = 64;

/// The largest norms that the model alone reaches over `stretches`, each of one training length and read from an empty state.
///
/// # Errors
/// [`ProgramError::Model`] for ids that the model does not have, [`ProgramError::Failed`] when the states give no thresholds.
pub fn thresholds(
    model: &Model,
    stretches: impl IntoIterator<Item = Vec<u32>>,
) -> Result<Thresholds, ProgramError> {
    let failed =
        |error: &dyn std::fmt::Display| ProgramError::Failed(format!("calibration of state-norm: {error}"));
    let mut calibration = Calibration::default();
    for ids in stretches {
        let mut state = model.start(&Chain::default(), 1)?;
        for tokens in ids.chunks(ids.len().div_ceil(LOOKS).max(1)) {
            model.advance(tokens, &mut state)?;
            let states = state.recurrences().map(|recurrence| &recurrence.state);
            calibration.observe(states).map_err(|error| failed(&error))?;
        }
    }
    calibration.thresholds(1.0).map_err(|error| failed(&error))
}
