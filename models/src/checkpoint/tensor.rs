//! One tensor of a checkpoint, read as f32 in blocks of rows.

use std::path::Path;

use half::{bf16, f16};

use super::bytes::Bytes;
use super::error::CheckpointError;
use super::header::{Dtype, TensorInfo};

/// Values converted at a time: 1 MiB as f32, small beside any matrix, large beside the cost of a system call.
const BLOCK_VALUES: usize = 1 << 18;

/// A tensor whose shape has been checked and whose values have not been touched yet.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(super) path: &'a Path,
    pub(super) name: &'a str,
    pub(super) info: &'a TensorInfo,
    pub(super) bytes: &'a Bytes,
}

impl Tensor<'_> {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The stored shape.
    pub fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The name of the stored type, as the file has it.
    pub fn dtype(&self) -> &str {
        &self.info.dtype_name
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.info.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `take` with consecutive blocks of whole rows, converted to f32, and gives each block's pages back to the system.
    ///
    /// A row is the values of all dimensions but the first. Memory in use is one block, whatever the tensor's size.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`] for a NaN or infinite value, and whatever `take` returns.
    pub fn for_each_block<E: From<CheckpointError>>(
        &self,
        mut take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.is_empty() {
            return Ok(());
        }
        // Behind the check, as the other dimensions of an empty tensor may be any.
        let row: usize = self.info.shape.get(1..).unwrap_or(&[]).iter().product();
        let block = (BLOCK_VALUES / row).max(1) * row;
        let width = self.info.dtype.bits() as usize / 8;
        let raw = &self.bytes.all()[self.info.begin..self.info.end];
        let mut values = Vec::with_capacity(block.min(self.len()));
        for (index, part) in raw.chunks(block * width).enumerate() {
            self.convert(part, &mut values)?;
            if let Some(offset) = values.iter().position(|v| !v.is_finite()) {
                return Err(CheckpointError::NonFinite {
                    path: self.path.to_path_buf(),
                    tensor: self.name.to_string(),
                    index: index * block + offset,
                    value: values[offset],
                }
                .into());
            }
            let begin = self.info.begin + index * block * width;
            self.bytes.release(begin, begin + part.len());
            take(&values)?;
        }
        Ok(())
    }

    /// All values.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`] for a NaN or infinite value.
    pub fn to_vec(&self) -> Result<Vec<f32>, CheckpointError> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each_block(|block| {
            all.extend_from_slice(block);
            Ok::<_, CheckpointError>(())
        })?;
        Ok(all)
    }

    /// Whether another tensor holds the same bytes in the same form.
    pub fn same_bytes(&self, other: &Tensor<'_>) -> bool {
        if self.info.dtype != other.info.dtype || self.info.shape != other.info.shape {
            return false;
        }
        let (a, b) = (self.info, other.info);
        let step = BLOCK_VALUES * 4;
        (0..a.end - a.begin).step_by(step).all(|at| {
            let length = step.min(a.end - a.begin - at);
            let (x, y) = (a.begin + at, b.begin + at);
            let equal = self.bytes.all()[x..x + length] == other.bytes.all()[y..y + length];
            self.bytes.release(x, x + length);
            other.bytes.release(y, y + length);
            equal
        })
    }

    /// Little-endian bytes to f32.
    fn convert(&self, raw: &[u8], values: &mut Vec<f32>) -> Result<(), CheckpointError> {
        values.clear();
        match self.info.dtype {
            Dtype::F32 => values.extend(raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => values.extend(
                raw.as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32()),
            ),
            Dtype::Bf16 => values.extend(
                raw.as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32()),
            ),
            // What is beyond the range of a single becomes infinite, and is refused as such.
            Dtype::F64 => values.extend(
                raw.as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| f64::from_le_bytes(*b) as f32),
            ),
            Dtype::Other(_) => {
                return Err(CheckpointError::Dtype {
                    path: self.path.to_path_buf(),
                    tensor: self.name.to_string(),
                    found: self.info.dtype_name.clone(),
                });
            }
        }
        Ok(())
    }
}
