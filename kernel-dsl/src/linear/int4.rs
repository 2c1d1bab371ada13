//! Blocks of weights in 4 bits: how a scale is chosen, and where the bits lie in a unit of a panel.
//!
//! ```text
//! w ≈ d q,   q ∈ {−8, …, 7},   d an f16, of either sign
//! ```
//!
//! Of the scales w* / f, w* the weight of the largest magnitude and f one of [`LEVELS`], the one is taken with which the sum of
//! squared errors of the block is least. The first is that of the format q4_0 of ggml, whose blocks come back to the bit where they
//! use the levels −8, 7 or −7, as nearly all do. Of normally distributed weights the error is 8.3 % of their norm, where q4_0's is 8.6 %
//! (`cargo test -p spillway-kernel-dsl equivalence_int4`).
//!
//! A unit has `[4][PANEL][4]` bytes, then `[PANEL]` f16 scales. A byte holds `q + 8` of two features of one output, four apart: the lower
//! half of byte `j` of four is feature `8 g + j`, the upper half feature `8 g + 4 + j`, so that a mask gives four features as they
//! lie in an int8 unit, and a shift the next four.

use half::f16;

use super::weight_type::{BLOCK, LARGEST_INT4, PANEL};

/// The largest weight of a block over its scale; what lies beyond −8 and 7 becomes −8 and 7.
const LEVELS: [f32; 6] = [-8.0, 7.0, -7.0, -7.5, -8.5, 7.5];

/// The scale with which the error of a block is least, and `q + 8` for every weight; the place of a weight beyond [`LARGEST_INT4`] where
/// there is one. Weights are finite.
#[inline(always)]
pub(super) fn quantise(weights: &[f32; BLOCK]) -> Result<(f16, [u8; BLOCK]), usize> {
    let largest = largest(weights);
    if largest.abs() > LARGEST_INT4 {
        return Err(weights.iter().position(|&w| w == largest).unwrap_or(0));
    }
    let mut best = (f32::INFINITY, f16::ZERO);
    for level in LEVELS {
        let scale = f16::from_f32(largest / level);
        let error = error(weights, scale.to_f32());
        // That of an infinite scale is NaN.
        if error < best.0 {
            best = (error, scale);
        }
    }
    let inverse = inverse(best.1.to_f32());
    let integers = weights.map(|w| (shifted(w * inverse).to_bits() as u8).wrapping_add(8));
    Ok((best.1, integers))
}

/// The weight of the largest magnitude.
#[inline(always)]
fn largest(weights: &[f32; BLOCK]) -> f32 {
    let (mut high, mut low) = ([0.0f32; LANES], [0.0f32; LANES]);
    for chunk in weights.as_chunks::<LANES>().0 {
        for (lane, &w) in chunk.iter().enumerate() {
            high[lane] = if w > high[lane] { w } else { high[lane] };
            low[lane] = if w < low[lane] { w } else { low[lane] };
        }
    }
    let high = high.into_iter().fold(0.0, f32::max);
    let low = low.into_iter().fold(0.0, f32::min);
    if high >= -low { high } else { low }
}

/// Σ (w − d q)²
#[inline(always)]
fn error(weights: &[f32; BLOCK], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let mut sums = [0.0f32; LANES];
    for chunk in weights.as_chunks::<LANES>().0 {
        for (lane, &w) in chunk.iter().enumerate() {
            let off = w - (shifted(w * inverse) - MAGIC) * scale;
            sums[lane] += off * off;
        }
    }
    sums.iter().sum()
}

/// Independent sums, which the compiler keeps in vectors.
const LANES: usize = 8;

/// Adding 1.5 · 2²³ leaves the integer nearest to a small float in the low bits, ties to even.
const MAGIC: f32 = 12_582_912.0;

/// The nearest integer of four bits, plus [`MAGIC`].
#[inline(always)]
fn shifted(quotient: f32) -> f32 {
    quotient.clamp(-8.0, 7.0) + MAGIC
}

/// 0 for a block of zeros, or of values below the smallest scale.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Writes a block's integers, `q + 8`, as column `col` of a unit.
pub(super) fn write(integers: &[u8; BLOCK], col: usize, unit: &mut [u8]) {
    for (g, eight) in integers.as_chunks::<8>().0.iter().enumerate() {
        let four = &mut unit[4 * (g * PANEL + col)..][..4];
        for (j, byte) in four.iter_mut().enumerate() {
            *byte = eight[j] | (eight[j + 4] << 4);
        }
    }
}

/// Integer `q` of feature `k` of a block in column `col` of a unit.
pub(super) fn read(k: usize, col: usize, unit: &[u8]) -> f32 {
    let byte = unit[4 * (k / 8 * PANEL + col) + k % 4];
    f32::from(if k % 8 < 4 { byte & 15 } else { byte >> 4 }) - 8.0
}
