//! The tiles in plain Rust; the compiler maps four lanes to whatever vectors the target guarantees.

use super::lanes::{ByteDot, F16_FACTOR, HalfDot};
use super::set::kernel_set;

/// `expression` for each of four lanes `i`. Not `std::array::from_fn`, whose closure is a call per lane where it is not inlined.
macro_rules! four {
    ($i:ident => $expression:expr) => {
        [
            {
                const $i: usize = 0;
                $expression
            },
            {
                const $i: usize = 1;
                $expression
            },
            {
                const $i: usize = 2;
                $expression
            },
            {
                const $i: usize = 3;
                $expression
            },
        ]
    };
}

/// Four f32 in an array, which the compiler keeps in vectors where it can.
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
        Self(four!(I => self.0[I] + other.0[I]))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(four!(I => self.0[I] * other.0[I]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Self(four!(I => self.0[I] + a.0[I] * b.0[I]))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the trait's contract.
        let pairs = unsafe { from.cast::<[[u16; 2]; 4]>().read_unaligned() };
        (
            Self(four!(I => f32::from_bits(u32::from(pairs[I][0]) << 16))),
            Self(four!(I => f32::from_bits(u32::from(pairs[I][1]) << 16))),
        )
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the trait's contract.
        let halves = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(four!(I => f32::from_bits(u32::from(halves[I]) << 16)))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the trait's contract.
        let halves = unsafe { from.cast::<[i16; 4]>().read_unaligned() };
        let bits = four!(I => (i32::from(halves[I]) << 13).cast_unsigned() & 0x8fff_ffff);
        Self(four!(I => f32::from_bits(bits[I]) * F16_FACTOR))
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
    unsafe fn halves(bytes: [i32; 4]) -> ([i32; 4], [i32; 4]) {
        (
            four!(I => bytes[I] & 0x0f0f_0f0f),
            four!(I => (bytes[I] >> 4) & 0x0f0f_0f0f),
        )
    }

    #[inline(always)]
    unsafe fn int_to_float(value: [i32; 4]) -> Self {
        Self(four!(I => value[I] as f32))
    }
}

impl ByteDot<Four> for Plain {
    #[inline(always)]
    unsafe fn dot(sum: [i32; 4], unsigned: [i32; 4], signed: [i32; 4]) -> [i32; 4] {
        four!(I => {
            let s = signed[I].to_ne_bytes();
            let u = unsigned[I].to_ne_bytes();
            sum[I]
                + i32::from(s[0] as i8) * i32::from(u[0])
                + i32::from(s[1] as i8) * i32::from(u[1])
                + i32::from(s[2] as i8) * i32::from(u[2])
                + i32::from(s[3] as i8) * i32::from(u[3])
        })
    }
}

impl HalfDot<Four> for Plain {
    #[inline(always)]
    unsafe fn dot(sum: [i32; 4], unsigned: [i32; 4], signed: [i32; 4]) -> [i32; 4] {
        // SAFETY: the trait's contract.
        unsafe { <Self as ByteDot<Four>>::dot(sum, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn total(sum: [i32; 4], offset: i32) -> [i32; 4] {
        four!(I => sum[I] + offset)
    }
}

kernel_set!(Four, Plain, vectors: 2, few: 2, f32: [1 2 3 4],
        bf16: Rounded by bf16_tile up to usize::MAX, int8: [1 2] up to usize::MAX, words: &[], int4: [1] by Plain);
