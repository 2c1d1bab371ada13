//! Which exception an error becomes, with the same message.
//!
//! | exception | when |
//! |---|---|
//! | `ValueError` | an argument is impossible: ids, shapes, options, a mitigation that cannot work with the model |
//! | `TypeError` | an argument is of another kind |
//! | `OSError` and what derives from it | the system does not open, read or write a file |
//! | `MemoryError` | the machine has less memory than is needed; nothing has been taken |
//! | `SpillwayError` | everything else: a file that is damaged or another model's, a state that leaves the range of f32 |
//! | `KeyboardInterrupt` | Ctrl-C, or whatever a handler of a signal raises |

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use spillway::error::ProgramError;
use spillway_mitigations::ParseError;
use spillway_models::ModelError;
use spillway_models::budget::BudgetError;
use spillway_models::checkpoint::CheckpointError;
use spillway_models::evaluation::diagnosis::text::TextError;
use spillway_models::message::shown;
use spillway_models::tokenizer::TokenizerError;

create_exception!(
    spillway,
    SpillwayError,
    PyException,
    "What is wrong with a file or a computation: a damaged checkpoint, a state of another model, numbers that are none."
);

/// The system's number for a file that is not there.
const NO_SUCH_FILE: i32 = 2;

/// Why a call gives no result.
#[derive(Debug)]
pub enum Failure {
    /// A model cannot be loaded or run.
    Model(ModelError),
    /// A part of the program stopped.
    Program(ProgramError),
    /// An argument is impossible.
    Value(String),
    /// What Python's own code raised.
    Raised(PyErr),
    /// Somebody asked for a stop.
    Interrupted,
    /// A bug in Spillway.
    Internal(String),
}

impl Failure {
    /// Whether the state that was being moved on stands between two tokens now, or layers of it before and others after one.
    pub fn tears_the_state(&self) -> bool {
        matches!(self, Self::Model(ModelError::Layer(_)) | Self::Internal(_))
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Model(error) => Self::Model(*error),
            ProgramError::Interrupted => Self::Interrupted,
            other => Self::Program(other),
        }
    }
}

impl From<BudgetError> for Failure {
    fn from(error: BudgetError) -> Self {
        Self::Model(error.into())
    }
}

impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Self {
        Self::Model(error.into())
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::Value(error.to_string())
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::Value(error.to_string())
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Model(error) => of_model(&error),
            Failure::Program(error) => of_program(&error),
            Failure::Value(message) => PyValueError::new_err(shown(&message)),
            Failure::Raised(error) => error,
            Failure::Interrupted => PyKeyboardInterrupt::new_err(()),
            Failure::Internal(message) => {
                SpillwayError::new_err(format!("internal error, please report it: {}", shown(&message)))
            }
        }
    }
}

fn of_model(error: &ModelError) -> PyErr {
    let message = shown(&error.to_string());
    match error {
        ModelError::Checkpoint(CheckpointError::Missing { .. }) => {
            PyOSError::new_err((NO_SUCH_FILE, message))
        }
        ModelError::Checkpoint(CheckpointError::Io { source, .. }) => of_system(source, message),
        ModelError::Budget(_) | ModelError::Tokenizer(TokenizerError::Budget(_)) => {
            PyMemoryError::new_err(message)
        }
        ModelError::Tokenizer(TokenizerError::NoToken { .. })
        | ModelError::Incompatible(_)
        | ModelError::SeesLater { .. }
        | ModelError::Id { .. }
        | ModelError::EmptyPrompt
        | ModelError::Count { .. }
        | ModelError::State { .. }
        | ModelError::Batch { .. }
        | ModelError::Option { .. } => PyValueError::new_err(message),
        _ => SpillwayError::new_err(message),
    }
}

fn of_program(error: &ProgramError) -> PyErr {
    let message = shown(&error.to_string());
    match error {
        // Options are arguments here.
        ProgramError::Usage { .. } => PyValueError::new_err(message.trim_start_matches('-').to_string()),
        ProgramError::BadDevice(reason) => PyValueError::new_err(format!("device: {}", shown(reason))),
        ProgramError::File { source, .. } => of_system(source, message),
        _ => SpillwayError::new_err(message),
    }
}

/// With the system's number where there is one, by which Python chooses `FileNotFoundError`, `PermissionError` and so on.
fn of_system(source: &std::io::Error, message: String) -> PyErr {
    match source.raw_os_error() {
        Some(number) => PyOSError::new_err((number, message)),
        None => PyOSError::new_err(message),
    }
}
