//! The register tiles of int8 and q8_0 weights: exact integer sums within a block, scaled and summed in f32 over blocks.
//!
//! Few rows multiply the bytes as they lie. Where no instruction sums byte products, that takes several, and many rows
//! multiply 16-bit words instead, to which a segment of a panel is [widened](super::widening) once for all of them.
#![expect(
    clippy::needless_range_loop,
    reason = "row and register numbers address several arrays and pointers at once"
)]

#[cfg(target_arch = "x86_64")]
use super::lanes::WordDot;
use super::lanes::{ByteDot, Lanes};
use super::tiles::{Tile, finish, prefetch_output};
use crate::aligned::CACHE_LINE;
#[cfg(target_arch = "x86_64")]
use crate::linear::weight_type::BLOCK;
use crate::linear::weight_type::{BLOCK_BYTES, PANEL};

/// The tile of bytes, with scales of f16 where `HALF` says so, of bf16 else.
///
/// # Safety
/// As [`Kernel`](super::tiles::Kernel).
#[inline(always)]
pub(super) unsafe fn byte_tile<
    V: Lanes,
    D: ByteDot<V>,
    const ROWS: usize,
    const VECTORS: usize,
    const HALF: bool,
>(
    tile: &Tile,
) {
    let &Tile {
        units,
        a,
        b,
        ahead,
        ahead_step,
        ..
    } = tile;
    const GROUPS: usize = BLOCK_BYTES / (4 * PANEL);
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; an input unit is 8 groups of `ROWS` i32, then `ROWS` offsets, then `ROWS` scales.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; 1];
            for unit in 0..units {
                let a = a.add(unit * 4 * ROWS * (GROUPS + 2)).cast::<i32>();
                let b = b.add(unit * (BLOCK_BYTES + 2 * PANEL));
                let mut dots = [[V::int_splat(0); VECTORS]; ROWS];
                if D::OFFSET {
                    for r in 0..ROWS {
                        dots[r] = [V::int_splat(*a.add(GROUPS * ROWS + r)); VECTORS];
                    }
                }
                for g in 0..GROUPS {
                    let b = b.add(g * 4 * PANEL + 4 * first);
                    if first == tile.first {
                        let ahead = ahead.wrapping_add((unit * GROUPS + g) * ahead_step);
                        V::prefetch(ahead);
                        V::prefetch(ahead.wrapping_add(CACHE_LINE));
                    }
                    let mut weights = [V::int_splat(0); VECTORS];
                    for v in 0..VECTORS {
                        weights[v] = V::int_load(b.add(4 * v * V::LANES));
                    }
                    for r in 0..ROWS {
                        let x = V::int_splat(*a.add(g * ROWS + r));
                        for v in 0..VECTORS {
                            dots[r][v] = D::dot(dots[r][v], weights[v], x);
                        }
                    }
                }
                for v in 0..VECTORS {
                    let scale = b.add(BLOCK_BYTES + 2 * (first + v * V::LANES));
                    let scale = match HALF {
                        true => V::load_f16(scale),
                        false => V::load_bf16(scale),
                    };
                    for r in 0..ROWS {
                        let x_scale = V::splat(*a.add((GROUPS + 1) * ROWS + r).cast::<f32>());
                        sums[0][r][v] =
                            sums[0][r][v].mul_add(V::int_to_float(dots[r][v]).mul(x_scale), scale);
                    }
                }
            }
            finish(sums, tile, first);
        }
    }
}

/// The tile of words: units of pairs of features in 16 bits, then the scales in f32.
///
/// # Safety
/// As [`Kernel`](super::tiles::Kernel).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn word_tile<V: WordDot, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    let &Tile {
        units,
        a,
        b,
        ahead,
        ahead_step,
        ..
    } = tile;
    const PAIRS: usize = BLOCK / 2;
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; an input unit is 16 pairs of `ROWS` i32, then `ROWS` scales.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; 1];
            for unit in 0..units {
                let a = a.add(unit * 4 * ROWS * (PAIRS + 1)).cast::<i32>();
                let b = b.add(unit * 4 * PANEL * (PAIRS + 1) + 4 * first);
                let mut dots = [[V::int_splat(0); VECTORS]; ROWS];
                for p in 0..PAIRS {
                    if first == tile.first {
                        V::prefetch(ahead.wrapping_add((unit * PAIRS + p) * ahead_step));
                    }
                    let mut weights = [V::int_splat(0); VECTORS];
                    for v in 0..VECTORS {
                        weights[v] = V::int_load(b.add(4 * (p * PANEL + v * V::LANES)));
                    }
                    for r in 0..ROWS {
                        let x = V::int_splat(*a.add(p * ROWS + r));
                        for v in 0..VECTORS {
                            dots[r][v] = V::word_dot(dots[r][v], weights[v], x);
                        }
                    }
                }
                for v in 0..VECTORS {
                    let scale = V::load(b.add(4 * (PAIRS * PANEL + v * V::LANES)).cast());
                    for r in 0..ROWS {
                        let x_scale = V::splat(*a.add(PAIRS * ROWS + r).cast::<f32>());
                        sums[0][r][v] =
                            sums[0][r][v].mul_add(V::int_to_float(dots[r][v]).mul(x_scale), scale);
                    }
                }
            }
            finish(sums, tile, first);
        }
    }
}
