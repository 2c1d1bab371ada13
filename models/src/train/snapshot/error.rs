//! Every way in which a snapshot cannot be used.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::output::OutputError;
use crate::parallel::ParallelError;

/// Why a snapshot cannot be written, read or gone on from.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// Other ranks do not give their part of the moments.
    #[error(transparent)]
    Parallel(#[from] ParallelError),
    /// There is no snapshot of the kind asked for.
    #[error("{}: expected {expected}, found {found}", folder.display())]
    None {
        /// The folder of snapshots.
        folder: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// Number of snapshots in the folder.
        found: usize,
    },
    /// The form of a safetensors file is broken.
    #[error("expected a snapshot of a training, found another file or a damaged one: {source}")]
    Unreadable {
        /// What is wrong with it; names the file.
        source: CheckpointError,
    },
    /// A safetensors file of another kind.
    #[error("{}: expected a snapshot of a training, found a file of {found}", path.display())]
    Foreign {
        /// The safetensors file.
        path: PathBuf,
        /// The format that the file names, as a phrase.
        found: String,
    },
    /// A snapshot of another version of the form.
    #[error("{}: expected version {expected} of the file form, found {found}", path.display())]
    Version {
        /// The snapshot's file.
        path: PathBuf,
        /// The version that this program reads.
        expected: &'static str,
        /// The version that the file names; `none` if it names none.
        found: String,
    },
    /// A snapshot that has changed since it was written.
    #[error("{}: expected contents of checksum {expected}, found {found}: the file is damaged or cut off", path.display())]
    Damaged {
        /// The snapshot's file.
        path: PathBuf,
        /// The checksum that it names.
        expected: String,
        /// The checksum of the file's contents as they are.
        found: String,
    },
    /// A snapshot of another training.
    #[error("{}: made with another configuration: line {line}: expected {expected:?}, found {found:?}", path.display())]
    OtherConfiguration {
        /// The snapshot's file.
        path: PathBuf,
        /// The first line that differs, counted from 1.
        line: usize,
        /// That line of the configuration to go on with.
        expected: String,
        /// That line of the configuration in the snapshot.
        found: String,
    },
    /// An entry is not what it should be.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Entry {
        /// The snapshot's file.
        path: PathBuf,
        /// Name of the entry, or a phrase for it: `number of parameters`.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What the snapshot has there instead.
        found: String,
    },
    /// The latest snapshot cannot be used, and there is one before it.
    #[error("{source}; the one before it is {}: ask for the previous snapshot to go on from there", previous.display())]
    Latest {
        /// What is wrong with the latest.
        source: Box<SnapshotError>,
        /// Path of the snapshot before the latest.
        previous: PathBuf,
    },
}

impl SnapshotError {
    pub(super) fn entry(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Self {
        Self::Entry {
            path: path.into(),
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

impl From<OutputError> for SnapshotError {
    fn from(error: OutputError) -> Self {
        CheckpointError::from(error).into()
    }
}
