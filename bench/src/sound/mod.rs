//! What a model of sound generates, as a WAV file and as a picture.

pub mod spectrogram;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output;
use spillway_models::audio::wav::{self, Clip};
use spillway_models::audio::{AudioError, AudioFormat, NOTE};
use std::path::{Path, PathBuf};

/// A file to be written, and what tokens are codes of.
#[derive(Debug)]
pub struct Sound {
    path: PathBuf,
    format: AudioFormat,
}

impl Sound {
    /// The sound of a checkpoint, a folder or a file in one, to be written to `path`.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a model whose tokens are no codes of samples, [`ProgramError::Failed`] for a note that says nothing.
    pub fn of(checkpoint: Option<&Path>, path: &Path) -> Result<Self, ProgramError> {
        let folder = match checkpoint {
            Some(folder) if folder.is_dir() => Some(folder),
            Some(file) => file.parent(),
            None => None,
        };
        let format = match folder {
            Some(folder) => AudioFormat::of(folder).map_err(failed)?,
            None => None,
        };
        match format {
            Some(format) => Ok(Self {
                path: path.to_path_buf(),
                format,
            }),
            None => Err(ProgramError::usage(
                "--wav",
                format!("a model that was trained on sound, whose folder holds {NOTE}"),
                match folder {
                    Some(folder) => folder.display().to_string(),
                    None => "the model that comes with Spillway".into(),
                },
            )),
        }
    }

    /// Writes a sample for each of `codes`, and says so; and the picture of them to `spectrogram`.
    ///
    /// # Errors
    /// [`ProgramError::Failed`] and [`ProgramError::File`] where a file cannot be written.
    pub fn write(
        &self,
        codes: &[u32],
        spectrogram: Option<&Path>,
        context: &Context,
    ) -> Result<(), ProgramError> {
        let clip = Clip {
            sample_rate: self.format.sample_rate,
            samples: codes.iter().map(|code| self.format.codec.decode(*code)).collect(),
        };
        wav::write(&self.path, &clip).map_err(failed)?;
        if let Some(path) = spectrogram {
            let picture = spectrogram::figure(&clip, "Generated sound").file();
            output::write_file(path, |file| file.write_all(picture.as_bytes()))?;
        }
        context.remark(format_args!(
            "{}: {:.2} s at {} samples a second",
            self.path.display(),
            codes.len() as f64 / f64::from(self.format.sample_rate),
            self.format.sample_rate,
        ));
        Ok(())
    }
}

fn failed(error: AudioError) -> ProgramError {
    ProgramError::Failed(error.to_string())
}
