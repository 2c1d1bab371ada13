//! What decides the numbers of a long run, so that an interrupted one goes on under nothing else.

use crate::error::ProgramError;
use crate::ranks::Identity;
use crate::trial::Trial;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::diagnosis::text::{Stream, Text};
use spillway_models::{Info, Model};

/// Everything that decides the numbers of a long run, which goes on only under the same settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the program.
    pub program: String,
    /// Name, architecture and number of parameters of the model.
    pub model: String,
    /// Name of the text.
    pub text: String,
    /// Fingerprint of the text.
    pub fingerprint: u64,
    /// Type of the weights in memory.
    pub dtype: String,
    /// Where the model runs.
    pub device: String,
    /// Length of the long streams.
    pub length: u64,
    /// Training length T of the model, in tokens.
    pub train_length: u64,
    /// Every stream that is read: where in the text it begins, and its length.
    pub streams: Vec<Stream>,
    /// Text forms of the runs' mitigations, in order.
    pub mitigations: Vec<String>,
}

/// How much of the text a run reads.
#[derive(Clone, Copy, Debug)]
pub struct Lengths<'a> {
    /// Training length T of the model, in tokens.
    pub train_length: u64,
    /// Length of the long streams.
    pub length: u64,
    /// Every stream that is read: where in the text it begins, and its length.
    pub streams: &'a [Stream],
}

impl Settings {
    /// The settings of this model on `device`, with this text and these trials.
    pub fn new(model: &Model, device: String, text: &Text, lengths: Lengths<'_>, trials: &[Trial]) -> Self {
        let info = model.info();
        Self {
            program: env!("CARGO_PKG_VERSION").into(),
            model: name(info),
            text: text.name().into(),
            fingerprint: text.fingerprint(),
            dtype: info.kept_as.clone(),
            device,
            length: lengths.length,
            train_length: lengths.train_length,
            streams: lengths.streams.to_vec(),
            mitigations: trials.iter().map(Trial::identity).collect(),
        }
    }

    /// Holds `self`, the settings of the saved run, against those `asked` for: the first difference is an error.
    ///
    /// # Errors
    /// [`ProgramError::Usage`].
    pub fn expect(&self, asked: &Self) -> Result<(), ProgramError> {
        expect_same(self.parts(), asked.parts())
    }

    /// Everything, part by part under the option that says it.
    fn parts(&self) -> Vec<Part> {
        vec![
            ("program version", self.program.clone()),
            ("CHECKPOINT", self.model.clone()),
            ("--text", self.text.clone()),
            ("content of the text", self.fingerprint.to_string()),
            ("--dtype", self.dtype.clone()),
            ("--device", self.device.clone()),
            ("--length", self.length.to_string()),
            ("--train-length", self.train_length.to_string()),
            ("--mitigation", self.mitigations.join(" ")),
            ("--streams or --seed", format!("{:?}", self.streams)),
        ]
    }

    /// What the ranks of the subcommand `command` must have in common.
    pub fn identity(&self, command: &str, model: &Model) -> Identity {
        Identity::of_parts(command, self.parts().into_iter().chain([content_of(model)]))
    }
}

/// A setting: the option that says it, and its value as text.
pub type Part = (&'static str, String);

/// What tells a model from others of the same name and size.
pub fn content_of(model: &Model) -> Part {
    ("content of CHECKPOINT", model.fingerprint().to_string())
}

/// Name, architecture and number of parameters of a model.
pub fn name(info: &Info) -> String {
    format!(
        "{} ({}, {} parameters)",
        info.name, info.architecture, info.parameters
    )
}

/// Holds what was saved against what is asked for, part by part: the first difference is an error.
///
/// # Errors
/// [`ProgramError::Usage`].
pub fn expect_same(saved: Vec<Part>, asked: Vec<Part>) -> Result<(), ProgramError> {
    let mut both = saved.into_iter().zip(asked);
    match both.find(|(saved, asked)| saved != asked) {
        None => Ok(()),
        Some(((name, saved), (_, asked))) => Err(ProgramError::usage(
            format!("--resume: {name}"),
            format!("{saved} as in the interrupted run"),
            asked,
        )),
    }
}
