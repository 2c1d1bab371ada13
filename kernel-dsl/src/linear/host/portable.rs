//! The tiles in plain Rust; the compiler maps four lanes to whatever vectors the target guarantees.

use super::lanes::ByteDot;
use super::set::kernel_set;

/// Four lanes.
#[derive(Clone, Copy)]
struct Four([f32; 4]);

/// The byte dot product in plain integers.
struct Plain;

// Every function is safe but for the pointers it is given.
impl Lanes for Four {
    const LANES: usize = 4;
    type Int = [i32; 4];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's contract.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the trait's contract.
        let pairs = unsafe { from.cast::<[[u16; 2]; 4]>().read_unaligned() };
        let widen = |half: usize| Self(pairs.map(|pair| f32::from_bits(u32::from(pair[half]) << 16)));
        (widen(0), widen(1))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the trait's contract.
        let halves = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(halves.map(|half| f32::from_bits(u32::from(half) << 16)))
    }

    #[inline(always)]
    unsafe fn int_splat(value: i32) -> [i32; 4] {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn int_load(from: *const u8) -> [i32; 4] {
        // SAFETY: the trait's contract.
        unsafe { from.cast::<[i32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn int_to_float(value: [i32; 4]) -> Self {
        Self(value.map(|v| v as f32))
    }
}

impl ByteDot<Four> for Plain {
    #[inline(always)]
    unsafe fn dot(sum: [i32; 4], unsigned: [i32; 4], signed: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| {
            let signed = signed[i].to_ne_bytes();
            let unsigned = unsigned[i].to_ne_bytes();
            (0..4).fold(sum[i], |sum, j| {
                sum + i32::from(signed[j] as i8) * i32::from(unsigned[j])
            })
        })
    }
}

kernel_set!(Four, Plain, vectors: 2, few: 2, f32: [1 2 3 4],
        bf16: Rounded by bf16_tile up to usize::MAX, int8: [1 2] up to usize::MAX, words: &[]);
