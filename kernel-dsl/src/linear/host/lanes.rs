//! The register tiles, written once over what a vector register can do.
//!
//! A kernel multiplies a few input rows with one panel: `c[r, n] = start[n] + Σ_k a[k, r] · b[k, n]` for `r < ROWS` and
//! all [`PANEL`] columns, or `c[r, n] += …` when `start` is null. Sums are kept in registers over all units given.
#![expect(
    clippy::needless_range_loop,
    reason = "row and register numbers address several arrays and pointers at once"
)]

use crate::linear::packed::{BLOCK_BYTES, PANEL};

/// A kernel for a fixed number of rows.
///
/// Arguments: number of units; packed input of these units (see [`activations`](super::activations)); the units of a
/// panel; output tile; distance of its rows in values; start values or null.
///
/// # Safety
/// The processor must have the instructions that the kernel was compiled for. With `ROWS` and a unit's bytes known from
/// the table that the kernel came from: `a` is valid for reading `units` input units of `ROWS` rows, `b` for `units`
/// panel units, `c` for reading and writing [`PANEL`] values at each of `ROWS` rows, `start` is null or valid for
/// reading [`PANEL`] values. `a` is aligned to 4 bytes, `b` to 64.
pub(super) type Kernel =
    unsafe fn(units: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize, start: *const f32);

/// Kernels by number of rows, beginning with one.
pub(super) type Kernels = &'static [Kernel];

/// A vector register of f32, and the register of i32 of the same width.
///
/// # Safety
/// All functions require the processor to have the implementor's instructions; pointers must be valid for the bytes of
/// one register, without any alignment.
pub(super) trait Lanes: Copy {
    /// f32 values in a register.
    const LANES: usize;
    /// The register of i32, or of four times as many bytes.
    type Int: Copy;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self + a · b`
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// The first and the second of each pair of bf16, widened.
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self);
    /// [`Lanes::LANES`] bf16, widened.
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn int_splat(value: i32) -> Self::Int;
    unsafe fn int_load(from: *const u8) -> Self::Int;
    unsafe fn int_to_float(value: Self::Int) -> Self;
    /// Asks for the cache line at `from`, which need not be valid.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}
}

/// How four unsigned bytes are multiplied with four signed bytes and summed into an i32.
///
/// # Safety
/// The processor must have the implementor's instructions.
pub(super) trait ByteDot<V: Lanes> {
    unsafe fn dot(sum: V::Int, unsigned: V::Int, signed: V::Int) -> V::Int;
}

/// How far ahead of its use a panel is asked for, in bytes.
const AHEAD: usize = 2048;

/// The f32 tile: `ROWS` rows, `VECTORS` registers of columns at a time, `UNROLL` independent sums.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn f32_tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    units: usize,
    a: *const u8,
    b: *const u8,
    c: *mut f32,
    stride: usize,
    start: *const f32,
) {
    let a = a.cast::<f32>();
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; `first + VECTORS * LANES <= PANEL` because both are powers of two.
        unsafe {
            let b = b.cast::<f32>().add(first);
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            let step = |sums: &mut [[V; VECTORS]; ROWS], k: usize| {
                let b = b.add(k * PANEL);
                V::prefetch(b.cast::<u8>().wrapping_add(AHEAD));
                if VECTORS * V::LANES == PANEL {
                    V::prefetch(b.cast::<u8>().wrapping_add(AHEAD + 64));
                }
                let mut weights = [V::splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    weights[v] = V::load(b.add(v * V::LANES));
                }
                for r in 0..ROWS {
                    let x = V::splat(*a.add(k * ROWS + r));
                    for v in 0..VECTORS {
                        sums[r][v] = sums[r][v].mul_add(weights[v], x);
                    }
                }
            };
            let whole = units - units % UNROLL;
            for k in (0..whole).step_by(UNROLL) {
                for u in 0..UNROLL {
                    step(&mut sums[u], k + u);
                }
            }
            for k in whole..units {
                step(&mut sums[0], k);
            }
            finish(sums, c.add(first), stride, offset(start, first));
        }
    }
}

/// The bf16 tile; like [`f32_tile`] with two features a unit.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn bf16_tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    units: usize,
    a: *const u8,
    b: *const u8,
    c: *mut f32,
    stride: usize,
    start: *const f32,
) {
    let a = a.cast::<f32>();
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; `first + VECTORS * LANES <= PANEL` because both are powers of two.
        unsafe {
            let b = b.add(4 * first);
            // The two features of a pair go to separate sums where registers allow it, which `UNROLL` 2 says.
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            for unit in 0..units {
                let b = b.add(unit * 4 * PANEL);
                V::prefetch(b.wrapping_add(AHEAD));
                if VECTORS * V::LANES == PANEL {
                    V::prefetch(b.wrapping_add(AHEAD + 64));
                }
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
            finish(sums, c.add(first), stride, offset(start, first));
        }
    }
}

/// The int8 tile: exact integer sums within a block, scaled and summed in f32 over blocks.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn int8_tile<V: Lanes, D: ByteDot<V>, const ROWS: usize, const VECTORS: usize>(
    units: usize,
    a: *const u8,
    b: *const u8,
    c: *mut f32,
    stride: usize,
    start: *const f32,
) {
    const GROUPS: usize = BLOCK_BYTES / (4 * PANEL);
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; an input unit is 8 groups of `ROWS` i32, then `ROWS` offsets, then `ROWS` scales.
        unsafe {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; 1];
            for unit in 0..units {
                let a = a.add(unit * 4 * ROWS * (GROUPS + 2)).cast::<i32>();
                let b = b.add(unit * (BLOCK_BYTES + 2 * PANEL));
                let mut dots = [[V::int_splat(0); VECTORS]; ROWS];
                for r in 0..ROWS {
                    dots[r] = [V::int_splat(*a.add(GROUPS * ROWS + r)); VECTORS];
                }
                for g in 0..GROUPS {
                    let b = b.add(g * 4 * PANEL + 4 * first);
                    V::prefetch(b.wrapping_add(AHEAD));
                    if VECTORS * V::LANES == PANEL {
                        V::prefetch(b.wrapping_add(AHEAD + 64));
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
                    let scale = V::load_bf16(b.add(BLOCK_BYTES + 2 * (first + v * V::LANES)));
                    for r in 0..ROWS {
                        let x_scale = V::splat(*a.add((GROUPS + 1) * ROWS + r).cast::<f32>());
                        sums[0][r][v] =
                            sums[0][r][v].mul_add(V::int_to_float(dots[r][v]).mul(x_scale), scale);
                    }
                }
            }
            finish(sums, c.add(first), stride, offset(start, first));
        }
    }
}

/// Widens `units` bf16 units of a panel to twice as many f32 units.
///
/// # Safety
/// `from` is valid for `units` bf16 units, `to` for writing twice as many f32 units.
#[inline(always)]
pub(super) unsafe fn widen_units<V: Lanes>(units: usize, from: *const u8, to: *mut f32) {
    for unit in 0..units {
        for first in (0..PANEL).step_by(V::LANES) {
            // SAFETY: the caller's contract.
            unsafe {
                let from = from.add(4 * (unit * PANEL + first));
                V::prefetch(from.wrapping_add(AHEAD));
                let (even, odd) = V::load_bf16_pairs(from);
                even.store(to.add(2 * unit * PANEL + first));
                odd.store(to.add((2 * unit + 1) * PANEL + first));
            }
        }
    }
}

/// `start + offset`, staying null.
fn offset(start: *const f32, offset: usize) -> *const f32 {
    if start.is_null() {
        start
    } else {
        start.wrapping_add(offset)
    }
}

/// Adds the independent sums, and the start or what `c` holds, and stores.
///
/// # Safety
/// As [`Kernel`] for `c` and `start`, for `VECTORS` registers.
#[inline(always)]
unsafe fn finish<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    sums: [[[V; VECTORS]; ROWS]; UNROLL],
    c: *mut f32,
    stride: usize,
    start: *const f32,
) {
    for r in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: the caller's contract.
            unsafe {
                let c = c.add(r * stride + v * V::LANES);
                let mut sum = sums[0][r][v];
                for more in &sums[1..] {
                    sum = sum.add(more[r][v]);
                }
                let before = if start.is_null() {
                    c.cast_const()
                } else {
                    start.add(v * V::LANES)
                };
                V::load(before).add(sum).store(c);
            }
        }
    }
}

/// What one instruction set offers: a kernel for each weight type and number of rows.
pub(super) struct KernelSet {
    pub(super) f32: Kernels,
    pub(super) bf16: Kernels,
    pub(super) int8: Kernels,
    /// [`widen_units`].
    pub(super) widen: unsafe fn(units: usize, from: *const u8, to: *mut f32),
}

/// Compiles the tiles for one instruction set and lists them by number of rows.
macro_rules! kernel_set {
    ($(#[$features:meta])* $vector:ty, $dot:ty, vectors: $vectors:expr, f32: [$($f32_rows:literal)*], int8: [$($int8_rows:literal)*]) => {
        use crate::linear::host::lanes::{KernelSet, bf16_tile, f32_tile, int8_tile, widen_units};

        pub(in crate::linear::host) static KERNELS: KernelSet = KernelSet {
            f32: &[$(f32_kernel::<$f32_rows>),*],
            bf16: &[$(bf16_kernel::<$f32_rows>),*],
            int8: &[$(int8_kernel::<$int8_rows>),*],
            widen,
        };

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn f32_kernel<const ROWS: usize>(
            units: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize, start: *const f32,
        ) {
            // SAFETY: the caller's contract. Few rows need several sums to hide the latency of an addition.
            unsafe {
                match ROWS {
                    1 => f32_tile::<$vector, ROWS, { $vectors }, 4>(units, a, b, c, stride, start),
                    2 | 3 => f32_tile::<$vector, ROWS, { $vectors }, 2>(units, a, b, c, stride, start),
                    _ => f32_tile::<$vector, ROWS, { $vectors }, 1>(units, a, b, c, stride, start),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn bf16_kernel<const ROWS: usize>(
            units: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize, start: *const f32,
        ) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1..=3 => bf16_tile::<$vector, ROWS, { $vectors }, 2>(units, a, b, c, stride, start),
                    _ => bf16_tile::<$vector, ROWS, { $vectors }, 1>(units, a, b, c, stride, start),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn int8_kernel<const ROWS: usize>(
            units: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize, start: *const f32,
        ) {
            // SAFETY: the caller's contract.
            unsafe { int8_tile::<$vector, $dot, ROWS, { $vectors }>(units, a, b, c, stride, start) }
        }

        /// # Safety
        /// As [`widen_units`].
        $(#[$features])*
        unsafe fn widen(units: usize, from: *const u8, to: *mut f32) {
            // SAFETY: the caller's contract.
            unsafe { widen_units::<$vector>(units, from, to) }
        }
    };
}
pub(super) use kernel_set;
