//! Input rows as the kernels read them: cut into units, and within a unit the rows of a block side by side.
//!
//! | input | weights | unit of `R` rows |
//! |---|---|---|
//! | [`Input::Floats`] | f32 | `[1][R]` f32 |
//! | [`Input::Rounded`] | bf16 | `[2][R]` f32, rounded to bf16 |
//! | [`Input::Pairs`] | bf16 | `[R][2]` bf16 |
//! | [`Input::Blocks`] | int8, q8_0 | `[8][R][4]` i8, then `[R]` i32 offsets `−128 · Σ q`, then `[R]` f32 scales |
//! | [`Input::Blocks`] | int4 | the same; its offsets, `−8 · Σ q`, are a sixteenth |
//! | [`Input::Words`] | int8, q8_0 [widened](super::widening) | `[8][2][R][2]` i16, then `[R]` f32 scales |
//!
//! Pairs are for instructions that multiply them; where there are none, the same values are widened.

use half::bf16;

use crate::linear::weight_type::BLOCK;

/// What an input unit holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Floats,
    Rounded,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "no kernel here takes pairs")
    )]
    Pairs,
    Blocks,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "no kernel here takes words")
    )]
    Words,
}

impl Input {
    /// Bytes of an input unit, for one row.
    pub(super) const fn unit_bytes(self) -> usize {
        match self {
            Self::Floats | Self::Pairs => 4,
            Self::Rounded => 8,
            Self::Blocks => BLOCK + 8,
            Self::Words => 2 * BLOCK + 4,
        }
    }
}

/// Packs the features of `rows` (one slice a row, all of one length) into whole units; missing features are zeros.
///
/// `into` has `unit_bytes · units · rows.len()` bytes and is aligned to 4. Inlined, so that it is compiled for each
/// instruction set.
#[inline(always)]
pub(super) fn pack(input: Input, rows: &[&[f32]], into: &mut [u8]) {
    match input {
        Input::Floats => transpose(rows, bytemuck::cast_slice_mut(into), |value| value),
        Input::Rounded => transpose(rows, bytemuck::cast_slice_mut(into), |value| {
            f32::from_bits(u32::from(round(value)) << 16)
        }),
        Input::Pairs => pairs(rows, bytemuck::cast_slice_mut(into)),
        Input::Blocks => quantise(rows, into, Input::Blocks.unit_bytes(), blocks),
        Input::Words => quantise(rows, into, Input::Words.unit_bytes(), words),
    }
}

#[inline(always)]
fn transpose(rows: &[&[f32]], into: &mut [f32], change: impl Fn(f32) -> f32) {
    let count = rows.len();
    for (r, row) in rows.iter().enumerate() {
        let mut lines = into.chunks_exact_mut(count);
        for (line, &value) in lines.by_ref().zip(row.iter()) {
            line[r] = change(value);
        }
    }
    let features = rows.first().map_or(0, |row| row.len());
    into[features * count..].fill(0.0);
}

/// Features of a row that are rounded before they are spread: a few registers of them.
const ROUNDED_AT_ONCE: usize = 64;

#[inline(always)]
fn pairs(rows: &[&[f32]], into: &mut [u32]) {
    let count = rows.len();
    for (r, row) in rows.iter().enumerate() {
        let mut lines = into.chunks_exact_mut(count);
        for features in row.chunks(ROUNDED_AT_ONCE) {
            let mut rounded = [0u16; ROUNDED_AT_ONCE];
            rounded
                .iter_mut()
                .zip(features)
                .for_each(|(rounded, &value)| *rounded = round(value));
            let pairs: &[u32; ROUNDED_AT_ONCE / 2] = bytemuck::cast_ref(&rounded);
            for (&pair, line) in pairs[..features.len().div_ceil(2)].iter().zip(&mut lines) {
                line[r] = pair;
            }
        }
    }
}

/// The bits of the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if value.is_nan() {
        bf16::NAN.to_bits()
    } else {
        rounded
    }
}

/// Quantises block by block; `write` puts that of row `r` into the block's unit of `count` rows.
#[inline(always)]
fn quantise(
    rows: &[&[f32]],
    into: &mut [u8],
    unit_bytes: usize,
    write: impl Fn(&Quantised, usize, usize, &mut [u8]),
) {
    let count = rows.len();
    for (unit_index, unit) in into.chunks_exact_mut(count * unit_bytes).enumerate() {
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
            write(&quantised, r, count, unit);
        }
    }
}

#[inline(always)]
fn blocks(quantised: &Quantised, r: usize, count: usize, unit: &mut [u8]) {
    let (integers, rest) = unit.split_at_mut(count * BLOCK);
    let (offsets, scales) = rest.split_at_mut(count * 4);
    bytemuck::cast_slice_mut::<u8, f32>(scales)[r] = quantised.scale;
    bytemuck::cast_slice_mut::<u8, i32>(offsets)[r] = -128 * quantised.sum;
    for (g, four) in quantised.integers.chunks_exact(4).enumerate() {
        integers[4 * (g * count + r)..][..4].copy_from_slice(bytemuck::cast_slice(four));
    }
}

#[inline(always)]
fn words(quantised: &Quantised, r: usize, count: usize, unit: &mut [u8]) {
    let (integers, scales) = unit.split_at_mut(2 * count * BLOCK);
    bytemuck::cast_slice_mut::<u8, f32>(scales)[r] = quantised.scale;
    let integers: &mut [[i16; 2]] = bytemuck::cast_slice_mut(integers);
    for (g, four) in quantised.integers.as_chunks::<4>().0.iter().enumerate() {
        let [first, second, third, fourth] = four.map(i16::from);
        integers[2 * g * count + r] = [first, third];
        integers[(2 * g + 1) * count + r] = [second, fourth];
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
    let (mut integers, mut sum) = ([0; BLOCK], 0);
    for (integer, value) in integers.iter_mut().zip(values) {
        let rounded = (value * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
        *integer = rounded as i8;
        sum += rounded;
    }
    Quantised { integers, sum, scale }
}
