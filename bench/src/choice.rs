//! Which mitigations are tried on a model: those asked for, or a set scaled to its training length.

use crate::calibration::Calibrator;
use crate::error::ProgramError;
use crate::trial::{self, Trial};
use spillway_mitigations::state_dtype::StateDtype;

/// κ of the default retention factor c = exp(−κ/T): what is left of a token after T tokens is multiplied by exp(−κ), about one half.
const KAPPA: f64 = 0.64;

/// A mitigation that was left out of the default set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Text form of the mitigation.
    pub mitigation: String,
    /// Why the mitigation cannot work with the model.
    pub reason: String,
}

/// The text forms of the mitigations tried unless others are asked for, scaled to the training length T.
pub fn default_set(train_length: u64) -> Vec<String> {
    let t = train_length;
    let forget = (-KAPPA / t as f64).exp();
    let mut set = vec![
        format!("forget:{forget:.6}"),
        format!("rri:{forget:.6},0.75"),
        "remember:0.75".to_string(),
        "delta-scale:0.5".to_string(),
        "state-norm:auto".to_string(),
        format!("window:{t}"),
        format!("window-exact:{t}"),
    ];
    if t > 1 {
        set.push(format!("reset-overlap:{t},{}", t / 2));
    }
    // Where the baseline is another, because there is attention too.
    set.push(format!("reset:{t}"));
    set
}

/// The text forms of the whole catalogue, scaled to the training length T and to the longest length that is read.
pub fn catalogue(train_length: u64, length: u64) -> Vec<String> {
    let t = train_length;
    let mut set = default_set(t);
    set.extend([
        format!("cap:{t}"),
        format!("cap-mean:{t}"),
        "a-scale:2".to_string(),
        format!("position-decay:{t}"),
        format!("position-spectrum:{t}"),
        format!("window-jagged:{t}"),
        format!("window-writes:{t}"),
        format!("logn-attention:{t}"),
        "scales:fit".to_string(),
        format!("delta-filter:{length}"),
        "decimate:0.5".to_string(),
        "fitted-noise".to_string(),
        "c-scale:0.75".to_string(),
    ]);
    set
}

/// What was asked for, and the model with its states in each of these types.
pub fn with_state_dtypes(asked: &[String], dtypes: &[StateDtype]) -> Vec<String> {
    let dtypes = dtypes.iter().map(|dtype| format!("state-dtype:{dtype}"));
    asked.iter().cloned().chain(dtypes).collect()
}

/// What a set of trials is made from.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The text forms asked for; if there are none, `defaults` are taken, and those that cannot work are left out.
    pub asked: &'a [String],
    /// The text forms of the default set.
    pub defaults: &'a [String],
    /// Training length T of the model, in tokens.
    pub train_length: u64,
}

/// Reads what was asked for, or the default set; `none` and the baseline come first, each once. By default a hybrid's attention is
/// started again too, so that beside `reset:T` it shows which of its parts fails.
///
/// # Errors
/// [`ProgramError::Usage`] for a text form that cannot be read, or something asked for that cannot work with the model.
pub fn choose(
    choice: &Choice<'_>,
    calibrator: &mut Calibrator<'_>,
) -> Result<(Vec<Trial>, Vec<Skipped>), ProgramError> {
    let model = calibrator.model();
    let mut chosen: Vec<Trial> = Vec::new();
    let mut skipped = Vec::new();
    let mut specs = vec!["none".to_string(), trial::baseline(model, choice.train_length)];
    match choice.asked {
        [] => {
            specs.extend_from_slice(choice.defaults);
            if trial::is_hybrid(model) {
                specs.push(trial::attention_restart(choice.train_length));
            }
        }
        asked => specs.extend_from_slice(asked),
    }
    for spec in &specs {
        let trial = Trial::parse(spec, model)?;
        let mitigation = trial.name().to_string();
        match trial.possible(calibrator) {
            Err(reason) if choice.asked.is_empty() => skipped.push(Skipped { mitigation, reason }),
            Err(reason) => return Err(trial::refused(spec, reason)),
            Ok(trial) if chosen.iter().any(|other| other.name() == trial.name()) => {
                let same =
                    |other: &Trial| other.name() != trial.name() || other.mitigation() == trial.mitigation();
                if !chosen.iter().all(same) {
                    let reason = format!("{mitigation} is among the mitigations already, with other numbers");
                    return Err(trial::refused(spec, reason));
                }
            }
            Ok(trial) => chosen.push(trial),
        }
    }
    Ok((chosen, skipped))
}
