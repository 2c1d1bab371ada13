//! Why a file or folder cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::lock::{InUse, LockError};

/// Why a file or folder cannot be written.
#[derive(Debug, Error)]
pub enum OutputError {
    /// Another process writes into the folder.
    #[error(transparent)]
    InUse(#[from] InUse),
    /// The operating system refused.
    #[error("{}: {action} failed: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Error that the operating system reported.
        source: io::Error,
    },
    /// The place to write to is taken.
    #[error("{}: exists already; expected a new or empty folder", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
}

impl OutputError {
    /// Wraps a system error, with the file and what was being done to it.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}

impl From<LockError> for OutputError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::InUse(in_use) => Self::InUse(in_use),
            LockError::Io { path, source } => Self::io(&path, "locking")(source),
        }
    }
}
