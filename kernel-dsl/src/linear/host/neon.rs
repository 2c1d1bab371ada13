//! 128-bit Arm tiles: four registers of columns at a time, up to six rows.

use std::arch::aarch64::*;

use super::lanes::{ByteDot, F16_FACTOR, HalfDot};
use super::set::kernel_set;

/// Four f32 in a 128-bit register.
#[derive(Clone, Copy)]
struct Four(float32x4_t);

// SAFETY of the blocks below: NEON is part of the architecture, and pointers are valid by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Four {
    const LANES: usize = 4;
    type Int = int32x4_t;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        unsafe {
            let pairs = vreinterpretq_u32_u8(vld1q_u8(from));
            let odd = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
            (
                Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs))),
                Self(vreinterpretq_f32_u32(odd)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe {
            let halves = vreinterpret_u16_u8(vld1_u8(from));
            Self(vreinterpretq_f32_u32(vshll_n_u16::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        unsafe {
            let halves = vshlq_n_s32::<13>(vmovl_s16(vreinterpret_s16_u8(vld1_u8(from))));
            let bits = vandq_u32(vreinterpretq_u32_s32(halves), vdupq_n_u32(0x8fff_ffff));
            Self(vmulq_n_f32(vreinterpretq_f32_u32(bits), F16_FACTOR))
        }
    }

    #[inline(always)]
    unsafe fn int_splat(value: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn int_load(from: *const u8) -> int32x4_t {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: int32x4_t) -> (int32x4_t, int32x4_t) {
        unsafe {
            let bytes = vreinterpretq_u8_s32(bytes);
            (
                vreinterpretq_s32_u8(vandq_u8(bytes, vdupq_n_u8(15))),
                vreinterpretq_s32_u8(vshrq_n_u8::<4>(bytes)),
            )
        }
    }

    #[inline(always)]
    unsafe fn int_to_float(value: int32x4_t) -> Self {
        Self(unsafe { vcvtq_f32_s32(value) })
    }
}

/// Sums of byte products through 16-bit products: `|(w − 128) · x|` fits, and pairs are added in 32 bits.
struct Widening16;

impl ByteDot<Four> for Widening16 {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, unsigned: int32x4_t, signed: int32x4_t) -> int32x4_t {
        // SAFETY: the trait's contract.
        unsafe {
            let unsigned = vreinterpretq_u8_s32(unsigned);
            let signed = vreinterpretq_s8_s32(signed);
            let low = vmull_s16(
                vreinterpret_s16_u16(vget_low_u16(vmovl_u8(vget_low_u8(unsigned)))),
                vget_low_s16(vmovl_s8(vget_low_s8(signed))),
            );
            let second = vmull_s16(
                vreinterpret_s16_u16(vget_high_u16(vmovl_u8(vget_low_u8(unsigned)))),
                vget_high_s16(vmovl_s8(vget_low_s8(signed))),
            );
            let third = vmull_s16(
                vreinterpret_s16_u16(vget_low_u16(vmovl_u8(vget_high_u8(unsigned)))),
                vget_low_s16(vmovl_s8(vget_high_s8(signed))),
            );
            let high = vmull_s16(
                vreinterpret_s16_u16(vget_high_u16(vmovl_u8(vget_high_u8(unsigned)))),
                vget_high_s16(vmovl_s8(vget_high_s8(signed))),
            );
            vaddq_s32(sum, vpaddq_s32(vpaddq_s32(low, second), vpaddq_s32(third, high)))
        }
    }
}

impl HalfDot<Four> for Widening16 {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, unsigned: int32x4_t, signed: int32x4_t) -> int32x4_t {
        // SAFETY: the trait's contract.
        unsafe { <Self as ByteDot<Four>>::dot(sum, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn total(sum: int32x4_t, offset: i32) -> int32x4_t {
        // SAFETY: the trait's contract.
        unsafe { vaddq_s32(sum, vdupq_n_s32(offset)) }
    }
}

kernel_set!(Four, Widening16, vectors: 4, few: 4, f32: [1 2 3 4 5 6],
        bf16: Rounded by bf16_tile up to usize::MAX, int8: [1 2 3] up to usize::MAX, words: &[], int4: [1 2 3] by Widening16);
