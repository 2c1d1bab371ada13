//! The packed layout of a weight matrix, and how rows are written into and read from it.
//!
//! A panel holds [`PANEL`] output features for all input features. Along the input it is a sequence of units:
//!
//! | type | unit | bytes of a unit |
//! |---|---|---|
//! | f32 | 1 feature | `[PANEL]` f32 |
//! | bf16 | 2 features | `[PANEL][2]` bf16, so that a 32-bit lane holds two neighbouring features of one output |
//! | int8 | 32 features | `[8][PANEL][4]` bytes `q + 128`, then `[PANEL]` bf16 scales |
//! | int4 | 32 features | `[4][PANEL][4]` bytes of two `q + 8`, then `[PANEL]` f16 scales; see [`int4`](super::int4) |
//!
//! Missing features and outputs at the ends are zeros. int8 weights are stored with an offset of 128 because the byte dot
//! products of x86 take one unsigned operand; `128 · Σ x` is known when the input is quantised and taken off there. So are int4
//! weights, with an offset of 8.

use half::{bf16, f16};
use rayon::prelude::*;

use super::int4::{self, HALF_BYTES};
use super::{LinearError, WeightType};
use crate::aligned::AlignedBytes;

/// Output features in a panel.
pub(super) const PANEL: usize = 32;
/// Input features that share a scale in int8 and int4.
pub(super) const BLOCK: usize = 32;
/// Bytes of the integers in an int8 unit; the scales follow.
pub(super) const BLOCK_BYTES: usize = BLOCK * PANEL;
/// Below this many weights, packing on several threads costs more than it saves.
const PARALLEL_WEIGHTS: usize = 1 << 16;

impl WeightType {
    /// Input features in a unit.
    pub(super) const fn unit(self) -> usize {
        match self {
            WeightType::F32 => 1,
            WeightType::Bf16 => 2,
            WeightType::Int8 | WeightType::Int4 => BLOCK,
        }
    }

    /// Bytes of a unit of a panel.
    pub(super) const fn unit_bytes(self) -> usize {
        match self {
            WeightType::F32 | WeightType::Bf16 => 4 * PANEL,
            WeightType::Int8 => BLOCK_BYTES + 2 * PANEL,
            WeightType::Int4 => HALF_BYTES + 2 * PANEL,
        }
    }
}

/// An immutable weight matrix `[out_features, in_features]` in the layout that [`linear`](super::linear) reads.
#[derive(Debug)]
pub struct PackedMatrix {
    out_features: usize,
    in_features: usize,
    weight_type: WeightType,
    storage: AlignedBytes,
}

impl PackedMatrix {
    /// Packs a whole matrix.
    ///
    /// # Shapes
    /// `weight` `[out_features, in_features]` row-major, as checkpoints store it.
    ///
    /// # Errors
    /// [`LinearError`] when a size is zero or does not match, when an int8 or int4 weight is not finite, or an int4
    /// weight beyond what a scale can hold.
    pub fn pack(
        weight: &[f32],
        out_features: usize,
        in_features: usize,
        weight_type: WeightType,
    ) -> Result<Self, LinearError> {
        let mut builder = Self::builder(out_features, in_features, weight_type)?;
        builder.push_rows(weight)?;
        builder.finish()
    }

    /// A matrix to be filled row by row, so that loading never holds a second copy.
    ///
    /// # Errors
    /// [`LinearError::EmptyMatrix`] or [`LinearError::TooLarge`].
    pub fn builder(
        out_features: usize,
        in_features: usize,
        weight_type: WeightType,
    ) -> Result<Builder, LinearError> {
        if out_features == 0 || in_features == 0 {
            return Err(LinearError::EmptyMatrix {
                out_features,
                in_features,
            });
        }
        let too_large = LinearError::TooLarge {
            out_features,
            in_features,
            weight_type,
        };
        let units = in_features.div_ceil(weight_type.unit());
        let bytes = units
            .checked_mul(weight_type.unit_bytes())
            .and_then(|panel| panel.checked_mul(out_features.div_ceil(PANEL)))
            .ok_or(too_large)?;
        let storage = AlignedBytes::zeroed(bytes).ok_or(too_large)?;
        Ok(Builder {
            matrix: Self {
                out_features,
                in_features,
                weight_type,
                storage,
            },
            rows: 0,
        })
    }

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
    /// [`LinearError::RowIndex`] or [`LinearError::RowLength`].
    pub fn row(&self, out_index: usize, into: &mut [f32]) -> Result<(), LinearError> {
        if out_index >= self.out_features {
            return Err(LinearError::RowIndex {
                out_features: self.out_features,
                found: out_index,
            });
        }
        if into.len() != self.in_features {
            return Err(LinearError::RowLength {
                expected: self.in_features,
                found: into.len(),
            });
        }
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
                WeightType::Int8 => {
                    let (integers, scales) = unit.split_at(BLOCK_BYTES);
                    let scale = bytemuck::cast_slice::<u8, bf16>(scales)[col].to_f32();
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

    /// Number of panels.
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

/// Where feature `k` of a block and output `col` of a panel lie in an int8 unit.
const fn int8_index(k: usize, col: usize) -> usize {
    (k / 4) * 4 * PANEL + 4 * col + k % 4
}

/// A matrix being filled; see [`PackedMatrix::builder`].
#[derive(Debug)]
pub struct Builder {
    matrix: PackedMatrix,
    rows: usize,
}

impl Builder {
    /// Appends any number of weight rows.
    ///
    /// # Shapes
    /// `rows` `[count, in_features]`.
    ///
    /// # Errors
    /// [`LinearError::PartialRow`], [`LinearError::RowCount`] when there are too many, [`LinearError::NonFinite`] or
    /// [`LinearError::TooLargeForScale`]. After an error the matrix cannot be finished unless the rows are pushed again.
    pub fn push_rows(&mut self, rows: &[f32]) -> Result<(), LinearError> {
        self.push(rows, |w| w)
    }

    /// [`Builder::push_rows`] from bf16 weights, without widening them all at once.
    ///
    /// # Errors
    /// As [`Builder::push_rows`].
    pub fn push_rows_bf16(&mut self, rows: &[bf16]) -> Result<(), LinearError> {
        self.push(rows, bf16::to_f32)
    }

    /// [`Builder::push_rows`] from f16 weights, without widening them all at once.
    ///
    /// # Errors
    /// As [`Builder::push_rows`].
    pub fn push_rows_f16(&mut self, rows: &[f16]) -> Result<(), LinearError> {
        self.push(rows, f16::to_f32)
    }

    /// The filled matrix.
    ///
    /// # Errors
    /// [`LinearError::RowCount`] when rows are missing.
    pub fn finish(self) -> Result<PackedMatrix, LinearError> {
        if self.rows != self.matrix.out_features {
            return Err(LinearError::RowCount {
                expected: self.matrix.out_features,
                found: self.rows,
            });
        }
        Ok(self.matrix)
    }

    fn push<T, F>(&mut self, rows: &[T], widen: F) -> Result<(), LinearError>
    where
        T: Copy + Sync,
        F: Fn(T) -> f32 + Copy + Sync,
    {
        let PackedMatrix {
            out_features,
            in_features,
            weight_type,
            ..
        } = self.matrix;
        if !rows.len().is_multiple_of(in_features) {
            return Err(LinearError::PartialRow {
                in_features,
                found: rows.len(),
            });
        }
        let total = self.rows + rows.len() / in_features;
        if total > out_features {
            return Err(LinearError::RowCount {
                expected: out_features,
                found: total,
            });
        }
        let panel_bytes = self.matrix.panel_bytes();
        let first = self.rows;
        let write = |(panel, bytes): (usize, &mut [u8])| {
            let from = first.max(panel * PANEL);
            let to = total.min((panel + 1) * PANEL);
            let source = &rows[(from - first) * in_features..(to - first) * in_features];
            let target = PanelRows {
                bytes,
                first_row: from,
                in_features,
                widen,
            };
            match weight_type {
                WeightType::F32 => target.write_f32(source),
                WeightType::Bf16 => target.write_bf16(source),
                WeightType::Int8 => return target.write_int8(source),
                WeightType::Int4 => return target.write_int4(source),
            }
            Ok(())
        };
        let touched = first / PANEL..total.div_ceil(PANEL);
        let panels = self.matrix.storage.chunks_mut(panel_bytes).enumerate();
        if rows.len() < PARALLEL_WEIGHTS {
            panels
                .skip(touched.start)
                .take(touched.len())
                .try_for_each(write)?;
        } else {
            let storage = &mut self.matrix.storage[touched.start * panel_bytes..touched.end * panel_bytes];
            let panels = storage.par_chunks_mut(panel_bytes).enumerate();
            panels.try_for_each(|(i, bytes)| write((i + touched.start, bytes)))?;
        }
        self.rows = total;
        Ok(())
    }
}

/// Units written before the next row: few enough that all rows' writes to them meet in the cache.
const UNITS_AT_ONCE: usize = 64;

/// The rows of one panel that are being written.
struct PanelRows<'a, F> {
    bytes: &'a mut [u8],
    first_row: usize,
    in_features: usize,
    widen: F,
}

impl<F> PanelRows<'_, F> {
    fn write_f32<T: Copy>(self, rows: &[T])
    where
        F: Fn(T) -> f32,
    {
        let first_col = self.first_row % PANEL;
        let panel: &mut [f32] = bytemuck::cast_slice_mut(self.bytes);
        for (i, units) in panel.chunks_mut(UNITS_AT_ONCE * PANEL).enumerate() {
            for (col, row) in (first_col..).zip(rows.chunks_exact(self.in_features)) {
                for (unit, &w) in units.chunks_exact_mut(PANEL).zip(&row[i * UNITS_AT_ONCE..]) {
                    unit[col] = (self.widen)(w);
                }
            }
        }
    }

    fn write_bf16<T: Copy>(self, rows: &[T])
    where
        F: Fn(T) -> f32,
    {
        let first_col = self.first_row % PANEL;
        let panel: &mut [bf16] = bytemuck::cast_slice_mut(self.bytes);
        for (i, units) in panel.chunks_mut(UNITS_AT_ONCE * 2 * PANEL).enumerate() {
            for (col, row) in (first_col..).zip(rows.chunks_exact(self.in_features)) {
                let pairs = row[2 * i * UNITS_AT_ONCE..].chunks(2);
                for (unit, pair) in units.chunks_exact_mut(2 * PANEL).zip(pairs) {
                    let into = &mut unit[2 * col..2 * col + 2];
                    into.iter_mut()
                        .zip(pair)
                        .for_each(|(into, &w)| *into = bf16::from_f32((self.widen)(w)));
                }
            }
        }
    }

    fn write_int8<T: Copy>(self, rows: &[T]) -> Result<(), LinearError>
    where
        F: Fn(T) -> f32,
    {
        self.write_blocks(rows, WeightType::Int8, |weights, col, unit| {
            let (integers, scales) = unit.split_at_mut(BLOCK_BYTES);
            let scale = scale_of(weights);
            bytemuck::cast_slice_mut::<u8, bf16>(scales)[col] = scale;
            for (g, four) in quantise(weights, scale.to_f32()).chunks_exact(4).enumerate() {
                integers[int8_index(4 * g, col)..][..4].copy_from_slice(four);
            }
            Ok(())
        })
    }

    fn write_int4<T: Copy>(self, rows: &[T]) -> Result<(), LinearError>
    where
        F: Fn(T) -> f32,
    {
        self.write_blocks(rows, WeightType::Int4, |weights, col, unit| {
            let (scale, block) = int4::quantise(weights)?;
            let (integers, scales) = unit.split_at_mut(HALF_BYTES);
            bytemuck::cast_slice_mut::<u8, f16>(scales)[col] = scale;
            int4::write(&block, col, integers);
            Ok(())
        })
    }

    /// Gives each block of finite weights to `write`, with its column and unit; it returns the place of a weight that is too large.
    fn write_blocks<T: Copy>(
        self,
        rows: &[T],
        weight_type: WeightType,
        write: impl Fn(&[f32; BLOCK], usize, &mut [u8]) -> Result<(), usize>,
    ) -> Result<(), LinearError>
    where
        F: Fn(T) -> f32,
    {
        for (i, row) in rows.chunks_exact(self.in_features).enumerate() {
            let col = self.first_row % PANEL + i;
            let units = self.bytes.chunks_exact_mut(weight_type.unit_bytes());
            for (unit_index, (unit, block)) in units.zip(row.chunks(BLOCK)).enumerate() {
                let mut weights = [0.0; BLOCK];
                weights
                    .iter_mut()
                    .zip(block)
                    .for_each(|(into, &w)| *into = (self.widen)(w));
                let place = |k: usize| (self.first_row + i, unit_index * BLOCK + k, weights[k]);
                if let Some(k) = weights.iter().position(|w| !w.is_finite()) {
                    let (row, col, value) = place(k);
                    return Err(LinearError::NonFinite { row, col, value });
                }
                write(&weights, col, unit).map_err(|k| {
                    let (row, col, value) = place(k);
                    LinearError::TooLargeForScale { row, col, value }
                })?;
            }
        }
        Ok(())
    }
}

/// The smallest bf16 with which the largest weight is at most 127.
fn scale_of(weights: &[f32; BLOCK]) -> bf16 {
    let largest = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
    let bits = (largest / 127.0).to_bits();
    let (upper, lower) = ((bits >> 16) as u16, bits & 0xffff);
    bf16::from_bits(if lower == 0 { upper } else { upper + 1 })
}

/// `round(w / scale) + 128` for every weight of a block.
fn quantise(weights: &[f32; BLOCK], scale: f32) -> [u8; BLOCK] {
    // A block of zeros, or of values below the smallest scale.
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    // Adding 1.5 · 2²³ leaves the integer nearest to a small float in the low bits; the scale keeps it within ±127.
    weights.map(|w| ((w / divisor + 12_582_912.0).to_bits() as u8).wrapping_add(128))
}
