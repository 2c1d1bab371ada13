//! One tensor of a checkpoint, read as f32 in blocks of rows.

use std::path::Path;

use half::{bf16, f16};

use super::bytes::Bytes;
use super::error::CheckpointError;
use super::header::{Change, Dtype, TensorInfo};

/// Values converted at a time: 1 MiB as f32, small beside any matrix, large beside the cost of a system call.
pub(super) const BLOCK_VALUES: usize = 1 << 18;

/// A tensor whose shape has been checked and whose values have not been touched yet.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(super) path: &'a Path,
    pub(super) name: &'a str,
    pub(super) info: &'a TensorInfo,
    pub(super) bytes: &'a Bytes,
    /// Whether rows are those of the file, where it has the tensor transposed.
    pub(super) turned: bool,
}

impl Tensor<'_> {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The same matrix transposed, `[columns, rows]`, where it lies so in blocks: nothing has to be moved then.
    pub(crate) fn turned(self) -> Option<Self> {
        let lies_so = self.info.parts.is_empty()
            && self.info.shape.len() == 2
            && self.info.change == Change::Transposed
            && matches!(self.info.dtype, Dtype::Blocks(_));
        lies_so.then_some(Self { turned: true, ..self })
    }

    /// The shape in the layout.
    pub fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The name of the stored type, as the file has it.
    pub fn dtype(&self) -> &str {
        &self.info.dtype_name
    }

    /// Number of values in the tensor.
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
        if self.info.parts.is_empty() {
            return self.for_each_of_one(row, take);
        }
        let (whole_row, wanted) = (row, (BLOCK_VALUES / row).max(1) * row);
        let mut held = Vec::new();
        for info in &self.info.parts {
            let part = Tensor { info, ..*self };
            let row = info.shape.get(1..).unwrap_or(&[]).iter().product();
            part.for_each_of_one(row, |block| -> Result<(), E> {
                held.extend_from_slice(block);
                let whole = held.len() / whole_row * whole_row;
                if whole < wanted {
                    return Ok(());
                }
                take(&held[..whole])?;
                held.drain(..whole);
                Ok(())
            })?;
        }
        match held.is_empty() {
            true => Ok(()),
            false => take(&held),
        }
    }

    /// As [`Self::for_each_block`], for a tensor without parts, whose rows have `row` values each.
    fn for_each_of_one<E: From<CheckpointError>>(
        &self,
        row: usize,
        take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.info.change {
            Change::None | Change::LogOfNegative | Change::MinusOne | Change::Doubled { .. } => {
                self.for_each_stored(row, take)
            }
            Change::Transposed if self.turned => self.for_each_stored(self.row_stored(), take),
            moved => {
                let mut stored = Vec::with_capacity(self.len());
                self.for_each_stored(self.row_stored(), |block| {
                    stored.extend_from_slice(block);
                    Ok::<_, E>(())
                })?;
                let values = moved.apply(&self.info.shape, &stored);
                values
                    .chunks((BLOCK_VALUES / row).max(1) * row)
                    .try_for_each(take)
            }
        }
    }

    /// Values of a row as it is stored.
    pub(super) fn row_stored(&self) -> usize {
        match (self.info.change, self.info.shape.as_slice()) {
            (Change::Transposed, [.., rows, _]) => *rows,
            (_, shape) => shape.last().copied().unwrap_or(1),
        }
    }

    /// Blocks of whole rows in the order in which they are stored.
    fn for_each_stored<E: From<CheckpointError>>(
        &self,
        row: usize,
        mut take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Rows of blocks are whole blocks.
        let block = (BLOCK_VALUES / row).max(1) * row;
        let bytes = self.info.dtype.bytes_of(block).unwrap_or(usize::MAX).max(1);
        let raw = &self.bytes.all()[self.info.begin..self.info.end];
        let mut values = Vec::with_capacity(block.min(self.len()));
        for (index, part) in raw.chunks(bytes).enumerate() {
            self.convert(part, &mut values)?;
            match self.info.change {
                Change::LogOfNegative => values.iter_mut().for_each(|value| *value = (-*value).ln()),
                Change::MinusOne => values.iter_mut().for_each(|value| *value -= 1.0),
                Change::Doubled { times } => {
                    let factor = 2_f32.powi(times);
                    values.iter_mut().for_each(|value| *value *= factor);
                }
                _ => {}
            }
            if let Some(offset) = values.iter().position(|v| !v.is_finite()) {
                return Err(CheckpointError::NonFinite {
                    path: self.path.to_path_buf(),
                    tensor: self.name.to_string(),
                    index: index * block + offset,
                    value: values[offset],
                }
                .into());
            }
            let begin = self.info.begin + index * bytes;
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
        let (a, b) = (self.info, other.info);
        if (a.dtype, &a.shape, a.change) != (b.dtype, &b.shape, b.change) || a.parts.len() != b.parts.len() {
            return false;
        }
        let mut parts = a.parts.iter().zip(&b.parts);
        let part = |(a, b): (&TensorInfo, &TensorInfo)| {
            let (a, b): (Tensor<'_>, Tensor<'_>) =
                (Tensor { info: a, ..*self }, Tensor { info: b, ..*other });
            a.same_bytes(&b)
        };
        if !a.parts.is_empty() {
            return parts.all(part);
        }
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
            Dtype::Blocks(format) => format.read(raw, values),
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

impl Change {
    /// The values of a tensor of `shape`, of those stored.
    fn apply(self, shape: &[usize], stored: &[f32]) -> Vec<f32> {
        let (rows, columns) = match shape {
            [.., rows, columns] => (*rows, *columns),
            _ => return stored.to_vec(),
        };
        let mut values = Vec::with_capacity(stored.len());
        match self {
            Self::Transposed => {
                for matrix in stored.chunks_exact(rows * columns) {
                    for row in 0..rows {
                        values.extend((0..columns).map(|column| matrix[column * rows + row]));
                    }
                }
            }
            Self::Halves { heads } => {
                let pairs = rows / (2 * heads);
                for head in 0..heads {
                    for half in 0..2 {
                        for pair in 0..pairs {
                            let row = (head * pairs + pair) * 2 + half;
                            values.extend_from_slice(&stored[row * columns..][..columns]);
                        }
                    }
                }
            }
            Self::ColumnsByHead { heads, copies, width } => {
                for row in stored.chunks_exact(columns) {
                    for head in 0..heads {
                        for copy in 0..copies {
                            values.extend_from_slice(&row[(copy * heads + head) * width..][..width]);
                        }
                    }
                }
            }
            Self::None | Self::LogOfNegative | Self::MinusOne | Self::Doubled { .. } => {
                values.extend_from_slice(stored)
            }
        }
        values
    }
}
