//! Input rows as the kernels read them: cut into units, and within a unit the rows of a block side by side.
//!
//! | weights | input unit of `R` rows |
//! |---|---|
//! | f32 | `[1][R]` f32 |
//! | bf16 | `[2][R]` f32 |
//! | int8 | `[8][R][4]` i8, then `[R]` i32 offsets `−128 · Σ q`, then `[R]` f32 scales |

use crate::linear::{WeightType, packed::BLOCK};

/// Bytes of an input unit, for one row.
pub(super) const fn unit_bytes(weight_type: WeightType) -> usize {
    match weight_type {
        WeightType::F32 => 4,
        WeightType::Bf16 => 8,
        WeightType::Int8 => BLOCK + 8,
    }
}

/// Packs the features of `rows` (one slice a row, all of one length) into whole units; missing features are zeros.
///
/// `into` has `unit_bytes · units · rows.len()` bytes and is aligned to 4. Inlined, so that it is compiled for each
/// instruction set.
#[inline(always)]
pub(super) fn pack(weight_type: WeightType, rows: &[&[f32]], into: &mut [u8]) {
    match weight_type {
        WeightType::F32 | WeightType::Bf16 => transpose(rows, bytemuck::cast_slice_mut(into)),
        WeightType::Int8 => quantise(rows, into),
    }
}

#[inline(always)]
fn transpose(rows: &[&[f32]], into: &mut [f32]) {
    let count = rows.len();
    for (r, row) in rows.iter().enumerate() {
        let mut lines = into.chunks_exact_mut(count);
        for (line, &value) in lines.by_ref().zip(row.iter()) {
            line[r] = value;
        }
    }
    let features = rows.first().map_or(0, |row| row.len());
    into[features * count..].fill(0.0);
}

#[inline(always)]
fn quantise(rows: &[&[f32]], into: &mut [u8]) {
    let count = rows.len();
    for (unit_index, unit) in into
        .chunks_exact_mut(count * unit_bytes(WeightType::Int8))
        .enumerate()
    {
        let (integers, rest) = unit.split_at_mut(count * BLOCK);
        let (offsets, scales) = rest.split_at_mut(count * 4);
        let offsets: &mut [i32] = bytemuck::cast_slice_mut(offsets);
        let scales: &mut [f32] = bytemuck::cast_slice_mut(scales);
        for (r, row) in rows.iter().enumerate() {
            let features = unit_index * BLOCK..row.len().min((unit_index + 1) * BLOCK);
            let quantised = match row[features.clone()].try_into() {
                Ok(whole) => quantise_block(whole),
                Err(_) => {
                    let mut padded = [0.0; BLOCK];
                    padded[..features.len()].copy_from_slice(&row[features]);
                    quantise_block(&padded)
                }
            };
            scales[r] = quantised.scale;
            offsets[r] = -128 * quantised.sum;
            for (g, four) in quantised.integers.chunks_exact(4).enumerate() {
                integers[4 * (g * count + r)..][..4].copy_from_slice(bytemuck::cast_slice(four));
            }
        }
    }
}

/// A block of inputs in 8 bits.
struct Quantised {
    integers: [i8; BLOCK],
    sum: i32,
    scale: f32,
}

/// Rounds a block to `q · scale` with `|q| <= 127`. The scale is NaN when a value is not finite, so that the outputs of
/// that row say so too.
#[inline(always)]
fn quantise_block(values: &[f32; BLOCK]) -> Quantised {
    // The integers of magnitudes order as the magnitudes do, infinity and NaN last; integer maxima vectorise.
    let largest = values.iter().fold(0, |largest, v| v.abs().to_bits().max(largest));
    let largest = f32::from_bits(largest);
    let (values, scale) = match largest.is_finite() {
        true => (values, largest / 127.0),
        false => (&[0.0; BLOCK], f32::NAN),
    };
    // Below this the inverse would overflow; such a block is zero beside any other.
    let inverse = if scale > f32::MIN_POSITIVE {
        1.0 / scale
    } else {
        0.0
    };
    // Adding 1.5 · 2²³ leaves the integer nearest to a small float in the low bits, ties to even.
    const MAGIC: f32 = 12_582_912.0;
    let rounded: [i32; BLOCK] =
        std::array::from_fn(|k| (values[k] * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32);
    Quantised {
        integers: rounded.map(|q| q as i8),
        sum: rounded.iter().sum(),
        scale,
    }
}
