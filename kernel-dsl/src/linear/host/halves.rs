//! The register tile of int4 weights: exact integer sums within a block, scaled and summed in f32 over blocks.
//!
//! Two products take a load, two masks and a shift. Many rows have them done once for all, by [widening](super::widening) a segment of a
//! panel to bytes. Since a weight has but four bits, the sums of a block fit 16 bits where no instruction sums byte products in 32.
#![expect(
    clippy::needless_range_loop,
    reason = "row and register numbers address several arrays and pointers at once"
)]

use super::lanes::{HalfDot, Lanes};
use super::tiles::{Tile, finish, prefetch_output};
use crate::aligned::CACHE_LINE;
use crate::linear::weight_type::{BLOCK_BYTES, HALF_BYTES, PANEL};

/// Steps in a block: eight features of an output lie in four bytes.
const STEPS: usize = HALF_BYTES / (4 * PANEL);

/// The tile of half bytes, or of bytes to which they were widened.
///
/// # Safety
/// As [`Kernel`](super::tiles::Kernel).
#[inline(always)]
pub(super) unsafe fn half_byte_tile<
    V: Lanes,
    D: HalfDot<V>,
    const ROWS: usize,
    const VECTORS: usize,
    const WIDENED: bool,
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
    let bytes = if WIDENED { BLOCK_BYTES } else { HALF_BYTES };
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; an input unit is 8 groups of `ROWS` i32, then `ROWS` offsets, then `ROWS` scales.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; 1];
            for unit in 0..units {
                let a = a.add(unit * 4 * ROWS * (2 * STEPS + 2)).cast::<i32>();
                let b = b.add(unit * (bytes + 2 * PANEL));
                let mut dots = [[V::int_splat(0); VECTORS]; ROWS];
                for step in 0..STEPS {
                    if first == tile.first {
                        let ahead = ahead.wrapping_add((unit * STEPS + step) * ahead_step);
                        V::prefetch(ahead);
                        V::prefetch(ahead.wrapping_add(CACHE_LINE));
                    }
                    let mut weights = [[V::int_splat(0); VECTORS]; 2];
                    for v in 0..VECTORS {
                        let col = first + v * V::LANES;
                        if WIDENED {
                            weights[0][v] = V::int_load(b.add(4 * (2 * step * PANEL + col)));
                            weights[1][v] = V::int_load(b.add(4 * ((2 * step + 1) * PANEL + col)));
                        } else {
                            let both = V::int_load(b.add(4 * (step * PANEL + col)));
                            (weights[0][v], weights[1][v]) = V::halves(both);
                        }
                    }
                    for half in 0..2 {
                        for r in 0..ROWS {
                            let x = V::int_splat(*a.add((2 * step + half) * ROWS + r));
                            for v in 0..VECTORS {
                                dots[r][v] = D::dot(dots[r][v], weights[half][v], x);
                            }
                        }
                    }
                }
                for v in 0..VECTORS {
                    let scale = V::load_f16(b.add(bytes + 2 * (first + v * V::LANES)));
                    for r in 0..ROWS {
                        // The offset is that of int8's 128; 8 is a sixteenth of it.
                        let offset = *a.add(2 * STEPS * ROWS + r) >> 4;
                        let x_scale = V::splat(*a.add((2 * STEPS + 1) * ROWS + r).cast::<f32>());
                        let dot = V::int_to_float(D::total(dots[r][v], offset));
                        sums[0][r][v] = sums[0][r][v].mul_add(dot.mul(x_scale), scale);
                    }
                }
            }
            finish(sums, tile, first);
        }
    }
}
