//! The packed layout of a weight matrix, and how rows are read from it; [`builder`](super::builder) writes them.
//!
//! A panel holds [`PANEL`] output features for all input features. Along the input it is a sequence of units:
//!
//! | type | unit | bytes of a unit |
//! |---|---|---|
//! | f32 | 1 feature | `[PANEL]` f32 |
//! | bf16 | 2 features | `[PANEL][2]` bf16, so that a 32-bit lane holds two neighbouring features of one output |
//! | int8 | 32 features | `[8][PANEL][4]` bytes `q + 128`, then `[PANEL]` bf16 scales |
//! | q8_0 | 32 features | `[8][PANEL][4]` bytes `q + 128`, then `[PANEL]` f16 scales |
//! | int4 | 32 features | `[4][PANEL][4]` bytes of two `q + 8`, then `[PANEL]` f16 scales; see [`int4`](super::int4) |
//!
//! Missing features and outputs at the ends are zeros. Weights of 8 bits are stored with an offset of 128 because the byte dot
//! products of x86 take one unsigned operand; `128 · Σ x` is known when the input is quantised and taken off there. So are int4
//! weights, with an offset of 8.

use half::{bf16, f16};

use super::problem::OPERATOR;
use super::weight_type::{BLOCK_BYTES, HALF_BYTES, PANEL};
use super::{LinearError, WeightType, int4};
use crate::aligned::AlignedBytes;

/// An immutable weight matrix `[out_features, in_features]` in the layout that [`linear`](super::linear) reads.
#[derive(Debug)]
pub struct PackedMatrix {
    pub(super) out_features: usize,
    pub(super) in_features: usize,
    pub(super) weight_type: WeightType,
    pub(super) storage: AlignedBytes,
}

impl PackedMatrix {
    /// Rows of the matrix.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns of the matrix.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How the weights are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Bytes of storage, padding included.
    pub fn bytes(&self) -> usize {
        self.storage.len()
    }

    /// Writes weight row `out_index`, widened to f32, into `into`: a token's embedding when the embedding is tied.
    ///
    /// # Shapes
    /// `into` `[in_features]`.
    ///
    /// # Errors
    /// [`LinearError::RowIndex`], or [`LinearError::Shape`] for a buffer of another length.
    pub fn row(&self, out_index: usize, into: &mut [f32]) -> Result<(), LinearError> {
        if out_index >= self.out_features {
            return Err(LinearError::RowIndex {
                out_features: self.out_features,
                found: out_index,
            });
        }
        OPERATOR.values("row", self.in_features, into.len())?;
        let col = out_index % PANEL;
        let units = self
            .panel(out_index / PANEL)
            .chunks_exact(self.weight_type.unit_bytes());
        for (unit, into) in units.zip(into.chunks_mut(self.weight_type.unit())) {
            match self.weight_type {
                WeightType::F32 => into[0] = bytemuck::cast_slice::<u8, f32>(unit)[col],
                WeightType::Bf16 => {
                    let pairs: &[bf16] = bytemuck::cast_slice(unit);
                    into.iter_mut()
                        .zip(&pairs[2 * col..])
                        .for_each(|(into, w)| *into = w.to_f32());
                }
                WeightType::Int8 | WeightType::Q8_0 => {
                    let (integers, scales) = unit.split_at(BLOCK_BYTES);
                    let scale = match self.weight_type {
                        WeightType::Q8_0 => bytemuck::cast_slice::<u8, f16>(scales)[col].to_f32(),
                        _ => bytemuck::cast_slice::<u8, bf16>(scales)[col].to_f32(),
                    };
                    for (k, into) in into.iter_mut().enumerate() {
                        *into = (f32::from(integers[int8_index(k, col)]) - 128.0) * scale;
                    }
                }
                WeightType::Int4 => {
                    let (integers, scales) = unit.split_at(HALF_BYTES);
                    let scale = bytemuck::cast_slice::<u8, f16>(scales)[col].to_f32();
                    for (k, into) in into.iter_mut().enumerate() {
                        *into = int4::read(k, col, integers) * scale;
                    }
                }
            }
        }
        Ok(())
    }

    /// Units along the input.
    pub(super) fn units(&self) -> usize {
        self.in_features.div_ceil(self.weight_type.unit())
    }

    /// Number of panels, ⌈out_features / [`PANEL`]⌉.
    pub(super) fn panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.units() * self.weight_type.unit_bytes()
    }

    /// The units of a panel, one after another, beginning on a cache line.
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        &self.storage[index * self.panel_bytes()..][..self.panel_bytes()]
    }
}

/// Where feature `k` of a block and output `col` of a panel lie in a unit of 8 bits.
pub(super) const fn int8_index(k: usize, col: usize) -> usize {
    (k / 4) * 4 * PANEL + 4 * col + k % 4
}
