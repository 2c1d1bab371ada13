//! Filling a packed matrix, row by row.
//!
//! | type | scale of a block | integers |
//! |---|---|---|
//! | int8 | the smallest bf16 with which the largest magnitude is at most 127 | the nearest |
//! | q8_0 | the f16 nearest to the largest magnitude / 127; the next one where weights would be beyond 127 | the nearest |
//! | int4 | see [`int4`](super::int4) | the nearest from −8 to 7 |

use std::ops::Range;

use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::int4;
use super::packed::{PackedMatrix, int8_index};
use super::weight_type::{BLOCK, BLOCK_BYTES, HALF_BYTES, LARGEST_Q8_0, PANEL};
use super::{LinearError, WeightType};
use crate::aligned::AlignedBytes;
use crate::simd;

/// Number of weights below which packing on several threads costs more than it saves.
const PARALLEL_WEIGHTS: usize = 1 << 16;

impl PackedMatrix {
    /// Packs a whole matrix.
    ///
    /// # Shapes
    /// `weight` `[out_features, in_features]` row-major, as checkpoints store it.
    ///
    /// # Errors
    /// [`LinearError`] when a size is zero or does not match, when a weight of 8 or 4 bits is not finite, or a q8_0 or int4
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
        self.fill(rows.len() / in_features, |taken, first_row, bytes| {
            let source = &rows[taken.start * in_features..taken.end * in_features];
            let target = PanelRows {
                bytes,
                first_row,
                in_features,
                widen,
            };
            match weight_type {
                WeightType::F32 => target.write_f32(source),
                WeightType::Bf16 => target.write_bf16(source),
                WeightType::Int8 => return target.write_int8(source),
                WeightType::Q8_0 => return target.write_q8_0(source),
                WeightType::Int4 => return simd::dispatch(Int4Rows { target, rows: source }),
            }
            Ok(())
        })
    }

    /// Has the next `count` rows written, panel by panel, on several threads where they are many: `write` is told which of these rows
    /// belong to a panel, where the first of them lies in the matrix, and gets the panel's bytes.
    pub(super) fn fill(
        &mut self,
        count: usize,
        write: impl Fn(Range<usize>, usize, &mut [u8]) -> Result<(), LinearError> + Sync,
    ) -> Result<(), LinearError> {
        let (first, expected) = (self.rows, self.matrix.out_features);
        let total = first.saturating_add(count);
        if total > expected {
            return Err(LinearError::RowCount {
                expected,
                found: total,
            });
        }
        let panel_bytes = self.matrix.panel_bytes();
        let write = |(panel, bytes): (usize, &mut [u8])| {
            let from = first.max(panel * PANEL);
            let to = total.min((panel + 1) * PANEL);
            write(from - first..to - first, from, bytes)
        };
        let touched = first / PANEL..total.div_ceil(PANEL);
        let storage = &mut self.matrix.storage[touched.start * panel_bytes..touched.end * panel_bytes];
        if count * self.matrix.in_features < PARALLEL_WEIGHTS {
            let panels = storage.chunks_mut(panel_bytes).enumerate();
            panels
                .map(|(i, bytes)| (i + touched.start, bytes))
                .try_for_each(write)?;
        } else {
            let panels = storage.par_chunks_mut(panel_bytes).enumerate();
            panels.try_for_each(|(i, bytes)| write((i + touched.start, bytes)))?;
        }
        self.rows = total;
        Ok(())
    }

    /// Number of rows that have not been written yet.
    pub fn missing(&self) -> usize {
        self.matrix.out_features - self.rows
    }

    /// The matrix as far as it has been filled.
    pub(super) fn matrix(&self) -> &PackedMatrix {
        &self.matrix
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
            write_bytes(&quantise(weights, scale.to_f32()), col, integers);
            Ok(())
        })
    }

    fn write_q8_0<T: Copy>(self, rows: &[T]) -> Result<(), LinearError>
    where
        F: Fn(T) -> f32,
    {
        self.write_blocks(rows, WeightType::Q8_0, |weights, col, unit| {
            let largest = largest(weights);
            if largest > LARGEST_Q8_0 {
                return Err(weights.iter().position(|w| w.abs() == largest).unwrap_or(0));
            }
            let (integers, scales) = unit.split_at_mut(BLOCK_BYTES);
            let scale = half_scale_of(largest);
            bytemuck::cast_slice_mut::<u8, f16>(scales)[col] = scale;
            write_bytes(&quantise(weights, scale.to_f32()), col, integers);
            Ok(())
        })
    }

    /// Gives each block of finite weights to `write`, with its column and unit; it returns the place of a weight that is too large.
    #[inline(always)]
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
                    LinearError::TooLargeForScale {
                        weight_type,
                        row,
                        col,
                        value,
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// Rows that become int4: six scales are tried for every block, which takes vectors.
struct Int4Rows<'a, T, F> {
    target: PanelRows<'a, F>,
    rows: &'a [T],
}

impl<T: Copy, F: Fn(T) -> f32> WithSimd for Int4Rows<'_, T, F> {
    type Output = Result<(), LinearError>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        self.target
            .write_blocks(self.rows, WeightType::Int4, |weights, col, unit| {
                let (scale, block) = int4::quantise(weights)?;
                let (integers, scales) = unit.split_at_mut(HALF_BYTES);
                bytemuck::cast_slice_mut::<u8, f16>(scales)[col] = scale;
                int4::write(&block, col, integers);
                Ok(())
            })
    }
}

/// Writes a block's integers, `q + 128`, as column `col` of a unit of 8 bits.
pub(super) fn write_bytes(integers: &[u8; BLOCK], col: usize, unit: &mut [u8]) {
    for (g, four) in integers.as_chunks::<4>().0.iter().enumerate() {
        unit[int8_index(4 * g, col)..][..4].copy_from_slice(four);
    }
}

/// The largest magnitude of a block.
fn largest(weights: &[f32; BLOCK]) -> f32 {
    weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()))
}

/// The smallest bf16 with which the largest weight is at most 127.
fn scale_of(weights: &[f32; BLOCK]) -> bf16 {
    let bits = (largest(weights) / 127.0).to_bits();
    let (upper, lower) = ((bits >> 16) as u16, bits & 0xffff);
    bf16::from_bits(if lower == 0 { upper } else { upper + 1 })
}

/// The f16 nearest to largest / 127; where weights would be beyond 127, as among subnormal ones, the next.
fn half_scale_of(largest: f32) -> f16 {
    let nearest = f16::from_f32(largest / 127.0);
    match largest > 127.4 * nearest.to_f32() {
        true => f16::from_bits(nearest.to_bits() + 1),
        false => nearest,
    }
}

/// `round(w / scale) + 128` for every weight of a block.
fn quantise(weights: &[f32; BLOCK], scale: f32) -> [u8; BLOCK] {
    // A block of zeros, or of values below the smallest scale.
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    // Adding 1.5 · 2²³ leaves the integer nearest to a small float in the low bits; the scale keeps it within ±127.
    weights.map(|w| ((w / divisor + 12_582_912.0).to_bits() as u8).wrapping_add(128))
}
