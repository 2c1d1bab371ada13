//! Blocks of ggml's formats, taken into a packed matrix as they are.
//!
//! | format | a block of 32 weights | value | matrix |
//! |---|---|---|---|
//! | q8_0 | f16 d, then 32 bytes q | d q | q8_0 |
//! | q4_0 | f16 d, then 16 bytes, in byte i the lower half q_i, the upper q_{i+16} | d (q − 8) | int4, or q8_0 |
//!
//! Nothing is rounded, and no weight becomes a float. Source: <https://github.com/ggml-org/ggml>.

use half::f16;

use super::builder::{Builder, write_bytes};
use super::int4;
use super::weight_type::{BLOCK, BLOCK_BYTES, HALF_BYTES, PANEL};
use super::{LinearError, WeightType};

/// Bytes of a scale.
const SCALE: usize = 2;
/// Bytes of a block of q8_0.
const Q8_0: usize = SCALE + BLOCK;
/// Bytes of a block of q4_0.
const Q4_0: usize = SCALE + BLOCK / 2;

impl Builder {
    /// Appends rows that are blocks of q8_0, to a matrix of q8_0.
    ///
    /// # Shapes
    /// `blocks` `[count, in_features / 32, 34]`.
    ///
    /// # Errors
    /// [`LinearError::BlockFormat`] for another matrix, [`LinearError::PartialBlocks`], [`LinearError::RowCount`] when there are too
    /// many, [`LinearError::NonFinite`] with the scale in the place of the weight. After an error the matrix cannot be finished unless
    /// the rows are pushed again.
    pub fn push_q8_0(&mut self, blocks: &[u8]) -> Result<(), LinearError> {
        match self.matrix().weight_type() {
            WeightType::Q8_0 => self.push_blocks(blocks, BLOCK_BYTES, |block: &[u8; Q8_0], col, bytes| {
                let mut integers = [0; BLOCK];
                // Plus 128.
                let signed = integers.iter_mut().zip(&block[SCALE..]);
                signed.for_each(|(into, &q)| *into = q ^ 0x80);
                write_bytes(&integers, col, bytes);
            }),
            weight_type => Err(LinearError::BlockFormat {
                weight_type,
                format: "q8_0",
                expected: "q8_0",
            }),
        }
    }

    /// Appends rows that are blocks of q4_0, to a matrix of int4 or of q8_0.
    ///
    /// # Shapes
    /// `blocks` `[count, in_features / 32, 18]`.
    ///
    /// # Errors
    /// As [`Builder::push_q8_0`].
    pub fn push_q4_0(&mut self, blocks: &[u8]) -> Result<(), LinearError> {
        match self.matrix().weight_type() {
            WeightType::Int4 => self.push_blocks(blocks, HALF_BYTES, |block: &[u8; Q4_0], col, bytes| {
                int4::write(&integers_of(block), col, bytes);
            }),
            WeightType::Q8_0 => self.push_blocks(blocks, BLOCK_BYTES, |block: &[u8; Q4_0], col, bytes| {
                write_bytes(&integers_of(block).map(|q| q + (128 - 8)), col, bytes);
            }),
            weight_type => Err(LinearError::BlockFormat {
                weight_type,
                format: "q4_0",
                expected: "int4 or q8_0",
            }),
        }
    }

    /// Gives each block to `write`, with its column and the integers of its unit, of which there are so many bytes; its scale follows them.
    fn push_blocks<const BYTES: usize>(
        &mut self,
        blocks: &[u8],
        integer_bytes: usize,
        write: impl Fn(&[u8; BYTES], usize, &mut [u8]) + Sync,
    ) -> Result<(), LinearError> {
        let in_features = self.matrix().in_features();
        let unit_bytes = self.matrix().weight_type().unit_bytes();
        let a_row = in_features / BLOCK;
        let (blocks, rest) = blocks.as_chunks::<BYTES>();
        if !(rest.is_empty() && in_features.is_multiple_of(BLOCK) && blocks.len().is_multiple_of(a_row)) {
            return Err(LinearError::PartialBlocks {
                in_features,
                block_bytes: BYTES,
                found: blocks.len() * BYTES + rest.len(),
            });
        }
        self.fill(blocks.len() / a_row, |taken, first_row, panel| {
            let rows = blocks[taken.start * a_row..taken.end * a_row].chunks_exact(a_row);
            for (row, blocks) in (first_row..).zip(rows) {
                let units = panel.chunks_exact_mut(unit_bytes);
                for (index, (unit, block)) in units.zip(blocks).enumerate() {
                    let scale = f16::from_le_bytes([block[0], block[1]]);
                    if !scale.is_finite() {
                        return Err(LinearError::NonFinite {
                            row,
                            col: index * BLOCK,
                            value: scale.to_f32(),
                        });
                    }
                    let (integers, scales) = unit.split_at_mut(integer_bytes);
                    bytemuck::cast_slice_mut::<u8, f16>(scales)[row % PANEL] = scale;
                    write(block, row % PANEL, integers);
                }
            }
            Ok(())
        })
    }
}

/// The integers of a block of q4_0, `q + 8`, in order.
fn integers_of(block: &[u8; Q4_0]) -> [u8; BLOCK] {
    let mut integers = [0; BLOCK];
    let (low, high) = integers.split_at_mut(BLOCK / 2);
    for ((low, high), &both) in low.iter_mut().zip(high).zip(&block[SCALE..]) {
        (*low, *high) = (both & 15, both >> 4);
    }
    integers
}
