//! The kernels of one instruction set, and which of them multiply how many rows.

use super::activations::Input;
use super::lanes::Lanes;
use super::tiles::Kernels;
use super::widening::Widening;
use crate::linear::WeightType;
use crate::linear::weight_type::PANEL;

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

/// Row blocks from which on it pays to lay out f32 weights by steps of columns. With fewer, memory is waited for in between: four blocks
/// of six rows take a third more time than by the tiles that read the weights as they lie.
const STEP_BLOCKS: usize = 8;

/// What one instruction set offers.
pub(super) struct KernelSet {
    /// Kernels that read f32 weights as they lie.
    pub(super) f32: Kernels,
    /// Kernels that read f32 weights laid out by steps of columns; none where a step is a panel.
    pub(super) f32_steps: Kernels,
    /// Kernels that read bf16 weights as they lie.
    pub(super) bf16: Kernels,
    /// Form of the packed input that the bf16 kernels read.
    pub(super) bf16_input: Input,
    /// Most rows for them; more are multiplied by the f32 kernels, after widening.
    pub(super) bf16_rows: usize,
    /// Kernels that read int8 weights as they lie.
    pub(super) int8: Kernels,
    /// Kernels that read q8_0 weights as they lie.
    pub(super) q8_0: Kernels,
    /// Most rows for both; more are multiplied by the kernels of words, after widening.
    pub(super) int8_rows: usize,
    /// Kernels that read words, to which int8 and q8_0 weights are widened; none where `int8_rows` has no bound.
    pub(super) words: Kernels,
    /// Kernels that read int4 weights as they lie.
    pub(super) int4: Kernels,
    /// Kernels that read the bytes to which int4 weights are widened, for more than two blocks of rows.
    pub(super) int4_widened: Kernels,
    /// Columns of a step of every kernel.
    pub(super) columns: usize,
    /// [`activations::pack`](super::activations::pack), compiled for this instruction set.
    pub(super) pack: unsafe fn(input: Input, rows: &[&[f32]], into: &mut [u8]),
    /// [`widening::widen`](super::widening::widen), compiled for this instruction set.
    pub(super) widen: unsafe fn(widening: Widening, from: &[u8], into: &mut [u8]),
    /// [`multiply_adds`], compiled for this instruction set.
    pub(super) multiply_adds: unsafe fn(iterations: usize) -> (f64, f32),
}

/// How a number of rows is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Method {
    pub(super) kernels: Kernels,
    pub(super) input: Input,
    pub(super) widening: Option<Widening>,
}

impl KernelSet {
    /// The fastest for weights of this type and this many rows.
    pub(super) fn method(&self, weight_type: WeightType, rows: usize) -> Method {
        let by_steps = rows >= STEP_BLOCKS * self.f32.len() && !self.f32_steps.is_empty();
        let (kernels, input, widening) = match weight_type {
            WeightType::F32 if by_steps => (self.f32_steps, Input::Floats, Some(Widening::Steps)),
            WeightType::F32 => (self.f32, Input::Floats, None),
            WeightType::Bf16 if rows <= self.bf16_rows => (self.bf16, self.bf16_input, None),
            WeightType::Bf16 if by_steps => (self.f32_steps, Input::Rounded, Some(Widening::StepsOfBf16)),
            WeightType::Bf16 => (self.f32, Input::Rounded, Some(Widening::Floats)),
            WeightType::Int8 if rows <= self.int8_rows => (self.int8, Input::Blocks, None),
            WeightType::Int8 => (self.words, Input::Words, Some(Widening::Words)),
            WeightType::Q8_0 if rows <= self.int8_rows => (self.q8_0, Input::Blocks, None),
            WeightType::Q8_0 => (self.words, Input::Words, Some(Widening::WordsOfQ8_0)),
            WeightType::Int4 if rows <= 2 * self.int4.len() => (self.int4, Input::Blocks, None),
            WeightType::Int4 => (self.int4_widened, Input::Blocks, Some(Widening::Bytes)),
        };
        Method {
            kernels,
            input,
            widening,
        }
    }
}

/// Independent sums of each column with `registers` of them for other rows and columns, so that additions need not wait for
/// each other.
pub(super) const fn sums(registers: usize) -> usize {
    8usize.div_ceil(registers)
}

/// Compiles the tiles for one instruction set and lists them by number of rows.
///
/// `few` registers of columns are taken at a time where one or two rows leave room for them, `vectors` else.
macro_rules! kernel_set {
    ($(#[$features:meta])* $vector:ty, $dot:ty, vectors: $vectors:literal, few: $few:literal,
        f32: [$($f32_rows:literal)*], bf16: $bf16_input:ident by $bf16_tile:ident up to $bf16_most:expr,
        int8: [$($int8_rows:literal)*] up to $int8_most:expr, words: $words:expr,
        int4: [$($int4_rows:literal)*] by $half_dot:ty) => {
        use crate::linear::host::activations::{self, Input};
        use crate::linear::host::bytes::byte_tile;
        use crate::linear::host::halves::half_byte_tile;
        use crate::linear::host::lanes::Lanes;
        use crate::linear::host::set::{KernelSet, multiply_adds, sums};
        use crate::linear::host::tiles::{Tile, $bf16_tile, f32_step_tile, f32_tile};
        use crate::linear::host::widening::{self, Widening};
        use crate::linear::weight_type::PANEL;

        pub(in crate::linear::host) static KERNELS: KernelSet = KernelSet {
            f32: &[$(f32_kernel::<$f32_rows>),*],
            f32_steps: match $vectors * <$vector>::LANES < PANEL {
                true => &[$(f32_step_kernel::<$f32_rows>),*],
                false => &[],
            },
            bf16: &[$(bf16_kernel::<$f32_rows>),*],
            bf16_input: Input::$bf16_input,
            bf16_rows: $bf16_most,
            int8: &[$(int8_kernel::<$int8_rows, false>),*],
            q8_0: &[$(int8_kernel::<$int8_rows, true>),*],
            int8_rows: $int8_most,
            words: $words,
            int4: &[$(int4_kernel::<$int4_rows, false>),*],
            int4_widened: &[$(int4_kernel::<$int4_rows, true>),*],
            columns: $vectors * <$vector>::LANES,
            pack,
            widen,
            multiply_adds: burst,
        };

        /// # Safety
        /// As [`Kernel`](crate::linear::host::tiles::Kernel).
        $(#[$features])*
        unsafe fn f32_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1 if tile.is_whole() => f32_tile::<$vector, ROWS, $few, { sums($few) }>(tile),
                    2 if tile.is_whole() => f32_tile::<$vector, ROWS, $few, { sums(2 * $few) }>(tile),
                    1 => f32_tile::<$vector, ROWS, $vectors, { sums($vectors) }>(tile),
                    2 | 3 => f32_tile::<$vector, ROWS, $vectors, { sums(2 * $vectors) }>(tile),
                    _ => f32_tile::<$vector, ROWS, $vectors, 1>(tile),
                }
            }
        }

        /// # Safety
        /// As [`f32_step_tile`].
        $(#[$features])*
        unsafe fn f32_step_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe { f32_step_tile::<$vector, ROWS, $vectors>(tile) }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::tiles::Kernel).
        $(#[$features])*
        unsafe fn bf16_kernel<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1 if tile.is_whole() => $bf16_tile::<$vector, ROWS, $few, 2>(tile),
                    2 if tile.is_whole() => $bf16_tile::<$vector, ROWS, $few, 1>(tile),
                    1..=3 => $bf16_tile::<$vector, ROWS, $vectors, 2>(tile),
                    _ => $bf16_tile::<$vector, ROWS, $vectors, 1>(tile),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::tiles::Kernel).
        $(#[$features])*
        unsafe fn int8_kernel<const ROWS: usize, const HALF: bool>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1 if tile.is_whole() => byte_tile::<$vector, $dot, ROWS, $few, HALF>(tile),
                    _ => byte_tile::<$vector, $dot, ROWS, $vectors, HALF>(tile),
                }
            }
        }

        /// # Safety
        /// As [`Kernel`](crate::linear::host::tiles::Kernel).
        $(#[$features])*
        unsafe fn int4_kernel<const ROWS: usize, const WIDENED: bool>(tile: &Tile) {
            // SAFETY: the caller's contract.
            unsafe {
                match ROWS {
                    1 if tile.is_whole() => half_byte_tile::<$vector, $half_dot, ROWS, $few, WIDENED>(tile),
                    _ => half_byte_tile::<$vector, $half_dot, ROWS, $vectors, WIDENED>(tile),
                }
            }
        }

        /// # Safety
        /// The processor must have the instructions.
        $(#[$features])*
        unsafe fn pack(input: Input, rows: &[&[f32]], into: &mut [u8]) {
            activations::pack(input, rows, into);
        }

        /// # Safety
        /// The processor must have the instructions.
        $(#[$features])*
        unsafe fn widen(widening: Widening, from: &[u8], into: &mut [u8]) {
            // SAFETY: the caller's contract.
            unsafe { widening::widen::<$vector, $vectors>(widening, from, into) }
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

/// Compiles the tiles of words for one instruction set: `WORDS`, by number of rows.
#[cfg(target_arch = "x86_64")]
macro_rules! word_kernels {
    ($(#[$features:meta])* $vector:ty, vectors: $vectors:literal, rows: [$($rows:literal)*]) => {
        const WORDS: $crate::linear::host::tiles::Kernels = &[$(word_kernel::<$rows>),*];

        /// # Safety
        /// As [`Kernel`](crate::linear::host::tiles::Kernel).
        $(#[$features])*
        unsafe fn word_kernel<const ROWS: usize>(tile: &$crate::linear::host::tiles::Tile) {
            // SAFETY: the caller's contract.
            unsafe { $crate::linear::host::bytes::word_tile::<$vector, ROWS, $vectors>(tile) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use word_kernels;
