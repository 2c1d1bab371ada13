//! What a trained model answers, under each mitigation, and how fast it is.

use super::config::{FrontierConfig, Question, SpeedConfig};
use crate::answers::with_numbers;
use crate::error::ProgramError;
use crate::output::write_json;
use crate::speed::child::{decode, prefill};
use crate::studies::trainings::Job;
use crate::trial::NONE;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spillway_mitigations::Mitigation;
use spillway_models::evaluation::answers::{Answered, answers};
use spillway_models::train::Batch;
use spillway_models::train::run::CHECKPOINT;
use spillway_models::{LoadOptions, Model, ModelError, input};
use spillway_ssm_core::{Chain, Prefix};
use std::path::Path;

/// Files of a training's folder.
const ANSWERS: &str = "answers.json";
const SPEED: &str = "speed.json";
/// Sequences that mitigations are calibrated on at most.
const CALIBRATED: usize = 16;

/// `answers.json`: what one trained model answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// What decides them, beside the weights, as JSON: a text, which reading and writing leave as it is.
    settings: String,
    /// Number of the model's weights.
    pub parameters: u64,
    /// Answers of the model alone first, then under each mitigation.
    pub under: Vec<Under>,
    /// Right answers to other sequences of what is asked first, by which a learning rate is chosen; absent where there is no choice.
    pub choice: Option<Answered>,
}

/// What a model answers under one mitigation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Under {
    /// The mitigation's text form.
    pub mitigation: String,
    /// Why it cannot work with the model.
    pub refused: Option<String>,
    /// Bytes of the state of one sequence after the longest that is asked.
    pub state_bytes: u64,
    /// Counts of right answers to each question, in the order of the configuration; empty where the mitigation is refused.
    pub answered: Vec<Answered>,
}

/// `speed.json`: how fast one trained model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    settings: String,
    /// Tokens of a prompt per second.
    pub prefill: Option<f64>,
    /// Decoded tokens per second.
    pub decode: Option<f64>,
}

/// Everything that models are asked, read once.
#[derive(Debug)]
pub struct Asking<'a> {
    config: &'a FrontierConfig,
    asked: Vec<Batch>,
    /// Other sequences of the first question, for choosing a learning rate and for calibrating mitigations.
    other: Batch,
    settings: String,
}

impl<'a> Asking<'a> {
    /// Reads what is asked.
    ///
    /// # Errors
    /// As [`Question::batch`]; [`ProgramError::Content`] for what is no mitigation.
    pub fn new(config: &'a FrontierConfig, path: &Path) -> Result<Self, ProgramError> {
        for spec in &config.mitigations {
            if let Err(error) = spec.parse::<Mitigation>() {
                let expected = "mitigations by their text forms, such as window:64";
                return Err(ProgramError::content(path, expected, format!("{spec}: {error}")));
            }
        }
        let batches = config.asked.iter().map(|asked| asked.batch(path, false));
        let asked = batches.collect::<Result<_, _>>()?;
        let first = config.asked.first().map(|first| first.batch(path, true));
        let none = || ProgramError::content(path, "at least one of [[asked]]", "none");
        Ok(Self {
            config,
            asked,
            other: first.ok_or_else(none)??,
            settings: json!({
                "program": env!("CARGO_PKG_VERSION"),
                "asked": config.asked,
                "mitigations": config.mitigations,
                "learning_rates": config.learning_rates.len(),
            })
            .to_string(),
        })
    }

    /// What the training in `folder` answers, if it was asked the same.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a file that is not as it was written.
    pub fn read(&self, folder: &Path) -> Result<Option<Answers>, ProgramError> {
        let found: Option<Answers> = read(&folder.join(ANSWERS))?;
        Ok(found.filter(|found| found.settings == self.settings))
    }

    /// Asks the model that a training has left in `folder`, and keeps the answers there.
    ///
    /// # Errors
    /// The model's, and those of writing.
    pub fn ask(&self, job: &Job, folder: &Path) -> Result<(), ProgramError> {
        let model = load(folder)?;
        let prefix = job.config.encoder.map_or(0, |encoder| encoder.length);
        let mut under = Vec::new();
        for spec in std::iter::once(NONE).chain(self.config.mitigations.iter().map(String::as_str)) {
            under.push(self.under(spec, &model, prefix)?);
        }
        let choice = match self.config.learning_rates.len() {
            0 | 1 => None,
            _ => {
                let prefix = self.config.asked.first().map(|asked| of(asked, prefix));
                let prefix = prefix.unwrap_or(0);
                Some(answers(&model, &Chain::default(), &self.other, prefix)?)
            }
        };
        let answers = Answers {
            settings: self.settings.clone(),
            parameters: model.info().parameters,
            under,
            choice,
        };
        write_json(&folder.join(ANSWERS), &answers)
    }

    fn under(&self, spec: &str, model: &Model, prefix: usize) -> Result<Under, ProgramError> {
        let trial = with_numbers(spec, model, || {
            let sequences = self.other.ids.chunks(self.other.time.max(1));
            Ok(sequences.take(CALIBRATED).map(<[u32]>::to_vec).collect())
        })?;
        let mut under = Under {
            mitigation: spec.into(),
            refused: trial.refusal(model),
            state_bytes: 0,
            answered: Vec::new(),
        };
        if under.refused.is_some() {
            return Ok(under);
        }
        let chain = trial.treatment().chain();
        under.state_bytes = self.state_bytes(model, chain, prefix)?;
        for (asked, batch) in self.config.asked.iter().zip(&self.asked) {
            under
                .answered
                .push(answers(model, chain, batch, of(asked, prefix))?);
        }
        Ok(under)
    }

    /// Bytes of one sequence's state after the longest that is asked.
    fn state_bytes(&self, model: &Model, chain: &Chain, prefix: usize) -> Result<u64, ModelError> {
        let pairs = self.config.asked.iter().zip(&self.asked);
        let Some((asked, batch)) = pairs.max_by_key(|(asked, _)| asked.length) else {
            return Ok(0);
        };
        let mut state = model.start(chain, 1)?;
        if model.encoder_length() > 0 {
            state.read_both_ways(Prefix::new(of(asked, prefix).min(batch.time)));
        }
        model.advance(&batch.ids[..batch.time], &mut state)?;
        Ok(state.bytes() as u64)
    }
}

/// Tokens of a sequence that are read both ways: as many as the question says, else as in training.
fn of(asked: &Question, trained: usize) -> usize {
    asked.prefix.unwrap_or(trained)
}

/// How fast the model in `folder` is with all threads; measured once, and kept there.
///
/// # Errors
/// The model's, and those of files.
pub fn speed(folder: &Path, config: SpeedConfig, threads: usize) -> Result<Speed, ProgramError> {
    if let Some(speed) = measured_speed(folder, config, threads)? {
        return Ok(speed);
    }
    let model = load(folder)?;
    let prefill = match config.prefill {
        0 => None,
        tokens => Some(prefill(&model, tokens, config.repeats)?.tokens_per_second()),
    };
    let decode = match config.decode {
        0 => None,
        tokens => Some(decode(&model, tokens, config.repeats)?.tokens_per_second()),
    };
    let speed = Speed {
        settings: settings(config, threads),
        prefill,
        decode,
    };
    write_json(&folder.join(SPEED), &speed)?;
    Ok(speed)
}

/// What was measured with these settings, if something was.
///
/// # Errors
/// [`ProgramError::Content`] for a file that is not as it was written.
pub fn measured_speed(
    folder: &Path,
    config: SpeedConfig,
    threads: usize,
) -> Result<Option<Speed>, ProgramError> {
    let found: Option<Speed> = read(&folder.join(SPEED))?;
    Ok(found.filter(|found| found.settings == settings(config, threads)))
}

fn settings(config: SpeedConfig, threads: usize) -> String {
    json!({ "speed": config, "threads": threads }).to_string()
}

fn load(folder: &Path) -> Result<Model, ModelError> {
    Model::load(&folder.join(CHECKPOINT), &LoadOptions::default())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ProgramError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = input::read_text(path, input::MAX_SETTINGS).map_err(ProgramError::file("read", path))?;
    let found = serde_json::from_str(&text);
    found
        .map(Some)
        .map_err(|error| ProgramError::content(path, "what a frontier has kept there", error.to_string()))
}
