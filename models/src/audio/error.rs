//! What can be wrong with sound.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::budget::BudgetError;
use crate::output::OutputError;

/// Why sound cannot be read, written or made into tokens.
#[derive(Debug, Error)]
pub enum AudioError {
    /// A file cannot be read.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// Path of the file that cannot be read.
        path: PathBuf,
        /// What was being done with the file: "opening", "reading".
        action: &'static str,
        /// Error that the operating system reported.
        source: io::Error,
    },
    /// A file is no WAV file, one of a kind that is not read, or damaged.
    #[error("{}: expected a WAV file of 8, 16, 24 or 32 bits a sample: {reason}", path.display())]
    Wav {
        /// Path of the file that is refused as a WAV file.
        path: PathBuf,
        /// Why the file is refused, in words.
        reason: String,
    },
    /// A file ends before its samples do.
    #[error("{}: the file is cut off: expected {expected} samples, found {found}", path.display())]
    CutOff {
        /// Path of the WAV file that is cut off.
        path: PathBuf,
        /// Samples that its header has, of all channels.
        expected: u64,
        /// Samples that are there.
        found: u64,
    },
    /// A file without a sample.
    #[error("{}: expected at least one sample, found none", path.display())]
    NoSamples {
        /// Path of the WAV file that has no sample.
        path: PathBuf,
    },
    /// Several channels where one is wanted.
    #[error("{}: expected one channel, found {found} (channels = \"mean\" takes their mean)", path.display())]
    Channels {
        /// Path of the WAV file with several channels.
        path: PathBuf,
        /// Number of channels in the file.
        found: u16,
    },
    /// A sampling rate other than the one that is wanted.
    #[error("{}: expected {expected} samples a second, found {found} (resample = true brings them to that)", path.display())]
    Rate {
        /// Path of the WAV file with another sampling rate.
        path: PathBuf,
        /// The rate that is wanted.
        expected: u32,
        /// Sampling rate of the file, in samples a second.
        found: u32,
    },
    /// A sample that is no number.
    #[error("{}: sample {index}: expected a finite number, found {value}", path.display())]
    NonFinite {
        /// Path of the WAV file that holds the sample.
        path: PathBuf,
        /// Index of the sample in the file, from 0.
        index: u64,
        /// Value of the sample: NaN or infinite.
        value: f32,
    },
    /// The note beside a model's weights is none.
    #[error("{}: expected how samples become tokens: {reason}", path.display())]
    Note {
        /// Path of the note beside the weights.
        path: PathBuf,
        /// What is wrong with the note, in words.
        reason: String,
    },
    /// A codec that there is not, or a rate.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option that is out of range.
        option: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// Value that was given for the option.
        found: String,
    },
    /// There is not as much memory.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] OutputError),
}

impl AudioError {
    /// For `map_err`: the system's answer with the file and what was tried.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}
