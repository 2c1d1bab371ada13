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
/// `into` has `unit_bytes · units · rows.len()` bytes and is aligned to 4.
pub(super) fn pack(weight_type: WeightType, rows: &[&[f32]], into: &mut [u8]) {
    match weight_type {
        WeightType::F32 | WeightType::Bf16 => transpose(rows, bytemuck::cast_slice_mut(into)),
        WeightType::Int8 => quantise(rows, into),
    }
}

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
            let block = &row[unit_index * BLOCK..row.len().min((unit_index + 1) * BLOCK)];
            let mut values = [0.0; BLOCK];
            values[..block.len()].copy_from_slice(block);
            let mut quantised = [0i8; BLOCK];
            scales[r] = quantise_block(&values, &mut quantised);
            offsets[r] = -128 * quantised.iter().map(|&q| i32::from(q)).sum::<i32>();
            for (g, four) in quantised.chunks_exact(4).enumerate() {
                integers[4 * (g * count + r)..][..4].copy_from_slice(bytemuck::cast_slice(four));
            }
        }
    }
}

/// Rounds a block to `q · scale` with `|q| <= 127`, and returns the scale: NaN when a value is not finite, so that the
/// outputs of that row say so too.
fn quantise_block(values: &[f32; BLOCK], into: &mut [i8; BLOCK]) -> f32 {
    // The integers of magnitudes order as the magnitudes do, infinity and NaN last; integer maxima vectorise.
    let largest = values.iter().fold(0, |largest, v| v.abs().to_bits().max(largest));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return f32::NAN;
    }
    let scale = largest / 127.0;
    // Below this the inverse would overflow; such a block is zero beside any other.
    let inverse = if scale > f32::MIN_POSITIVE {
        1.0 / scale
    } else {
        0.0
    };
    for (q, v) in into.iter_mut().zip(values) {
        // Adding 1.5 · 2²³ leaves the integer nearest to a small float in the low bits, ties to even.
        *q = (v * inverse + 12_582_912.0).to_bits() as i8;
    }
    scale
}
