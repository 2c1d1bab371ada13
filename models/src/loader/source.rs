//! What weights are taken from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{DType, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError};

/// What weights are taken from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// A checkpoint's tensors.
    Checkpoint(&'a Checkpoint),
    /// Nothing: zeros. Which optional tensors there are is asked of the checkpoint, if there is one.
    Blank(Option<&'a Checkpoint>),
    /// Tensors that gradients may be asked for.
    Leaves(Leaves<'a>),
}

/// Flat tensors by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves<'a> {
    pub(crate) tensors: &'a BTreeMap<&'a str, Tensor<1>>,
    /// The type that matrices are used in.
    pub(crate) matrices: DType,
}

impl<'a> Source<'a> {
    /// The checkpoint that names are looked up in.
    pub(super) fn checkpoint(&self) -> Option<&'a Checkpoint> {
        match self {
            Self::Checkpoint(checkpoint) => Some(checkpoint),
            Self::Blank(checkpoint) => *checkpoint,
            Self::Leaves(_) => None,
        }
    }

    /// Whether there is a tensor of this name; a blank source has none that it was not asked for.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Leaves(leaves) => leaves.tensors.contains_key(name),
            _ => self.checkpoint().is_some_and(|checkpoint| checkpoint.has(name)),
        }
    }
}

impl Leaves<'_> {
    /// A tensor in its shape.
    ///
    /// # Errors
    /// [`CheckpointError::TensorMissing`] and [`CheckpointError::Shape`], when the configuration is not the one that the
    /// tensors were made for.
    pub(super) fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, CheckpointError> {
        let path = || PathBuf::from("parameters");
        let Some(flat) = self.tensors.get(name) else {
            return Err(CheckpointError::TensorMissing {
                path: path(),
                tensor: name.into(),
                expected: shape.to_vec(),
            });
        };
        if flat.dims()[0] != shape.iter().product::<usize>() {
            return Err(CheckpointError::Shape {
                path: path(),
                tensor: name.into(),
                expected: shape.to_vec(),
                found: flat.dims().to_vec(),
            });
        }
        Ok(flat.clone().reshape(shape))
    }

    /// The rows of several tensors as one matrix, in the type of matrices.
    ///
    /// # Errors
    /// As [`Leaves::tensor`].
    pub(super) fn matrix(&self, parts: &[(String, [usize; 2])]) -> Result<Tensor<2>, CheckpointError> {
        let tensors = parts.iter().map(|(name, shape)| self.tensor(name, *shape));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let matrix = match (tensors.pop(), tensors.is_empty()) {
            (Some(only), true) => only,
            (last, _) => Tensor::cat(tensors.into_iter().chain(last).collect(), 0),
        };
        Ok(self.rounded(matrix))
    }

    /// A matrix in the type of matrices.
    pub(super) fn rounded(&self, matrix: Tensor<2>) -> Tensor<2> {
        matrix.cast(self.matrices)
    }
}
