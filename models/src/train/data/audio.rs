//! WAV files as tokens: a code for every sample, file after file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::corpus::{Corpus, Ids, Split};
use super::error::DataError;
use super::files;
use super::windows::Order;
use crate::audio::ngram::{self, NGram};
use crate::audio::resample::resampled;
use crate::audio::wav::{self, Channels};
use crate::audio::{AudioError, AudioFormat, Codec};
use crate::budget;

/// WAV files and folders, read once and kept in memory with one or two bytes per sample.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AudioConfig {
    /// Files, and folders with every `.wav` below them, sorted by path.
    pub paths: Vec<PathBuf>,
    /// Samples in a second. A file of another rate is refused, unless `resample` is set.
    pub sample_rate: u32,
    /// The codes of samples.
    #[serde(default)]
    pub codec: Codec,
    /// What becomes of several channels.
    #[serde(default)]
    pub channels: Channels,
    /// Whether files of another rate are brought to `sample_rate`.
    #[serde(default)]
    pub resample: bool,
    /// In which order the sound is read.
    #[serde(default)]
    pub order: Order,
    /// Fraction of the samples, at the end, that is held out.
    #[serde(default)]
    pub held_out: f64,
    /// Part of the samples that is read: all but the end that is held out, or that end.
    #[serde(default)]
    pub split: Split,
}

impl AudioConfig {
    /// How samples become tokens.
    pub fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: self.codec,
            sample_rate: self.sample_rate,
        }
    }

    /// How well n-grams of the training part foretell the part that is held out; none where nothing is.
    ///
    /// # Errors
    /// As of a source that is opened.
    pub fn baselines(&self, base: &Path) -> Result<Vec<NGram>, DataError> {
        if self.held_out <= 0.0 {
            return Ok(Vec::new());
        }
        let codes = |split| {
            let part = Self {
                split,
                ..self.clone()
            };
            let corpus = part.corpus(base, 1)?;
            let needed = budget::product([corpus.len(), 4]);
            budget::ask("the codes of the sound", needed, "take less sound")?;
            let mut codes = vec![0; usize::try_from(corpus.len()).unwrap_or(usize::MAX)];
            corpus.read(0, &mut codes)?;
            Ok::<_, DataError>(codes)
        };
        let (training, held_out) = (codes(Split::Training)?, codes(Split::HeldOut)?);
        Ok(ngram::baselines(&training, &held_out, self.codec.vocab_size()))
    }

    /// The part of the sound that is asked for, as codes.
    pub(super) fn corpus(&self, base: &Path, time: usize) -> Result<Corpus, DataError> {
        if self.codec.check().is_err() {
            return Err(DataError::option("codec.bits", "2 to 16", self.codec.bits));
        }
        if self.sample_rate == 0 {
            return Err(DataError::option("sample_rate", "at least 1", 0));
        }
        if self.paths.is_empty() {
            return Err(DataError::option("paths", "at least one file or folder", "none"));
        }
        let paths: Vec<PathBuf> = self.paths.iter().map(|path| base.join(path)).collect();
        let mut ids = Ids::empty(self.codec.vocab_size());
        for path in files::list(&paths, &["wav".into()])? {
            ids.push(&self.codec.encode(&self.samples(&path)?));
        }
        let name = match paths.as_slice() {
            [only] => only.display().to_string(),
            [first, others @ ..] => format!("{} and {} more", first.display(), others.len()),
            [] => String::new(),
        };
        Corpus::new(
            &name,
            ids,
            self.codec.vocab_size(),
            (self.split, self.held_out),
            time,
        )
    }

    /// The samples of a file at the rate that is wanted.
    fn samples(&self, path: &Path) -> Result<Vec<f32>, AudioError> {
        let clip = wav::read(path, self.channels)?;
        if clip.sample_rate == self.sample_rate {
            return Ok(clip.samples);
        }
        if !self.resample {
            return Err(AudioError::Rate {
                path: path.to_path_buf(),
                expected: self.sample_rate,
                found: clip.sample_rate,
            });
        }
        let samples = u128::from(self.sample_rate) * clip.samples.len() as u128;
        let bytes = samples / u128::from(clip.sample_rate) * 4;
        let advice = "take shorter files, or a lower sample_rate";
        budget::ask("the samples at another rate", u64::try_from(bytes).ok(), advice)?;
        Ok(resampled(&clip.samples, clip.sample_rate, self.sample_rate))
    }
}
