//! Every way in which a call on a device can fail.

use thiserror::Error;

use super::buffer::DType;

/// Why an operator cannot run on a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape is wrong; the operator's own error says which.
    #[error(transparent)]
    Problem(Box<dyn std::error::Error + Send + Sync>),
    /// A buffer has the wrong number of values.
    #[error("{argument} needs {expected} values, found {found}")]
    Length {
        /// Which argument.
        argument: &'static str,
        /// Values that it needs.
        expected: usize,
        /// Values that it has.
        found: usize,
    },
    /// A view has the wrong number of rows.
    #[error("{argument} needs {expected} rows, found {found}")]
    RowCount {
        /// Which argument.
        argument: &'static str,
        /// Rows that it needs.
        expected: usize,
        /// Rows that it has.
        found: usize,
    },
    /// A view has the wrong number of columns.
    #[error("{argument} needs {expected} columns, found {found}")]
    ColumnCount {
        /// Which argument.
        argument: &'static str,
        /// Columns that it needs.
        expected: usize,
        /// Columns that it has.
        found: usize,
    },
    /// A buffer holds values of another type.
    #[error("{argument} needs values of type {expected}, found {found}")]
    Type {
        /// Which argument.
        argument: &'static str,
        /// The type that it needs.
        expected: DType,
        /// The type that it has.
        found: DType,
    },
    /// Something exceeds what the device, or an index on it, can hold.
    #[error("{what} is {found}, this device takes at most {limit}; use smaller calls or another device")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// The most that fits.
        limit: u64,
        /// What was asked for.
        found: u64,
    },
    /// The device cannot do something that the call cannot do without.
    #[error("the device has no {capability}, which {needed_for} needs")]
    Capability {
        /// What is missing.
        capability: &'static str,
        /// What needs it.
        needed_for: &'static str,
    },
    /// The runtime reports a failure: out of memory, a refused kernel, a lost device.
    #[error("the device failed: {0}")]
    Device(String),
}

impl Error {
    /// Wraps the error of an operator's own validation.
    pub fn problem(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Problem(Box::new(error))
    }
}

impl From<crate::sequences::SequencesError> for Error {
    fn from(error: crate::sequences::SequencesError) -> Self {
        Self::problem(error)
    }
}
