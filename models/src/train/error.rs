//! Everything that can stop a training.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::data::DataError;
use super::log::LogError;
use super::optimizer::OptimizerError;
use super::snapshot::SnapshotError;
use crate::checkpoint::CheckpointError;
use crate::error::ModelError;
use crate::output::{InUse, LockError, OutputError};
use crate::parallel::ParallelError;
use crate::tasks::TaskError;
use crate::tokenizer::TokenizerError;

/// Why a training cannot begin or go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A file could not be read, written, created or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The configuration is no TOML, or its fields are not those of a training.
    #[error("{}: {place}{reason}", path.display())]
    Syntax {
        /// The configuration's file.
        path: PathBuf,
        /// Line and field, as far as they are known, with a colon after each.
        place: String,
        /// What was expected and found.
        reason: String,
    },
    /// A field of the configuration has a value that cannot be used.
    #[error("{field}: expected {expected}, found {found}")]
    Field {
        /// The field's path: `model.size`.
        field: String,
        /// What would have been accepted.
        expected: String,
        /// What the field has instead.
        found: String,
    },
    /// The run folder exists already.
    #[error("{} exists: expected a new or empty folder, --resume to go on with the training in it, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// Another process trains in the run folder.
    #[error(transparent)]
    Busy(InUse),
    /// There is nothing to resume.
    #[error("{}: expected the folder of a training to resume, with {expected} in it, found none", folder.display())]
    NotARun {
        /// The folder that was to be resumed.
        folder: PathBuf,
        /// The file that is missing.
        expected: &'static str,
    },
    /// A training is to be resumed under another configuration.
    #[error("the training in {} has another configuration: {}", folder.display(), list(differences))]
    Differs {
        /// The run folder that was to be resumed.
        folder: PathBuf,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// The loss is no number any more.
    #[error(
        "step {step}: the loss is {loss}: expected a finite number; a lower learning rate or a longer warm-up may help"
    )]
    NotFinite {
        /// The step, from 0.
        step: u64,
        /// The loss that is not finite.
        loss: f64,
    },
    /// The model cannot be made, loaded, run or written, or states not be carried on.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data cannot be opened or read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The files of a task cannot be read.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The optimiser refuses its configuration or a gradient.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// A snapshot cannot be written or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log cannot be written or read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Ranks cannot go on together.
    #[error(transparent)]
    Parallel(#[from] ParallelError),
}

/// A field in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's path: `optimizer.learning_rate`.
    pub field: String,
    /// Value of the field in the run folder, as JSON; `none` if it is absent.
    pub saved: String,
    /// Value of the field in the configuration to resume with, as JSON; `none` if it is absent.
    pub asked: String,
}

fn list(differences: &[Difference]) -> String {
    let each = differences.iter().map(|difference| {
        let Difference { field, saved, asked } = difference;
        format!("{field}: expected {saved}, found {asked}")
    });
    each.collect::<Vec<_>>().join("; ")
}

impl TrainError {
    /// For `map_err`: `io_call.map_err(TrainError::file("read", &path))`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    /// A field whose value cannot be used.
    pub fn field(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Field {
            field: field.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// What is wrong with the data that `table` of the configuration names.
    pub(super) fn data(table: &str, error: DataError) -> Self {
        match error {
            DataError::Option {
                option,
                expected,
                found,
            } => Self::field(format!("{table}.{option}"), expected, found),
            other => Self::Data(other),
        }
    }

    /// This, for a configuration in `path`: the file is named where the error names only a field.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Field {
                field,
                expected,
                found,
            } => Self::Field {
                field: format!("{}: {field}", path.display()),
                expected,
                found,
            },
            other => other,
        }
    }

    /// Whether the command line is at fault, not a file: a run folder that exists or has another configuration.
    pub fn asks_the_impossible(&self) -> bool {
        matches!(
            self,
            Self::Exists(_) | Self::NotARun { .. } | Self::Differs { .. }
        )
    }
}

impl From<CheckpointError> for TrainError {
    fn from(error: CheckpointError) -> Self {
        Self::Model(error.into())
    }
}

impl From<OutputError> for TrainError {
    fn from(error: OutputError) -> Self {
        Self::Model(error.into())
    }
}

impl From<LockError> for TrainError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::InUse(in_use) => Self::Busy(in_use),
            LockError::Io { path, source } => Self::file("lock", &path)(source),
        }
    }
}

impl From<TokenizerError> for TrainError {
    fn from(error: TokenizerError) -> Self {
        Self::Model(error.into())
    }
}
