//! Every way in which a call on a device can fail.

use thiserror::Error;

use super::buffer::DType;
use crate::shape::{Role, ShapeError};

/// Why an operator cannot run on a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is wrong that the operator's own error says.
    #[error(transparent)]
    Problem(Box<dyn std::error::Error + Send + Sync>),
    /// A buffer or a view has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A buffer holds values of another type.
    #[error("{operator}: {role}{operand} needs values of type {expected}, found {found}")]
    Type {
        /// Name of the operator that was called.
        operator: &'static str,
        /// Name of the operand that has the wrong type.
        operand: &'static str,
        /// Whether it is the operand itself or its cotangent.
        role: Role,
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
        /// What the device does not have, as a phrase: an element type, or 64-bit addresses.
        capability: &'static str,
        /// What needs the capability, as a phrase.
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
