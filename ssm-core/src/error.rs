//! Everything that can be wrong with gates, states and layers.

use crate::intervention::Incompatible;
use crate::weights::WeightError;
use spillway_kernel_dsl::sequences::SequencesError;
use thiserror::Error;

/// Why a layer, a recurrence or an intervention cannot go on.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Error {
    /// A tensor's shape does not fit the others'.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor, in the field's words.
        what: &'static str,
        /// The shape that the other tensors ask for.
        expected: Vec<usize>,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// Query/key groups must divide the heads.
    #[error("{heads} heads cannot share {groups} query/key groups evenly")]
    Groups {
        /// Number of heads.
        heads: usize,
        /// Number of query/key groups.
        groups: usize,
    },
    /// A number is outside what the operation is defined for.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// The quantity.
        what: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// Two stretches of gates differ in kind.
    #[error("cannot join gates of decay kind {first} with gates of decay kind {second}")]
    DecayKind {
        /// Kind of the earlier stretch.
        first: &'static str,
        /// Kind of the later stretch.
        second: &'static str,
    },
    /// Paddings or offsets of sequences do not fit the tokens.
    #[error(transparent)]
    Sequences(#[from] SequencesError),
    /// A tensor lives elsewhere than the others, or where operators cannot run.
    #[error("{what}: expected {expected}, found {found}")]
    Device {
        /// The tensor, in the field's words.
        what: &'static str,
        /// Where it should be.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// A tensor has an element type that operators do not take, or not beside the others'.
    #[error("{what}: expected elements of type {expected}, found {found}")]
    DType {
        /// The tensor, in the field's words.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        found: String,
    },
    /// A device cannot run an operator: it lacks a capability, or something is too large for it.
    #[error("{operation}: {reason}")]
    Kernel {
        /// The operator.
        operation: &'static str,
        /// What is missing or too large.
        reason: String,
    },
    /// There is no kernel of this operation for a device.
    #[error("{operation} does not run on {device}: {instead}")]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// The device.
        device: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// An intervention cannot work at this layer.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// A tensor of a map of weights is wrong.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A saved state does not fit.
    #[error("saved state: {what}: expected {expected}, found {found}")]
    Saved {
        /// The entry.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
