//! Sound as tokens: samples of a WAV file, a code for each, and back.
//!
//! | module | what is in it |
//! |---|---|
//! | [`codec`] | µ-law and linear codes of samples |
//! | [`wav`] | files of samples |
//! | [`resample`] | samples at another rate |
//! | [`ngram`] | what counting codes foretells: the baseline of a model of sound |
//!
//! A model whose tokens are codes has a file [`NOTE`] beside its weights, which is an [`AudioFormat`]: without it nobody could make sound of
//! what it says.

pub mod codec;
pub mod error;
pub mod ngram;
pub mod resample;
pub mod wav;

use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::input;
use crate::output::{NewFile, OutputError};
pub use codec::{Codec, Law, Level};
pub use error::AudioError;

/// Name of the file beside a model's weights.
pub const NOTE: &str = "audio.json";

/// How samples became tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AudioFormat {
    /// How a sample becomes a code, and a code a sample.
    pub codec: Codec,
    /// Samples in a second.
    pub sample_rate: u32,
}

impl AudioFormat {
    /// The format that is noted beside the weights in `folder`; `None` for a model of something else.
    ///
    /// # Errors
    /// [`AudioError::Io`] and [`AudioError::Note`] for a note that cannot be read.
    pub fn of(folder: &Path) -> Result<Option<Self>, AudioError> {
        let path = folder.join(NOTE);
        let text = match input::read_text(&path, input::MAX_SETTINGS) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(AudioError::io(&path, "reading"))?,
        };
        let note = |reason: String| AudioError::Note {
            path: path.clone(),
            reason,
        };
        let format: Self = serde_json::from_str(&text).map_err(|error| note(error.to_string()))?;
        format.codec.check().map_err(|error| note(error.to_string()))?;
        match format.sample_rate {
            0 => Err(note("sample_rate: expected at least 1, found 0".into())),
            _ => Ok(Some(format)),
        }
    }

    /// Writes the note beside the weights in `folder`.
    ///
    /// # Errors
    /// [`AudioError::Write`].
    pub fn write(&self, folder: &Path) -> Result<(), AudioError> {
        let path = folder.join(NOTE);
        let mut file = NewFile::create(&path)?;
        serde_json::to_writer_pretty(file.writer(), self)
            .map_err(std::io::Error::from)
            .and_then(|()| file.writer().write_all(b"\n"))
            .map_err(OutputError::io(&path, "writing"))?;
        Ok(file.commit()?)
    }
}
