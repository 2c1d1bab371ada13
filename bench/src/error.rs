//! The one error type of the program, and the exit code that follows from it.

use spillway_models::ModelError;
use spillway_models::checkpoint::CheckpointError;
use spillway_models::evaluation::diagnosis::text::TextError;
use spillway_models::evaluation::recall::data::DataError;
use spillway_models::output::OutputError;
use spillway_models::parallel::{AsParallel, ParallelError};
use spillway_models::tokenizer::TokenizerError;
use spillway_models::train::TrainError;
use spillway_models::train::log::LogError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a subcommand stopped.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The command line asks for something impossible. Exit code 2.
    #[error("{option}: expected {expected}, found {found}")]
    Usage {
        /// The option or argument, as typed: `--lengths`.
        option: String,
        /// What would have been accepted.
        expected: String,
        /// What was given instead.
        found: String,
    },
    /// The output folder is there already and holds something. Exit code 2.
    #[error("--out: {} exists and is not empty; name a new or empty folder, or give --force to replace this command's own files in it", .0.display())]
    FolderExists(PathBuf),
    /// Another process works in the output folder.
    #[error(transparent)]
    InUse(#[from] spillway_models::output::InUse),
    /// Stopped before there was anything to keep.
    #[error("interrupted before anything was measured; nothing is kept")]
    Interrupted,
    /// The list given to `--ids` is not one of this model's ids. Exit code 2.
    #[error("--ids: {0}")]
    BadIds(String),
    /// The device given to `--device` is not there. Exit code 2.
    #[error("--device: {0}")]
    BadDevice(String),
    /// An environment variable asks for something impossible. Exit code 2.
    #[error("{0}")]
    BadVariable(String),
    /// A model cannot be loaded, run or written.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A training cannot begin or go on.
    #[error(transparent)]
    Training(Box<TrainError>),
    /// Ranks cannot go on together.
    #[error(transparent)]
    Parallel(#[from] ParallelError),
    /// A file could not be read, written, created or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why the system refused the action.
        source: io::Error,
    },
    /// Standard output does not take what is printed.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
    /// A file's content is not what it should be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Content {
        /// The file whose content is wrong.
        path: PathBuf,
        /// What would have been accepted.
        expected: String,
        /// What was found in the file.
        found: String,
    },
    /// A part of the program stopped for a reason it has already put into one line.
    #[error("{0}")]
    Failed(String),
    /// A bug in Spillway.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl ProgramError {
    /// The error of an option or argument that was to be `expected` and is `found`.
    pub fn usage(option: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Usage {
            option: option.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A file whose content is not what it should be.
    pub fn content(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_path_buf(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// For `map_err`: `io_call.map_err(ProgramError::file("read", &path))`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    /// 2 when the command line is at fault, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. }
            | Self::FolderExists(_)
            | Self::BadIds(_)
            | Self::BadDevice(_)
            | Self::BadVariable(_) => 2,
            Self::Model(error) if asks_the_impossible(error) => 2,
            Self::Training(error) if error.asks_the_impossible() => 2,
            _ => 1,
        }
    }

    /// This; where it says that there is no tokenizer, with how token ids can be given instead.
    #[must_use]
    pub fn without_tokenizer(self, ids: &str) -> Self {
        match &self {
            Self::Model(error) if matches!(**error, ModelError::Tokenizer(TokenizerError::Absent { .. })) => {
                Self::Failed(format!("{self}: {ids}"))
            }
            _ => self,
        }
    }

    /// This; where it says only what is wrong with a text, after the option that names the text.
    #[must_use]
    pub fn with_option(self, option: &str) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(format!("{option}: {message}")),
            other => other,
        }
    }

    /// This; where it says that a folder is taken, with what the option `named` could be, and `--force`.
    #[must_use]
    pub fn with_force_for(self, named: &str) -> Self {
        match &self {
            Self::Model(error) => match &**error {
                ModelError::Checkpoint(CheckpointError::Exists { path }) => {
                    let expected =
                        "a new or empty folder, or --force to replace files of the same names in it";
                    Self::usage(named, expected, format!("{}, which exists", path.display()))
                }
                _ => self,
            },
            _ => self,
        }
    }

    /// Whether another rank has failed, and said so to all.
    pub fn is_of_another_rank(&self) -> bool {
        let parallel = match self {
            Self::Parallel(error) => Some(error),
            Self::Model(error) => error.as_parallel(),
            Self::Training(error) => error.as_parallel(),
            _ => None,
        };
        matches!(parallel, Some(ParallelError::Failed { .. }))
    }

    /// Whether the reader of standard output went away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<ModelError> for ProgramError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

impl From<TrainError> for ProgramError {
    fn from(error: TrainError) -> Self {
        Self::Training(Box::new(error))
    }
}

impl From<TextError> for ProgramError {
    fn from(error: TextError) -> Self {
        Self::Content {
            path: error.name.into(),
            expected: error.expected,
            found: error.found.to_string(),
        }
    }
}

impl From<DataError> for ProgramError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::File { path, source } => Self::File {
                action: "read",
                path,
                source,
            },
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<LogError> for ProgramError {
    fn from(error: LogError) -> Self {
        Self::from(TrainError::from(error))
    }
}

impl From<OutputError> for ProgramError {
    fn from(error: OutputError) -> Self {
        Self::from(CheckpointError::from(error))
    }
}

impl From<CheckpointError> for ProgramError {
    fn from(error: CheckpointError) -> Self {
        Self::from(ModelError::from(error))
    }
}

impl From<TokenizerError> for ProgramError {
    fn from(error: TokenizerError) -> Self {
        Self::from(ModelError::from(error))
    }
}

/// Whether the command line is at fault, not a file: a sampling option out of range, a mitigation that cannot work with the
/// model, an output folder that exists or is the one that is read.
fn asks_the_impossible(error: &ModelError) -> bool {
    matches!(
        error,
        ModelError::Option { .. }
            | ModelError::Incompatible(_)
            | ModelError::NoAttention { .. }
            | ModelError::EmptyPrompt
            | ModelError::Checkpoint(CheckpointError::Exists { .. } | CheckpointError::OntoItself { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_option_is_exit_code_two_and_names_expected_and_found() {
        let error = ProgramError::usage("--depths", "at least 1", "0");
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "--depths: expected at least 1, found 0");
    }

    #[test]
    fn a_file_error_names_the_file_and_is_exit_code_one() {
        let error = ProgramError::file("write", Path::new("a/report.json"))(io::Error::from_raw_os_error(28));
        assert_eq!(error.exit_code(), 1);
        assert!(
            error
                .to_string()
                .starts_with("cannot write a/report.json: No space left"),
            "{error}"
        );
    }
}
