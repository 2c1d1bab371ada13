//! The register tiles of f32 and bf16 weights, written once over what a vector register can do.
//!
//! A kernel multiplies a few input rows with one panel: `c[r, n] = start[n] + Σ_k a[k, r] · b[k, n]` for `r < ROWS` and
//! the columns asked for, or `c[r, n] += …` when `start` is null. Sums are kept in registers over all units given.
#![expect(
    clippy::needless_range_loop,
    reason = "row and register numbers address several arrays and pointers at once"
)]

use super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::lanes::PairDot;
use crate::aligned::CACHE_LINE;
use crate::linear::weight_type::PANEL;

/// Operands of one call of a kernel.
pub(super) struct Tile {
    /// Units along the input.
    pub(super) units: usize,
    /// Packed input of these units; see [`activations`](super::activations).
    pub(super) a: *const u8,
    /// The units of a panel; for [`f32_step_tile`] those of a step of its columns.
    pub(super) b: *const u8,
    /// First value of the output tile.
    pub(super) c: *mut f32,
    /// Distance of the output's rows, in values.
    pub(super) stride: usize,
    /// [`PANEL`] values to begin with, or null to add to the output.
    pub(super) start: *const f32,
    /// What will be read soon, which is asked for meanwhile; need not be valid.
    pub(super) ahead: *const u8,
    /// Bytes of [`Tile::ahead`] to ask for with every [`LINE_PAIR`] of the panel; for [`f32_step_tile`] with all of it.
    pub(super) ahead_step: usize,
    /// First of the panel's columns that are asked for, and what follows the last; whole steps of the kernel's registers.
    pub(super) first: usize,
    /// What follows the last of the panel's columns that are asked for; see [`Tile::first`].
    pub(super) last: usize,
}

impl Tile {
    /// Whether all columns of the panel are asked for.
    #[inline(always)]
    pub(super) fn is_whole(&self) -> bool {
        self.first == 0 && self.last == PANEL
    }
}

/// Bytes of a panel between two requests for what lies ahead.
pub(super) const LINE_PAIR: usize = 128;

/// A kernel for a fixed number of rows.
///
/// # Safety
/// The processor must have the instructions that the kernel was compiled for. With `ROWS` and a unit's bytes known from
/// the table that the kernel came from: `a` is valid for reading `units` input units of `ROWS` rows, `b` for `units`
/// panel units, `c` for reading and writing [`PANEL`] values at each of `ROWS` rows, `start` is null or valid for
/// reading [`PANEL`] values. `first` and `last` lie within the panel, whole steps of the kernel's registers apart. `a` is aligned to 4 bytes, `b` to 64.
pub(super) type Kernel = unsafe fn(tile: &Tile);

/// Kernels by number of rows, beginning with one.
pub(super) type Kernels = &'static [Kernel];

/// The f32 tile: `ROWS` rows, `VECTORS` registers of columns at a time, `UNROLL` independent sums.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn f32_tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    tile: &Tile,
) {
    let units = tile.units;
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; a step ends at or before `last`.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            let whole = units - units % UNROLL;
            for k in (0..whole).step_by(UNROLL) {
                for u in 0..UNROLL {
                    add_f32_unit::<V, ROWS, VECTORS>(&mut sums[u], tile, first, k + u);
                }
            }
            for k in whole..units {
                add_f32_unit::<V, ROWS, VECTORS>(&mut sums[0], tile, first, k);
            }
            finish(sums, tile, first);
        }
    }
}

/// Adds the products of unit `k` to the sums of [`f32_tile`].
///
/// A function and no closure: a closure has none of the vector instructions unless it is inlined, and not every build inlines it.
///
/// # Safety
/// As [`Kernel`], for `VECTORS` registers from column `first` on.
#[inline(always)]
unsafe fn add_f32_unit<V: Lanes, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    tile: &Tile,
    first: usize,
    k: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let a = tile.a.cast::<f32>().add(k * ROWS);
        let b = tile.b.cast::<f32>().add(first + k * PANEL);
        prefetch_ahead::<V>(tile, first, k);
        multiply_add(sums, a, b);
    }
}

/// Units of [`f32_step_tile`] in a turn of its loop.
const STEP_UNITS: usize = 4;

/// The f32 tile of one step of columns that lies by itself, `[units][VECTORS · LANES]`, for the many rows that pay for laying it out.
///
/// Nothing but loads stands between the multiply-adds: counting and asking for what lies ahead cost time where the other thread of a core
/// takes its share of the decoder. And the step fills all sets of the first cache, where one within a panel of
/// twice its width fills every other set.
///
/// # Safety
/// As [`Kernel`]; `b` is valid for reading `units` units of the step, which is `first..last`.
#[inline(always)]
pub(super) unsafe fn f32_step_tile<V: Lanes, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    let width = VECTORS * V::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        prefetch_output::<V, ROWS>(tile);
        for line in (0..tile.ahead_step).step_by(CACHE_LINE) {
            V::prefetch(tile.ahead.wrapping_add(line));
        }
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        let (mut a, mut b) = (tile.a.cast::<f32>(), tile.b.cast::<f32>());
        for _ in 0..tile.units / STEP_UNITS {
            for unit in 0..STEP_UNITS {
                multiply_add(&mut sums, a.add(unit * ROWS), b.add(unit * width));
            }
            (a, b) = (a.add(STEP_UNITS * ROWS), b.add(STEP_UNITS * width));
        }
        for unit in 0..tile.units % STEP_UNITS {
            multiply_add(&mut sums, a.add(unit * ROWS), b.add(unit * width));
        }
        finish([sums], tile, tile.first);
    }
}

/// Adds the products of `ROWS` values and `VECTORS` registers to sums.
///
/// # Safety
/// The processor must have the instructions of `V`; `a` is valid for reading `ROWS` values, `b` for `VECTORS` registers.
#[inline(always)]
unsafe fn multiply_add<V: Lanes, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut weights = [V::splat(0.0); VECTORS];
        for v in 0..VECTORS {
            weights[v] = V::load(b.add(v * V::LANES));
        }
        for r in 0..ROWS {
            let x = V::splat(*a.add(r));
            for v in 0..VECTORS {
                sums[r][v] = sums[r][v].mul_add(weights[v], x);
            }
        }
    }
}

/// Asks for what will be read soon, once for each unit.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn prefetch_ahead<V: Lanes>(tile: &Tile, first: usize, unit: usize) {
    if first == tile.first {
        let ahead = tile.ahead.wrapping_add(unit * tile.ahead_step);
        // SAFETY: the caller's contract; the address need not be valid.
        unsafe {
            V::prefetch(ahead);
            V::prefetch(ahead.wrapping_add(CACHE_LINE));
        }
    }
}

/// The bf16 tile; like [`f32_tile`] with two features a unit.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn bf16_tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    tile: &Tile,
) {
    let &Tile { units, a, b, .. } = tile;
    let a = a.cast::<f32>();
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; a step ends at or before `last`.
        unsafe {
            let b = b.add(4 * first);
            // The two features of a pair go to separate sums where registers allow it, which `UNROLL` 2 says.
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            for unit in 0..units {
                let b = b.add(unit * 4 * PANEL);
                prefetch_ahead::<V>(tile, first, unit);
                let mut weights = [(V::splat(0.0), V::splat(0.0)); VECTORS];
                for v in 0..VECTORS {
                    weights[v] = V::load_bf16_pairs(b.add(4 * v * V::LANES));
                }
                for r in 0..ROWS {
                    let even = V::splat(*a.add(2 * unit * ROWS + r));
                    for v in 0..VECTORS {
                        sums[0][r][v] = sums[0][r][v].mul_add(weights[v].0, even);
                    }
                }
                for r in 0..ROWS {
                    let odd = V::splat(*a.add((2 * unit + 1) * ROWS + r));
                    for v in 0..VECTORS {
                        let sum = &mut sums[1 % UNROLL][r][v];
                        *sum = sum.mul_add(weights[v].1, odd);
                    }
                }
            }
            finish(sums, tile, first);
        }
    }
}

/// The bf16 tile where pairs of features are multiplied at once, with inputs in pairs too.
///
/// # Safety
/// As [`Kernel`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn bf16_pair_tile<
    V: PairDot,
    const ROWS: usize,
    const VECTORS: usize,
    const UNROLL: usize,
>(
    tile: &Tile,
) {
    let units = tile.units;
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (tile.first..tile.last).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; a step ends at or before `last`.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            let whole = units - units % UNROLL;
            for unit in (0..whole).step_by(UNROLL) {
                for u in 0..UNROLL {
                    add_bf16_pairs::<V, ROWS, VECTORS>(&mut sums[u], tile, first, unit + u);
                }
            }
            for unit in whole..units {
                add_bf16_pairs::<V, ROWS, VECTORS>(&mut sums[0], tile, first, unit);
            }
            finish(sums, tile, first);
        }
    }
}

/// Adds the products of a unit's pairs to the sums of [`bf16_pair_tile`].
///
/// # Safety
/// As [`Kernel`], for `VECTORS` registers from column `first` on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_bf16_pairs<V: PairDot, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    tile: &Tile,
    first: usize,
    unit: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let a = tile.a.cast::<i32>().add(unit * ROWS);
        let b = tile.b.add(4 * (first + unit * PANEL));
        prefetch_ahead::<V>(tile, first, unit);
        let mut weights = [V::int_splat(0); VECTORS];
        for v in 0..VECTORS {
            weights[v] = V::int_load(b.add(4 * v * V::LANES));
        }
        for r in 0..ROWS {
            let x = V::int_splat(*a.add(r));
            for v in 0..VECTORS {
                sums[r][v] = sums[r][v].pair_dot(weights[v], x);
            }
        }
    }
}

/// Adds the independent sums, and the start or what the output holds, and stores.
///
/// # Safety
/// As [`Kernel`] for `c` and `start`, for `VECTORS` registers from column `first` on.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    sums: [[[V; VECTORS]; ROWS]; UNROLL],
    tile: &Tile,
    first: usize,
) {
    for r in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: the caller's contract.
            unsafe {
                let col = first + v * V::LANES;
                let c = tile.c.add(r * tile.stride + col);
                let mut sum = sums[0][r][v];
                for more in &sums[1..] {
                    sum = sum.add(more[r][v]);
                }
                let before = if tile.start.is_null() {
                    c.cast_const()
                } else {
                    tile.start.add(col)
                };
                V::load(before).add(sum).store(c);
            }
        }
    }
}

/// Asks for the output tile, which is needed at the end.
///
/// # Safety
/// As [`Kernel`] for `c`.
#[inline(always)]
pub(super) unsafe fn prefetch_output<V: Lanes, const ROWS: usize>(tile: &Tile) {
    for r in 0..ROWS {
        let c = tile.c.wrapping_add(r * tile.stride).cast::<u8>();
        for line in (4 * tile.first..4 * tile.last).step_by(CACHE_LINE) {
            // SAFETY: the processor has the instructions.
            unsafe { V::prefetch(c.wrapping_add(line)) }
        }
    }
}
