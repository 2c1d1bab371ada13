//! Panels widened, or laid out anew, to what the many-row tiles multiply, a segment at a time for all row blocks.
//!
//! | widening | from a unit of | to |
//! |---|---|---|
//! | [`Widening::Steps`] | f32, `[PANEL]` | `[columns]` f32 for each step of columns |
//! | [`Widening::StepsOfBf16`] | bf16, `[PANEL][2]` | `[2][columns]` f32 for each step of columns |
//! | [`Widening::Floats`] | bf16, `[PANEL][2]` | two f32 units, `[2][PANEL]` f32 |
//! | [`Widening::Words`] | int8, `[8][PANEL][4]` bytes and `[PANEL]` bf16 scales | `[8][2][PANEL][2]` i16, then `[PANEL]` f32 scales |
//! | [`Widening::WordsOfQ8_0`] | q8_0, the same with f16 scales | the same |
//! | [`Widening::Bytes`] | int4, `[4][PANEL][4]` bytes of two, and `[PANEL]` f16 scales | `[8][PANEL][4]` bytes, then the same scales |
//!
//! All units of a step of columns lie together, before those of the next step.
//!
//! Of four features in a row, words pair the first with the third and the second with the fourth, which is how they lie
//! after masking; inputs are packed alike.

use super::lanes::Lanes;
use crate::linear::WeightType;
use crate::linear::weight_type::{BLOCK, BLOCK_BYTES, HALF_BYTES, PANEL};

/// What a panel is widened to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Widening {
    Steps,
    StepsOfBf16,
    Floats,
    Words,
    WordsOfQ8_0,
    Bytes,
}

impl Widening {
    /// Type of the weights that are widened.
    const fn weight_type(self) -> WeightType {
        match self {
            Self::Steps => WeightType::F32,
            Self::Floats | Self::StepsOfBf16 => WeightType::Bf16,
            Self::Words => WeightType::Int8,
            Self::WordsOfQ8_0 => WeightType::Q8_0,
            Self::Bytes => WeightType::Int4,
        }
    }

    /// Bytes of a unit after widening.
    pub(super) const fn unit_bytes(self) -> usize {
        match self {
            Self::Steps => 4 * PANEL,
            Self::Floats | Self::StepsOfBf16 => 8 * PANEL,
            Self::Words | Self::WordsOfQ8_0 => 2 * BLOCK * PANEL + 4 * PANEL,
            Self::Bytes => BLOCK_BYTES + 2 * PANEL,
        }
    }

    /// Units of the tile in a unit of the weight type.
    pub(super) const fn units(self) -> usize {
        match self {
            Self::Floats | Self::StepsOfBf16 => 2,
            Self::Steps | Self::Words | Self::WordsOfQ8_0 | Self::Bytes => 1,
        }
    }

    /// Whether each step of columns lies by itself.
    pub(super) const fn by_steps(self) -> bool {
        matches!(self, Self::Steps | Self::StepsOfBf16)
    }
}

/// Widens whole units, for steps of `VECTORS` registers; both slices are aligned to 4. Inlined, so that it is compiled for each
/// instruction set.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn widen<V: Lanes, const VECTORS: usize>(widening: Widening, from: &[u8], into: &mut [u8]) {
    if widening.by_steps() {
        // SAFETY: the caller's contract.
        return unsafe { steps::<V, VECTORS>(widening, from, bytemuck::cast_slice_mut(into)) };
    }
    let units = from.chunks_exact(widening.weight_type().unit_bytes());
    for (from, into) in units.zip(into.chunks_exact_mut(widening.unit_bytes())) {
        match widening {
            // SAFETY: the caller's contract.
            Widening::Floats => unsafe { floats::<V>(from, into) },
            // SAFETY: the caller's contract.
            Widening::Words => unsafe { words::<V, false>(from, into) },
            // SAFETY: the caller's contract.
            Widening::WordsOfQ8_0 => unsafe { words::<V, true>(from, into) },
            Widening::Bytes => bytes(from, into),
            Widening::Steps | Widening::StepsOfBf16 => unreachable!("all their units are laid out at once"),
        }
    }
}

/// Lays out all units for each step of `VECTORS` registers of columns.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn steps<V: Lanes, const VECTORS: usize>(widening: Widening, from: &[u8], into: &mut [f32]) {
    let columns = VECTORS * V::LANES;
    let units = into.len() / PANEL;
    let unit_bytes = widening.weight_type().unit_bytes();
    for (index, unit) in from.chunks_exact(unit_bytes).enumerate() {
        for (register, bytes) in unit.chunks_exact(unit_bytes / PANEL * V::LANES).enumerate() {
            let (step, within) = (register / VECTORS, register % VECTORS * V::LANES);
            let into = &mut into[(step * units + index * widening.units()) * columns + within..];
            // SAFETY: the caller's contract; `bytes` are of a register's length, and every slice is written within.
            unsafe {
                match widening {
                    Widening::Steps => V::load(bytes.as_ptr().cast()).store(into[..V::LANES].as_mut_ptr()),
                    _ => {
                        let (first, second) = V::load_bf16_pairs(bytes.as_ptr());
                        first.store(into[..V::LANES].as_mut_ptr());
                        second.store(into[columns..][..V::LANES].as_mut_ptr());
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn floats<V: Lanes>(from: &[u8], into: &mut [u8]) {
    let (even, odd) = bytemuck::cast_slice_mut::<u8, f32>(into).split_at_mut(PANEL);
    let registers = from.chunks_exact(4 * V::LANES);
    for ((from, even), odd) in registers
        .zip(even.chunks_exact_mut(V::LANES))
        .zip(odd.chunks_exact_mut(V::LANES))
    {
        // SAFETY: the caller's contract; the chunks are of a register's length.
        unsafe {
            let (first, second) = V::load_bf16_pairs(from.as_ptr());
            first.store(even.as_mut_ptr());
            second.store(odd.as_mut_ptr());
        }
    }
}

/// With scales of f16 where `HALF` says so, of bf16 else.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn words<V: Lanes, const HALF: bool>(from: &[u8], into: &mut [u8]) {
    let (bytes, from_scales) = from.split_at(BLOCK_BYTES);
    let (words, scales) = into.split_at_mut(2 * BLOCK_BYTES);
    let fours = bytemuck::cast_slice::<u8, u32>(bytes).as_chunks::<PANEL>().0;
    let words = bytemuck::cast_slice_mut::<u8, u32>(words)
        .as_chunks_mut::<PANEL>()
        .0;
    for (fours, [even, odd]) in fours.iter().zip(words.as_chunks_mut::<2>().0) {
        for ((&four, even), odd) in fours.iter().zip(even).zip(odd) {
            (*even, *odd) = (signed(four & 0x00ff_00ff), signed((four >> 8) & 0x00ff_00ff));
        }
    }
    let scales: &mut [f32] = bytemuck::cast_slice_mut(scales);
    for (from, scales) in from_scales
        .chunks_exact(2 * V::LANES)
        .zip(scales.chunks_exact_mut(V::LANES))
    {
        // SAFETY: the caller's contract; the chunks are of a register's length.
        unsafe {
            let widened = match HALF {
                true => V::load_f16(from.as_ptr()),
                false => V::load_bf16(from.as_ptr()),
            };
            widened.store(scales.as_mut_ptr());
        }
    }
}

#[inline(always)]
fn bytes(from: &[u8], into: &mut [u8]) {
    let (halves, from_scales) = from.split_at(HALF_BYTES);
    let (bytes, scales) = into.split_at_mut(BLOCK_BYTES);
    scales.copy_from_slice(from_scales);
    let steps = halves.as_chunks::<{ 4 * PANEL }>().0;
    let bytes = bytes.as_chunks_mut::<{ 4 * PANEL }>().0;
    for (halves, [low, high]) in steps.iter().zip(bytes.as_chunks_mut::<2>().0) {
        for ((&both, low), high) in halves.iter().zip(low).zip(high) {
            (*low, *high) = (both & 15, both >> 4);
        }
    }
}

/// Takes the offset of 128 off both 16-bit halves; the upper bit keeps each from borrowing.
#[inline(always)]
fn signed(offset: u32) -> u32 {
    ((offset | 0x8000_8000) - 0x0080_0080) ^ 0x8000_8000
}
