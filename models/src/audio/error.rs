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
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is no WAV file, one of a kind that is not read, or damaged.
    #[error("{}: expected a WAV file of 8, 16, 24 or 32 bits a sample: {reason}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        reason: String,
    },
    /// A file ends before its samples do.
    #[error("{}: the file is cut off: expected {expected} samples, found {found}", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Samples that its header has, of all channels.
        expected: u64,
        /// Samples that are there.
        found: u64,
    },
    /// A file without a sample.
    #[error("{}: expected at least one sample, found none", path.display())]
    NoSamples {
        /// The file.
        path: PathBuf,
    },
    /// Several channels where one is wanted.
    #[error("{}: expected one channel, found {found} (channels = \"mean\" takes their mean)", path.display())]
    Channels {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: u16,
    },
    /// Another sampling rate than the one that is wanted.
    #[error("{}: expected {expected} samples a second, found {found} (resample = true brings them to that)", path.display())]
    Rate {
        /// The file.
        path: PathBuf,
        /// The rate that is wanted.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// A sample that is no number.
    #[error("{}: sample {index}: expected a finite number, found {value}", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// Its place, from 0.
        index: u64,
        /// What is there.
        value: f32,
    },
    /// The note beside a model's weights is none.
    #[error("{}: expected how samples become tokens: {reason}", path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A codec that there is not, or a rate.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// What came.
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
