//! The register tiles, written once over what a vector register can do.
//!
//! A kernel multiplies a few input rows with one panel: `c[r, n] = start[n] + Σ_k a[k, r] · b[k, n]` for `r < ROWS` and
//! all [`PANEL`] columns, or `c[r, n] += …` when `start` is null. Sums are kept in registers over all units given.
#![expect(
    clippy::needless_range_loop,
    reason = "row and register numbers address several arrays and pointers at once"
)]

use crate::aligned::CACHE_LINE;
use crate::linear::host::activations::Input;
use crate::linear::packed::{BLOCK_BYTES, PANEL};

/// One call of a kernel.
pub(super) struct Tile {
    /// Units along the input.
    pub(super) units: usize,
    /// Packed input of these units; see [`activations`](super::activations).
    pub(super) a: *const u8,
    /// The units of a panel.
    pub(super) b: *const u8,
    /// First value of the output tile.
    pub(super) c: *mut f32,
    /// Distance of the output's rows, in values.
    pub(super) stride: usize,
    /// [`PANEL`] values to begin with, or null to add to the output.
    pub(super) start: *const f32,
    /// What will be read soon, which is asked for meanwhile; need not be valid.
    pub(super) ahead: *const u8,
    /// Bytes of [`Tile::ahead`] to ask for with every [`LINE_PAIR`] of the panel.
    pub(super) ahead_step: usize,
}

/// Bytes of a panel between two requests for what lies ahead.
pub(super) const LINE_PAIR: usize = 128;

/// A kernel for a fixed number of rows.
///
/// # Safety
/// The processor must have the instructions that the kernel was compiled for. With `ROWS` and a unit's bytes known from
/// the table that the kernel came from: `a` is valid for reading `units` input units of `ROWS` rows, `b` for `units`
/// panel units, `c` for reading and writing [`PANEL`] values at each of `ROWS` rows, `start` is null or valid for
/// reading [`PANEL`] values. `a` is aligned to 4 bytes, `b` to 64.
pub(super) type Kernel = unsafe fn(tile: &Tile);

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

/// A register whose pairs of bf16 can be multiplied at once.
///
/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
pub(super) trait PairDot: Lanes {
    /// `self + a[0] · b[0] + a[1] · b[1]` for every lane's pairs of bf16.
    unsafe fn pair_dot(self, a: Self::Int, b: Self::Int) -> Self;
}

/// How four unsigned bytes are multiplied with four signed bytes and summed into an i32.
///
/// # Safety
/// The processor must have the implementor's instructions.
pub(super) trait ByteDot<V: Lanes> {
    unsafe fn dot(sum: V::Int, unsigned: V::Int, signed: V::Int) -> V::Int;
}

/// The f32 tile: `ROWS` rows, `VECTORS` registers of columns at a time, `UNROLL` independent sums.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn f32_tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
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
    let a = a.cast::<f32>();
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; `first + VECTORS * LANES <= PANEL` because both are powers of two.
        unsafe {
            let b = b.cast::<f32>().add(first);
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            let step = |sums: &mut [[V; VECTORS]; ROWS], k: usize| {
                let b = b.add(k * PANEL);
                if first == 0 {
                    V::prefetch(ahead.wrapping_add(k * ahead_step));
                    V::prefetch(ahead.wrapping_add(k * ahead_step + CACHE_LINE));
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
            finish(sums, tile, first);
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
    let &Tile {
        units,
        a,
        b,
        ahead,
        ahead_step,
        ..
    } = tile;
    let a = a.cast::<f32>();
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; `first + VECTORS * LANES <= PANEL` because both are powers of two.
        unsafe {
            let b = b.add(4 * first);
            // The two features of a pair go to separate sums where registers allow it, which `UNROLL` 2 says.
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            for unit in 0..units {
                let b = b.add(unit * 4 * PANEL);
                if first == 0 {
                    V::prefetch(ahead.wrapping_add(unit * ahead_step));
                    V::prefetch(ahead.wrapping_add(unit * ahead_step + CACHE_LINE));
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
    let &Tile {
        units,
        a,
        b,
        ahead,
        ahead_step,
        ..
    } = tile;
    let a = a.cast::<i32>();
    // SAFETY: the caller's contract.
    unsafe { prefetch_output::<V, ROWS>(tile) };
    for first in (0..PANEL).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller's contract; `first + VECTORS * LANES <= PANEL` because both are powers of two.
        unsafe {
            let b = b.add(4 * first);
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; UNROLL];
            let step = |sums: &mut [[V; VECTORS]; ROWS], unit: usize| {
                let b = b.add(unit * 4 * PANEL);
                if first == 0 {
                    V::prefetch(ahead.wrapping_add(unit * ahead_step));
                    V::prefetch(ahead.wrapping_add(unit * ahead_step + CACHE_LINE));
                }
                let mut weights = [V::int_splat(0); VECTORS];
                for v in 0..VECTORS {
                    weights[v] = V::int_load(b.add(4 * v * V::LANES));
                }
                for r in 0..ROWS {
                    let x = V::int_splat(*a.add(unit * ROWS + r));
                    for v in 0..VECTORS {
                        sums[r][v] = sums[r][v].pair_dot(weights[v], x);
                    }
                }
            };
            let whole = units - units % UNROLL;
            for unit in (0..whole).step_by(UNROLL) {
                for u in 0..UNROLL {
                    step(&mut sums[u], unit + u);
                }
            }
            for unit in whole..units {
                step(&mut sums[0], unit);
            }
            finish(sums, tile, first);
        }
    }
}

/// The int8 tile: exact integer sums within a block, scaled and summed in f32 over blocks.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(super) unsafe fn int8_tile<V: Lanes, D: ByteDot<V>, const ROWS: usize, const VECTORS: usize>(
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
                    if first == 0 {
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
                    let scale = V::load_bf16(b.add(BLOCK_BYTES + 2 * (first + v * V::LANES)));
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

/// Independent multiply-adds in [`multiply_adds`].
const CHAINS: usize = 12;

/// Does nothing but multiply-adds, and returns how many floating-point operations that was.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn multiply_adds<V: Lanes>(iterations: usize) -> (f64, f32) {
    // SAFETY: the caller's contract; `result` has room for any register.
    unsafe {
        let (a, b) = (
            V::splat(std::hint::black_box(0.999)),
            V::splat(std::hint::black_box(0.001)),
        );
        let mut sums = [V::splat(1.0); CHAINS];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = b.mul_add(*sum, a);
            }
        }
        let mut result = [0.0; PANEL];
        for sum in sums {
            V::load(result.as_ptr()).add(sum).store(result.as_mut_ptr());
        }
        ((iterations * CHAINS * V::LANES * 2) as f64, result[0])
    }
}

/// Adds the independent sums, and the start or what the output holds, and stores.
///
/// # Safety
/// As [`Kernel`] for `c` and `start`, for `VECTORS` registers from column `first` on.
#[inline(always)]
unsafe fn finish<V: Lanes, const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
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
unsafe fn prefetch_output<V: Lanes, const ROWS: usize>(tile: &Tile) {
    for r in 0..ROWS {
        let c = tile.c.wrapping_add(r * tile.stride).cast::<u8>();
        for line in (0..4 * PANEL).step_by(CACHE_LINE) {
            // SAFETY: the processor has the instructions.
            unsafe { V::prefetch(c.wrapping_add(line)) }
        }
    }
}

/// What one instruction set offers: a kernel for each weight type and number of rows.
pub(super) struct KernelSet {
    pub(super) f32: Kernels,
    pub(super) bf16: Kernels,
    /// What the kernels of bf16 weights read.
    pub(super) bf16_input: Input,
    pub(super) int8: Kernels,
    /// [`activations::pack`](super::activations::pack).
    pub(super) pack: unsafe fn(input: Input, rows: &[&[f32]], into: &mut [u8]),
    /// [`multiply_adds`].
    pub(super) multiply_adds: unsafe fn(iterations: usize) -> (f64, f32),
}

/// Compiles the tiles for one instruction set and lists them by number of rows.
macro_rules! kernel_set {
    ($(#[$features:meta])* $vector:ty, $dot:ty, vectors: $vectors:expr, f32: [$($f32_rows:literal)*],
        bf16: $bf16_input:ident by $bf16_tile:ident, int8: [$($int8_rows:literal)*]) => {
        use crate::linear::host::activations::{self, Input};
        use crate::linear::host::lanes::{KernelSet, Tile, $bf16_tile, f32_tile, int8_tile, multiply_adds};

        pub(in crate::linear::host) static KERNELS: KernelSet = KernelSet {
            f32: &[$(f32_kernel::<$f32_rows>),*],
            bf16: &[$(bf16_kernel::<$f32_rows>),*],
            bf16_input: Input::$bf16_input,
            int8: &[$(int8_kernel::<$int8_rows>),*],
            pack,
            multiply_adds: burst,
        };

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn f32_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract. Few rows need several sums to hide the latency of an addition.
            unsafe {
                match ROWS {
                    1 => f32_tile::<$vector, ROWS, { $vectors }, 4>(tile),
                    2 | 3 => f32_tile::<$vector, ROWS, { $vectors }, 2>(tile),
                    _ => f32_tile::<$vector, ROWS, { $vectors }, 1>(tile),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn bf16_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1..=3 => $bf16_tile::<$vector, ROWS, { $vectors }, 2>(tile),
                    _ => $bf16_tile::<$vector, ROWS, { $vectors }, 1>(tile),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::lanes::Kernel).
        $(#[$features])*
        unsafe fn int8_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe { int8_tile::<$vector, $dot, ROWS, { $vectors }>(tile) }
        }

        /// # Safety
        /// The processor must have the instructions.
        $(#[$features])*
        unsafe fn pack(input: Input, rows: &[&[f32]], into: &mut [u8]) {
            activations::pack(input, rows, into);
        }

        /// # Safety
        /// As [`multiply_adds`].
        $(#[$features])*
        unsafe fn burst(iterations: usize) -> (f64, f32) {
            // SAFETY: the caller's contract.
            unsafe { multiply_adds::<$vector>(iterations) }
        }
    };
}
pub(super) use kernel_set;
