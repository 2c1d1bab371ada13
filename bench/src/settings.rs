//! What decides the numbers of a long run, so that an interrupted one goes on under nothing else.

use crate::error::ProgramError;
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
        let parts = |settings: &Self| {
            [
                ("program version", settings.program.clone()),
                ("CHECKPOINT", settings.model.clone()),
                ("--text", settings.text.clone()),
                ("content of the text", settings.fingerprint.to_string()),
                ("--dtype", settings.dtype.clone()),
                ("--device", settings.device.clone()),
                ("--length", settings.length.to_string()),
                ("--train-length", settings.train_length.to_string()),
                ("--mitigation", settings.mitigations.join(" ")),
                ("--streams or --seed", format!("{:?}", settings.streams)),
            ]
        };
        expect_same(parts(self), parts(asked))
    }
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
pub fn expect_same<const N: usize>(
    saved: [(&str, String); N],
    asked: [(&str, String); N],
) -> Result<(), ProgramError> {
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
