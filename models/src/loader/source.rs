//! What weights are taken from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use spillway_kernel_dsl::linear::WeightType;

use crate::checkpoint::{self, Checkpoint, CheckpointError, Rows};

/// What weights are taken from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// The tensors of a checkpoint.
    Checkpoint(&'a Checkpoint),
    /// Tensors that are in memory.
    Values(ValuesInMemory<'a>),
    /// Nothing: zeros. Which optional tensors there are is asked of the checkpoint, if there is one.
    Blank(Option<&'a Checkpoint>),
    /// Tensors that gradients may be asked for.
    Leaves(Leaves<'a>),
}

/// Flat tensors by name, without autodiff, to be packed as a checkpoint's are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValuesInMemory<'a> {
    /// What the tensors belong to: in messages, the folder that would hold them.
    pub(crate) of: &'a str,
    pub(crate) tensors: &'a BTreeMap<&'a str, &'a Tensor<1>>,
}

/// The values of one tensor.
pub(super) enum StoredValues<'a> {
    Checkpoint(checkpoint::Tensor<'a>),
    Memory {
        path: PathBuf,
        name: String,
        values: Vec<f32>,
    },
    /// So many rows of zeros of this length.
    Zeros {
        rows: usize,
        length: usize,
    },
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
            Self::Values(_) | Self::Leaves(_) => None,
        }
    }

    /// The values of a tensor, whose shape is compared here and whose values are not read yet.
    ///
    /// # Errors
    /// [`CheckpointError::TensorMissing`] and [`CheckpointError::Shape`].
    pub(super) fn stored<'s>(
        &self,
        name: &'s str,
        shape: &[usize],
    ) -> Result<StoredValues<'s>, CheckpointError>
    where
        'a: 's,
    {
        let zeros = StoredValues::Zeros {
            rows: shape.first().copied().unwrap_or(1),
            length: shape.get(1..).unwrap_or(&[]).iter().product(),
        };
        match self {
            Self::Checkpoint(checkpoint) => Ok(StoredValues::Checkpoint(checkpoint.tensor(name, shape)?)),
            Self::Blank(Some(checkpoint)) => checkpoint.tensor(name, shape).map(|_| zeros),
            Self::Values(memory) => memory.stored(name, shape),
            Self::Blank(None) | Self::Leaves(_) => Ok(zeros),
        }
    }

    /// The whole number that a checkpoint holds as a tensor without dimensions; 0 where it does not.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a tensor that is no such number.
    pub(super) fn whole_number(&self, name: &str) -> Result<usize, CheckpointError> {
        let Some((checkpoint, stored)) = self
            .checkpoint()
            .and_then(|checkpoint| Some((checkpoint, checkpoint.stored(name)?)))
        else {
            return Ok(0);
        };
        let number = match (stored.dtype_name, stored.shape, <[u8; 8]>::try_from(stored.bytes)) {
            ("I64", [] | [1], Ok(bytes)) => usize::try_from(i64::from_le_bytes(bytes)).ok(),
            _ => None,
        };
        number.ok_or_else(|| CheckpointError::Field {
            path: checkpoint.weights_path().to_path_buf(),
            field: name.to_string(),
            expected: "one number of type I64, 0 or more".into(),
            found: format!("{} {:?}", stored.dtype_name, stored.shape),
        })
    }

    /// Whether there is a tensor of this name; a blank source has none that it was not asked for.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Leaves(leaves) => leaves.tensors.contains_key(name),
            Self::Values(memory) => memory.tensors.contains_key(name),
            _ => self.checkpoint().is_some_and(|checkpoint| checkpoint.has(name)),
        }
    }
}

impl ValuesInMemory<'_> {
    fn stored<'s>(&self, name: &str, shape: &[usize]) -> Result<StoredValues<'s>, CheckpointError> {
        let path = Path::new(self.of).join("model.safetensors");
        let flat = in_shape(path.clone(), self.tensors.get(name).copied(), name, shape)?;
        Ok(StoredValues::Memory {
            path,
            name: name.into(),
            values: flat.to_data().iter::<f32>().collect(),
        })
    }
}

impl StoredValues<'_> {
    /// The type that a matrix of these values is kept in where none is asked for.
    pub(super) fn own_type(&self) -> WeightType {
        match self {
            Self::Checkpoint(tensor) => tensor.own_type(),
            Self::Memory { .. } | Self::Zeros { .. } => WeightType::F32,
        }
    }

    /// As [`StoredValues::for_each_block`], with blocks in place of f32 for a matrix of `kept` that takes them.
    ///
    /// # Errors
    /// As [`StoredValues::for_each_block`].
    pub(super) fn for_each_rows<E: From<CheckpointError>>(
        &self,
        kept: WeightType,
        mut take: impl FnMut(Rows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Checkpoint(tensor) => tensor.for_each_rows(kept, take),
            _ => self.for_each_block(|rows| take(Rows::Floats(rows))),
        }
    }

    /// Calls `take` with consecutive blocks of whole rows.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`] for a NaN or infinite value, and whatever `take` returns.
    pub(super) fn for_each_block<E: From<CheckpointError>>(
        &self,
        mut take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Checkpoint(tensor) => tensor.for_each_block(take),
            Self::Memory { path, name, values } => match values.iter().position(|value| !value.is_finite()) {
                None => take(values),
                Some(index) => Err(CheckpointError::NonFinite {
                    path: path.clone(),
                    tensor: name.clone(),
                    index,
                    value: values[index],
                }
                .into()),
            },
            Self::Zeros { rows, length } => {
                let row = vec![0.0; *length];
                (0..*rows).try_for_each(|_| take(&row))
            }
        }
    }
}

/// The tensor of this name, if it is there and has as many values as the shape.
fn in_shape<'t>(
    path: PathBuf,
    flat: Option<&'t Tensor<1>>,
    name: &str,
    shape: &[usize],
) -> Result<&'t Tensor<1>, CheckpointError> {
    let (tensor, expected) = (name.to_string(), shape.to_vec());
    match flat {
        None => Err(CheckpointError::TensorMissing {
            path,
            tensor,
            expected,
        }),
        Some(flat) if flat.dims()[0] != shape.iter().product::<usize>() => Err(CheckpointError::Shape {
            path,
            tensor,
            expected,
            found: flat.dims().to_vec(),
        }),
        Some(flat) => Ok(flat),
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
        let flat = in_shape(PathBuf::from("parameters"), self.tensors.get(name), name, &shape)?;
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
