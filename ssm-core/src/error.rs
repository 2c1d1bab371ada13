//! Everything that can be wrong with gates, states and layers.

use spillway_kernel_dsl::linear::LinearError;
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
        /// Number of heads that should share the groups.
        heads: usize,
        /// Number of query/key groups.
        groups: usize,
    },
    /// A number is outside what the operation is defined for.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// The quantity, in the field's words.
        what: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// The value that was found, as text.
        found: String,
    },
    /// Two segments of gates differ in kind.
    #[error("cannot join gates of decay kind {first} with gates of decay kind {second}")]
    DecayKind {
        /// Kind of the earlier segment.
        first: &'static str,
        /// Kind of the later segment.
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
        /// The device that it should be on, or the devices that operators run on.
        expected: String,
        /// The device that it is on.
        found: String,
    },
    /// A tensor has an element type that operators do not take, or not beside the others'.
    #[error("{what}: expected elements of type {expected}, found {found}")]
    DType {
        /// The tensor, in the field's words.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// The element type that it has.
        found: String,
    },
    /// A device cannot run an operator: it lacks a capability, or something is too large for it.
    #[error("{operation}: {reason}")]
    Kernel {
        /// Name of the operator, or what was being done.
        operation: &'static str,
        /// What is missing or too large.
        reason: String,
    },
    /// There is no kernel of this operation for a device.
    #[error("{operation} does not run on {device}: {instead}")]
    Unsupported {
        /// Name of the operation that was asked for.
        operation: &'static str,
        /// The device that it does not run on.
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
        /// Name of the entry of the saved state.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What the saved state has there.
        found: String,
    },
}

/// Why an intervention cannot work with a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{intervention} cannot work at layer {layer}: {reason}")]
pub struct Incompatible {
    /// The intervention's text form.
    pub intervention: String,
    /// Index of the layer.
    pub layer: usize,
    /// The cause, and what would work.
    pub reason: String,
}

/// What can be wrong with a tensor of a [`WeightMap`](crate::WeightMap).
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WeightError {
    /// There is no tensor of this name.
    #[error("tensor {name} is missing: expected shape {expected:?}")]
    Missing {
        /// Name of the tensor that is missing.
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("tensor {name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
        /// The shape that it has.
        found: Vec<usize>,
    },
    /// A tensor is there that nothing has asked for.
    #[error("tensor {name} was not expected: nothing reads it")]
    Unread {
        /// Name of the tensor that nothing reads.
        name: String,
    },
    /// A matrix cannot be packed.
    #[error("tensor {name}: {cause}")]
    Packing {
        /// Name of the tensor, or those of all that the matrix is stacked from.
        name: String,
        /// Why the matrix cannot be packed.
        cause: LinearError,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
