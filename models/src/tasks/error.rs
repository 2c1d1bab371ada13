//! Every way in which a task can be wrong.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there are no examples.
#[derive(Debug, Error)]
pub enum TaskError {
    /// An option is out of range, or does not go with another one.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What the option was given instead.
        found: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file or folder does not hold what it should.
    #[error("{}: {place}expected {expected}, found {found}", path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// Where in it, with a colon after it; empty for the whole.
        place: String,
        /// What would have been accepted.
        expected: String,
        /// What was found there instead.
        found: String,
    },
}

impl TaskError {
    /// [`TaskError::Option`] for a value that an option cannot have.
    pub(crate) fn option(option: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Option {
            option,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// For `map_err`: the system's answer with the file.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { path, source }
    }

    /// A file that holds something else.
    pub(crate) fn content(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Content {
            path: path.to_path_buf(),
            place: place.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
