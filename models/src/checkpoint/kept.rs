//! Matrices kept as a GGUF file has them: in which type of a packed matrix, and rows of blocks that go into it as they are.
//!
//! | stored as | kept as | error of a weight |
//! |---|---|---|
//! | f32, f16 | f32 | none |
//! | bf16 | bf16 | none |
//! | q4_0 | int4 | none |
//! | q8_0 | q8_0 | none |
//! | q4_K, q5_K, q6_K | q8_0 | at most 0.4 % of the largest magnitude among its 32, about 0.5 % of all weights' norm |
//! | q4_0 and q8_0 whose blocks the layout takes apart | q8_0 | the same |
//! | several of these in one matrix | q8_0 where all are blocks, else f32 | that of each |
//!
//! Layouts put rows in another order, and columns in groups of as many as a head has; where these are whole blocks, blocks move as they are.

use half::f16;
use spillway_kernel_dsl::linear::WeightType;

use super::blocks::BlockFormat;
use super::error::CheckpointError;
use super::header::{Change, Dtype, TensorInfo};
use super::tensor::{BLOCK_VALUES, Tensor};

/// Consecutive whole rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows<'b> {
    /// Rows whose values are f32, one row after another.
    Floats(&'b [f32]),
    /// As blocks of a format, q8_0 or q4_0.
    Blocks(BlockFormat, &'b [u8]),
}

impl Rows<'_> {
    /// The first `count` rows of `columns` values, or all where there are fewer, and the others.
    pub fn split_at(self, count: usize, columns: usize) -> (Self, Self) {
        let values = count.saturating_mul(columns);
        match self {
            Self::Floats(rows) => {
                let (first, others) = rows.split_at(values.min(rows.len()));
                (Self::Floats(first), Self::Floats(others))
            }
            Self::Blocks(format, rows) => {
                let bytes = (values / format.values()).saturating_mul(format.bytes());
                let (first, others) = rows.split_at(bytes.min(rows.len()));
                (Self::Blocks(format, first), Self::Blocks(format, others))
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        match self {
            Self::Floats(rows) => rows.is_empty(),
            Self::Blocks(_, rows) => rows.is_empty(),
        }
    }
}

/// The type that keeps what either of two keeps.
pub(crate) fn wider(a: WeightType, b: WeightType) -> WeightType {
    let in_blocks = |kept| matches!(kept, WeightType::Int4 | WeightType::Q8_0);
    match a == b {
        true => a,
        false if in_blocks(a) && in_blocks(b) => WeightType::Q8_0,
        false => WeightType::F32,
    }
}

impl Tensor<'_> {
    /// The type that this tensor, as a matrix, is kept in where a file's own types are kept.
    pub fn own_type(&self) -> WeightType {
        let types = self.parts().map(|part| match part.info.dtype {
            Dtype::Blocks(BlockFormat::Q4_0) if part.whole_blocks().is_some() => WeightType::Int4,
            Dtype::Blocks(_) => WeightType::Q8_0,
            Dtype::Bf16 => WeightType::Bf16,
            Dtype::F32 | Dtype::F16 | Dtype::F64 | Dtype::Other(_) => WeightType::F32,
        });
        types.reduce(wider).unwrap_or(WeightType::F32)
    }

    /// As [`Tensor::for_each_block`], and for a matrix of `kept` that takes them, with blocks in place of f32.
    ///
    /// # Errors
    /// As [`Tensor::for_each_block`]; the value of a block whose scale is not finite is that.
    pub fn for_each_rows<E: From<CheckpointError>>(
        &self,
        kept: WeightType,
        mut take: impl FnMut(Rows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.parts().any(|part| part.blocks_for(kept).is_some()) {
            return self.for_each_block(|rows| take(Rows::Floats(rows)));
        }
        // Rows of parts are rows of the matrix, since there are blocks that are.
        for part in self.parts() {
            match part.blocks_for(kept) {
                Some(format) => {
                    part.for_each_row_of_blocks(format, |rows| take(Rows::Blocks(format, rows)))?;
                }
                None => part.for_each_block(|rows| take(Rows::Floats(rows)))?,
            }
        }
        Ok(())
    }

    /// Tensors that this one is put together of; itself alone where it is stored as one.
    fn parts(&self) -> impl Iterator<Item = Tensor<'_>> {
        let parts: &[TensorInfo] = match self.info.parts.as_slice() {
            [] => std::slice::from_ref(self.info),
            parts => parts,
        };
        parts.iter().map(|info| Tensor { info, ..*self })
    }

    /// The format of blocks that a matrix of `kept` takes as they are.
    fn blocks_for(&self, kept: WeightType) -> Option<BlockFormat> {
        let takes = |format: &BlockFormat| {
            matches!(
                (kept, format),
                (WeightType::Q8_0, BlockFormat::Q8_0 | BlockFormat::Q4_0)
                    | (WeightType::Int4, BlockFormat::Q4_0)
            )
        };
        self.whole_blocks().filter(takes)
    }

    /// The format of blocks that stay whole in the layout, in whole rows.
    fn whole_blocks(&self) -> Option<BlockFormat> {
        let Dtype::Blocks(format @ (BlockFormat::Q8_0 | BlockFormat::Q4_0)) = self.info.dtype else {
            return None;
        };
        let stay = match self.info.change {
            Change::None | Change::Doubled { .. } | Change::Halves { .. } => true,
            Change::ColumnsByHead { width, .. } => width.is_multiple_of(format.values()),
            Change::Transposed => self.turned,
            Change::LogOfNegative | Change::MinusOne => false,
        };
        (stay && self.info.parts.is_empty() && self.columns().is_multiple_of(format.values()))
            .then_some(format)
    }

    /// Values of a row of the matrix.
    fn columns(&self) -> usize {
        match self.turned {
            true => self.row_stored(),
            false => self.info.shape.last().copied().unwrap_or(1),
        }
    }

    fn for_each_row_of_blocks<E: From<CheckpointError>>(
        &self,
        format: BlockFormat,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let columns = self.columns().max(format.values());
        let row_bytes = columns / format.values() * format.bytes();
        let stored = &self.bytes.all()[self.info.begin..self.info.end];
        let rows = stored.len() / row_bytes;
        let at_once = (BLOCK_VALUES / columns).max(1);
        let mut moved = Vec::new();
        for first in (0..rows).step_by(at_once) {
            let last = rows.min(first + at_once);
            let (begin, end) = (first * row_bytes, last * row_bytes);
            let blocks = match self.info.change {
                Change::None | Change::Transposed => &stored[begin..end],
                change => {
                    moved.clear();
                    let matrix = Blocks {
                        format,
                        rows,
                        row_bytes,
                        stored,
                    };
                    (first..last).for_each(|row| matrix.row(change, row, &mut moved));
                    &moved
                }
            };
            self.expect_finite(format, blocks, first * columns)?;
            take(blocks)?;
            self.bytes.release(self.info.begin + begin, self.info.begin + end);
        }
        Ok(())
    }

    /// Refuses a scale that is not finite; `first` is the place of the first value in the tensor.
    fn expect_finite(&self, format: BlockFormat, blocks: &[u8], first: usize) -> Result<(), CheckpointError> {
        let mut scales = blocks.chunks_exact(format.bytes()).map(scale_of);
        match scales.position(|scale| !scale.is_finite()) {
            None => Ok(()),
            Some(index) => Err(CheckpointError::NonFinite {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                index: first + index * format.values(),
                value: scale_of(&blocks[index * format.bytes()..]).to_f32(),
            }),
        }
    }
}

/// The scale that a block of q8_0 or q4_0 begins with.
fn scale_of(block: &[u8]) -> f16 {
    f16::from_le_bytes([block[0], block[1]])
}

/// A matrix of blocks.
struct Blocks<'b> {
    format: BlockFormat,
    rows: usize,
    row_bytes: usize,
    stored: &'b [u8],
}

impl Blocks<'_> {
    /// Appends row `row` of the layout.
    fn row(&self, change: Change, row: usize, into: &mut Vec<u8>) {
        let stored = |row: usize| &self.stored[row * self.row_bytes..][..self.row_bytes];
        match change {
            Change::Halves { heads } => {
                let pairs = self.rows / (2 * heads);
                let (head, half, pair) = (row / (2 * pairs), row / pairs % 2, row % pairs);
                into.extend_from_slice(stored((head * pairs + pair) * 2 + half));
            }
            Change::ColumnsByHead { heads, copies, width } => {
                let span = width / self.format.values() * self.format.bytes();
                for head in 0..heads {
                    for copy in 0..copies {
                        into.extend_from_slice(&stored(row)[(copy * heads + head) * span..][..span]);
                    }
                }
            }
            Change::Doubled { times } => {
                for block in stored(row).chunks_exact(self.format.bytes()) {
                    // A power of two moves the exponent of a scale alone.
                    let scale = f16::from_f32(scale_of(block).to_f32() * 2_f32.powi(times));
                    into.extend(scale.to_le_bytes());
                    into.extend_from_slice(&block[2..]);
                }
            }
            Change::None | Change::Transposed | Change::LogOfNegative | Change::MinusOne => {
                into.extend_from_slice(stored(row));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::bytes::Bytes;

    const SHAPE: [usize; 2] = [8, 128];

    /// Blocks of any integers and of scales of either sign.
    fn blocks(format: BlockFormat) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..SHAPE[0] * SHAPE[1] / format.values() * format.bytes())
            .map(|i| (i * i * 31 + i * 7 + 3) as u8)
            .collect();
        for (i, block) in bytes.chunks_exact_mut(format.bytes()).enumerate() {
            let scale = f16::from_f32((i as f32 - 11.0) / 128.0);
            block[..2].copy_from_slice(&scale.to_le_bytes());
        }
        bytes
    }

    fn info(format: BlockFormat, change: Change) -> TensorInfo {
        TensorInfo {
            dtype: Dtype::Blocks(format),
            dtype_name: format.name().into(),
            shape: SHAPE.to_vec(),
            begin: 0,
            end: SHAPE[0] * SHAPE[1] / format.values() * format.bytes(),
            change,
            parts: Vec::new(),
        }
    }

    fn over<'a>(info: &'a TensorInfo, bytes: &'a Bytes) -> Tensor<'a> {
        Tensor {
            path: Path::new("a.gguf"),
            name: "a",
            info,
            bytes,
            turned: false,
        }
    }

    /// The values, and whether all of them came in blocks.
    fn rows(tensor: &Tensor<'_>, kept: WeightType) -> (Vec<f32>, bool) {
        let (mut values, mut in_blocks) = (Vec::new(), true);
        let taken = tensor.for_each_rows(kept, |rows| {
            match rows {
                Rows::Floats(rows) => {
                    in_blocks = false;
                    values.extend_from_slice(rows);
                }
                Rows::Blocks(format, blocks) => format.read(blocks, &mut values),
            }
            Ok::<_, CheckpointError>(())
        });
        taken.expect("finite values");
        (values, in_blocks)
    }

    #[test]
    fn blocks_that_stay_whole_move_as_they_are() {
        for (format, kept) in [
            (BlockFormat::Q8_0, WeightType::Q8_0),
            (BlockFormat::Q4_0, WeightType::Int4),
        ] {
            let bytes = Bytes::Owned(blocks(format));
            for change in [
                Change::None,
                Change::Halves { heads: 2 },
                Change::Doubled { times: 3 },
                Change::ColumnsByHead {
                    heads: 2,
                    copies: 2,
                    width: 32,
                },
            ] {
                let info = info(format, change);
                let tensor = over(&info, &bytes);
                assert_eq!(tensor.own_type(), kept, "{change:?}");
                // A matrix of q8_0 takes either.
                for kept in [kept, WeightType::Q8_0] {
                    let (values, in_blocks) = rows(&tensor, kept);
                    assert!(in_blocks, "{change:?}");
                    assert_eq!(values, tensor.to_vec().expect("finite values"), "{change:?}");
                }
                assert!(!rows(&tensor, WeightType::Int8).1);
            }
        }
    }

    #[test]
    fn a_transposed_matrix_is_read_as_it_lies() {
        let bytes = Bytes::Owned(blocks(BlockFormat::Q4_0));
        // As the layout has it: 128 rows of 8.
        let mut transposed = info(BlockFormat::Q4_0, Change::Transposed);
        transposed.shape.reverse();
        let tensor = over(&transposed, &bytes);
        assert_eq!(tensor.own_type(), WeightType::Q8_0);
        let turned = tensor.turned().expect("a matrix of blocks");
        assert_eq!(turned.own_type(), WeightType::Int4);
        let plain = info(BlockFormat::Q4_0, Change::None);
        let plain = over(&plain, &bytes).to_vec().expect("finite values");
        assert_eq!(rows(&turned, WeightType::Int4), (plain.clone(), true));
        assert_eq!(rows(&turned, WeightType::F32), (plain.clone(), false));
        let values = tensor.to_vec().expect("finite values");
        assert_eq!((values[1], values[8]), (plain[128], plain[1]));
    }

    #[test]
    fn blocks_that_are_taken_apart_are_kept_in_eight_bits() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            let bytes = Bytes::Owned(blocks(format));
            let apart = info(
                format,
                Change::ColumnsByHead {
                    heads: 4,
                    copies: 2,
                    width: 16,
                },
            );
            let tensor = over(&apart, &bytes);
            assert_eq!(tensor.own_type(), WeightType::Q8_0);
            let (values, in_blocks) = rows(&tensor, WeightType::Q8_0);
            assert!(!in_blocks);
            assert_eq!(values, tensor.to_vec().expect("finite values"));
        }
    }

    #[test]
    fn parts_of_several_types_are_kept_in_the_type_that_holds_all() {
        let stored = [blocks(BlockFormat::Q4_0), blocks(BlockFormat::Q8_0)].concat();
        let (first, mut second) = (
            info(BlockFormat::Q4_0, Change::Halves { heads: 1 }),
            info(BlockFormat::Q8_0, Change::None),
        );
        (second.begin, second.end) = (first.end, first.end + second.end);
        let mut floats = first.clone();
        floats.dtype = Dtype::F32;
        let bytes = Bytes::Owned(stored);
        let of = |parts: &[&TensorInfo]| TensorInfo {
            shape: vec![parts.len() * SHAPE[0], SHAPE[1]],
            parts: parts.iter().map(|part| (*part).clone()).collect(),
            ..info(BlockFormat::Q4_0, Change::None)
        };
        let both = of(&[&first, &second]);
        let tensor = over(&both, &bytes);
        assert_eq!(tensor.own_type(), WeightType::Q8_0);
        let (values, in_blocks) = rows(&tensor, WeightType::Q8_0);
        assert!(in_blocks);
        assert_eq!(values, tensor.to_vec().expect("finite values"));
        // Of a matrix in four bits one part has its blocks, the other is rounded.
        assert_eq!(rows(&tensor, WeightType::Int4), (values, false));
        let with_floats = of(&[&first, &floats]);
        let tensor = over(&with_floats, &bytes);
        assert_eq!(tensor.own_type(), WeightType::F32);
    }

    #[test]
    fn a_scale_that_is_not_finite_is_named() {
        let mut stored = blocks(BlockFormat::Q8_0);
        stored[5 * 34..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let (bytes, info) = (Bytes::Owned(stored), info(BlockFormat::Q8_0, Change::None));
        let found = over(&info, &bytes).for_each_rows(WeightType::Q8_0, |_| Ok::<_, CheckpointError>(()));
        assert!(
            matches!(&found, Err(CheckpointError::NonFinite { index: 160, .. })),
            "{found:?}"
        );
    }
}
