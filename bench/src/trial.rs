//! What is tried on a model: a mitigation, or starting the model, or its attention, again at regular positions.
//!
//! `reset:N` empties recurrent states; it says nothing about the keys and values of attention layers, and does nothing to a
//! model that has no recurrence. `restart:N` is the same idea for every model ([`Treatment::restart`]), `restart-attention:N` for the
//! attention layers of a hybrid alone.

use crate::calibration::{Calibrator, scales};
use crate::error::ProgramError;
use crate::mitigation_file;
use spillway_mitigations::Mitigation;
use spillway_models::evaluation::diagnosis::treatment::{Restart, RestartScope, Treatment};
use spillway_models::{Model, ModelState};
use spillway_ssm_core::{Chain, MixerState};
use std::path::Path;

/// The text form of no mitigation.
pub const NONE: &str = "none";
/// The text form of factors on the step size that are fitted to the model.
const FIT: &str = "scales:fit";

/// Makes a trial of a period.
type Restarting = fn(u64) -> Trial;

/// What starts again, by its name.
const RESTARTS: [(&str, Restarting); 2] = [
    ("restart", Trial::restart),
    ("restart-attention", Trial::restart_attention),
];

/// What is tried on a model: a mitigation, or starting the model or its attention again.
#[derive(Clone, Debug)]
pub struct Trial {
    name: String,
    mitigation: Mitigation,
    treatment: Treatment,
    /// Fingerprint of the numbers that came from a file.
    numbers: Option<u64>,
}

impl Trial {
    /// The model with a mitigation, which has its numbers if it is one that is calibrated.
    pub fn of(mitigation: &Mitigation) -> Self {
        Self {
            name: mitigation.to_string(),
            mitigation: mitigation.clone(),
            treatment: Treatment::of(mitigation.chain()),
            numbers: None,
        }
    }

    /// The model started again every `period` tokens.
    pub fn restart(period: u64) -> Self {
        Self {
            name: format!("restart:{period}"),
            treatment: Treatment::restart(period),
            ..Self::of(&Mitigation::none())
        }
    }

    /// The attention layers started again every `period` tokens.
    pub fn restart_attention(period: u64) -> Self {
        Self {
            name: attention_restart(period),
            treatment: Treatment::restart_attention(period),
            ..Self::of(&Mitigation::none())
        }
    }

    /// Reads `restart:N`, `restart-attention:N`, `scales:fit`, `@FILE`, or a mitigation's text form.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for anything else, [`ProgramError::File`] and [`ProgramError::Content`] for a file.
    pub fn parse(spec: &str, model: &Model) -> Result<Self, ProgramError> {
        if let Some(path) = spec.strip_prefix('@') {
            let mitigation = mitigation_file::read(Path::new(path))?;
            return Ok(Self {
                numbers: Some(mitigation_file::fingerprint(&mitigation)?),
                ..Self::of(&mitigation)
            });
        }
        if let Some((name, period)) = spec.split_once(':')
            && let Some((name, restart)) = RESTARTS.iter().find(|form| form.0 == name)
        {
            return match period.trim().parse::<u64>() {
                Ok(period) if period > 0 => Ok(restart(period)),
                _ => Err(ProgramError::usage(
                    format!("--mitigation {spec}"),
                    format!("{name}:N with a number of tokens of at least 1"),
                    period,
                )),
            };
        }
        let written = match spec == FIT {
            true => scales(&vec![1.0; model.info().layers]),
            false => spec.to_string(),
        };
        let mitigation: Mitigation = written.parse().map_err(|error| refused(spec, error))?;
        let trial = Self::of(&mitigation);
        Ok(match spec == FIT {
            true => Self {
                name: FIT.into(),
                ..trial
            },
            false => trial,
        })
    }

    /// The mitigation, with its numbers once it has some.
    pub fn mitigation(&self) -> &Mitigation {
        &self.mitigation
    }

    /// This, if it acts inside a model as it is: not a restart, nor something that is still to be fitted.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] with what to give instead.
    pub fn expect_usable(self, spec: &str) -> Result<Self, ProgramError> {
        match (self.treatment.restarts(), self.is_to_be_fitted()) {
            (Some(Restart { period, .. }), _) => Err(refused(
                spec,
                format!(
                    "a restart, which diagnose and compare hold others against; reset:{period} empties the recurrent \
                         states"
                ),
            )),
            (None, true) => Err(refused(
                spec,
                "factors that spillway compare fits to the model; give the scales:S,S,.. that it prints",
            )),
            (None, false) => Ok(self),
        }
    }

    /// Whether its numbers are still to be fitted.
    pub fn is_to_be_fitted(&self) -> bool {
        self.name == FIT
    }

    /// This trial with a mitigation whose numbers are fitted.
    pub fn fitted(&self, mitigation: &Mitigation) -> Self {
        Self {
            name: self.name.clone(),
            ..Self::of(mitigation)
        }
    }

    /// This with its calibrated numbers, if it can work with the model.
    ///
    /// # Errors
    /// Why not, and what would.
    pub fn possible(self, calibrator: &mut Calibrator<'_>) -> Result<Self, String> {
        let calibrated =
            match self.mitigation.needs_calibration() && !calibrator.model().info().sites.is_empty() {
                true => {
                    let calibrated = calibrator.calibrate(&self.mitigation);
                    Self::of(&calibrated.map_err(|error| error.to_string())?)
                }
                false => self,
            };
        match calibrated.refusal(calibrator.model()) {
            Some(reason) => Err(reason),
            None => Ok(calibrated),
        }
    }

    /// Text form of the trial, such as `window:8192` or `restart:2048`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a run goes on under: the text form, and of numbers from a file which ones.
    pub fn identity(&self) -> String {
        match self.numbers {
            Some(numbers) => format!("{} (numbers {numbers:016x})", self.name),
            None => self.name.clone(),
        }
    }

    /// What the model reads under.
    pub fn treatment(&self) -> &Treatment {
        &self.treatment
    }

    /// Why this cannot work with the model, and what would; `None` if it can.
    pub fn refusal(&self, model: &Model) -> Option<String> {
        let of_attention = |restart: Restart| restart.scope == RestartScope::Attention;
        if self.treatment.restarts().is_some_and(of_attention) && !has_attention(model) {
            return Some(format!(
                "{} acts on attention layers and this model has none; restart:N works with every model",
                self.name
            ));
        }
        let chain = self.treatment.chain();
        if chain.interventions().is_empty() {
            return None;
        }
        let sites = &model.info().sites;
        let mut members = chain.interventions().iter();
        if sites.is_empty() && members.any(|member| member.attention_scale(0).is_none()) {
            return Some(format!(
                "{} acts on {}; restart:N works with every model",
                self.name,
                missing(model)
            ));
        }
        let check = sites.iter().try_for_each(|site| chain.check(site));
        let check = check.map_err(|error| error.to_string());
        check.and_then(|()| self.try_out(model)).err()
    }

    /// Reads one token under the treatment: what a site does not tell, the gates do.
    fn try_out(&self, model: &Model) -> Result<(), String> {
        let read = |mut state: ModelState| model.advance(&[0], &mut state);
        self.treatment
            .start(model)
            .and_then(read)
            .map_err(|error| error.to_string())
    }

    /// This, if it can work with the model.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] with the reason and what would work.
    pub fn expect_possible(self, model: &Model) -> Result<Self, ProgramError> {
        match self.refusal(model) {
            Some(reason) => Err(refused(&self.name, reason)),
            None => Ok(self),
        }
    }
}

/// What there is none of in a model without a site to act on.
fn missing(model: &Model) -> &'static str {
    fn carries(state: &MixerState) -> bool {
        match state {
            MixerState::Recurrent(state) => !(state.systems.is_empty() && state.carried.is_empty()),
            MixerState::Several(parts) => parts.iter().any(carries),
            MixerState::Attention(_) | MixerState::Stateless => false,
        }
    }
    let state = model.start(&Chain::default(), 1);
    let state_spaces = state.is_ok_and(|state| state.layers.iter().any(|layer| carries(&layer.mixer)));
    match state_spaces {
        true => {
            "the keys and gates of recurrent states, and the linear state spaces of this model have none: they forget at rates that \
             no token changes"
        }
        false => "recurrent states and this model has none",
    }
}

/// Text form of the baseline, the model that never leaves its training length: `reset:T`, or `restart:T` where there is more to forget than
/// recurrent states.
pub fn baseline(model: &Model, train_length: u64) -> String {
    match has_attention(model) || model.info().sites.is_empty() {
        true => format!("restart:{train_length}"),
        false => format!("reset:{train_length}"),
    }
}

/// Whether a model has recurrences to act on and attention layers too.
pub fn is_hybrid(model: &Model) -> bool {
    !model.info().sites.is_empty() && has_attention(model)
}

/// What a restart of the attention layers every `period` tokens is called.
pub fn attention_restart(period: u64) -> String {
    format!("restart-attention:{period}")
}

/// Whether some layer keeps keys and values.
pub fn has_attention(model: &Model) -> bool {
    let state = model.start(&Chain::default(), 1);
    state.is_ok_and(|state| {
        let mut layers = state.layers.iter();
        layers.any(|layer| layer.mixer.attends() || layer.channel.attends())
    })
}

/// Whether a model remembers by keys and values alone, so that it forgets nothing. Short convolutions beside them reach a few tokens back
/// and are no memory.
pub fn is_attention_alone(model: &Model) -> bool {
    let state = model.start(&Chain::default(), 1);
    let recurs = |state: &MixerState| match state {
        MixerState::Recurrent(state) => {
            !(state.recurrences.is_empty() && state.systems.is_empty() && state.carried.is_empty())
        }
        _ => false,
    };
    let alone = state.is_ok_and(|state| {
        let mut layers = state.layers.iter();
        !layers.any(|layer| recurs(&layer.mixer) || recurs(&layer.channel))
    });
    alone && has_attention(model)
}

/// A mitigation asked for that cannot be had.
pub fn refused(spec: &str, reason: impl std::fmt::Display) -> ProgramError {
    ProgramError::usage(
        format!("--mitigation {spec}"),
        "a mitigation that works with this model",
        reason.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_models::LoadOptions;
    use spillway_models::checkpoint::WriteDtype;
    use spillway_models::init::{preset, write_random};
    use spillway_models::registry::layouts;

    fn parse(spec: &str) -> Result<Trial, ProgramError> {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        Trial::parse(spec, &model)
    }

    #[test]
    fn a_restart_cuts_where_its_period_ends() {
        let trial = parse("restart:64").expect("parsed");
        assert_eq!(trial.name(), "restart:64");
        assert_eq!(trial.treatment().segment(0, 100), 64);
        assert_eq!(trial.treatment().segment(60, 100), 4);
        assert_eq!(trial.treatment().segment(64, 10), 10);
        assert_eq!(
            [0, 1, 64, 100, 128].map(|p| trial.treatment().starts_again_at(p)),
            [false, false, true, false, true]
        );
        let plain = parse("none").expect("parsed");
        assert_eq!(
            (
                plain.treatment().segment(63, 100),
                plain.treatment().starts_again_at(64)
            ),
            (100, false)
        );
    }

    #[test]
    fn what_cannot_be_read_is_a_usage_error() {
        for bad in [
            "restart:0",
            "restart:",
            "restart:-1",
            "restart-attention:0",
            "restart-attention",
            "nonsense",
            "window:0",
        ] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn a_model_of_recurrences_alone_is_reset_and_not_restarted() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        assert_eq!(baseline(&model, 64), "reset:64");
        let trial = parse("window:64").expect("parsed");
        assert_eq!(trial.refusal(&model), None);
        let trial = parse("restart-attention:64").expect("parsed");
        assert_eq!(trial.name(), "restart-attention:64");
        let reason = trial.refusal(&model).expect("there is no attention");
        assert!(reason.contains("this model has none"), "{reason}");
    }

    #[test]
    fn attention_beside_short_convolutions_is_attention_alone() {
        let folder = tempfile::TempDir::new().expect("a folder");
        for (name, expected) in [
            ("llama", true),
            ("lfm2", true),
            ("mamba2", false),
            ("based", false),
            ("rwkv7", false),
            ("h3", false),
            ("jamba", false),
        ] {
            let layout = layouts()
                .iter()
                .find(|layout| layout.architecture == name && preset(layout, "tiny").is_some());
            let layout = layout.unwrap_or_else(|| panic!("no tiny {name}"));
            let config = preset(layout, "tiny").expect("a tiny size").config;
            let path = folder.path().join(name);
            write_random(&path, layout, config, WriteDtype::F32, 1).expect("written");
            let model = Model::load(&path, &LoadOptions::default()).expect("loads");
            assert_eq!(is_attention_alone(&model), expected, "{name}");
        }
    }
}
