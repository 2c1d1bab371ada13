//! 256-bit tiles: two registers of columns at a time, up to six rows.

use std::arch::x86_64::*;

use super::lanes::{ByteDot, F16_FACTOR, HalfDot, Lanes, WordDot};

/// Eight f32 in a 256-bit register.
#[derive(Clone, Copy)]
struct Eight(__m256);

// SAFETY of the blocks below: AVX2 and FMA are there, and pointers are valid, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Eight {
    const LANES: usize = 8;
    type Int = __m256i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))),
                Self(_mm256_castsi256_ps(odd)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        unsafe {
            let halves = _mm256_cvtepi16_epi32(_mm_loadu_si128(from.cast()));
            let bits = _mm256_and_si256(
                _mm256_slli_epi32::<13>(halves),
                _mm256_set1_epi32(0x8fff_ffff_u32 as i32),
            );
            Self(_mm256_mul_ps(
                _mm256_castsi256_ps(bits),
                _mm256_set1_ps(F16_FACTOR),
            ))
        }
    }

    #[inline(always)]
    unsafe fn int_splat(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn int_load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: __m256i) -> (__m256i, __m256i) {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            (
                _mm256_and_si256(bytes, mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
            )
        }
    }

    #[inline(always)]
    unsafe fn int_to_float(value: __m256i) -> Self {
        Self(unsafe { _mm256_cvtepi32_ps(value) })
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

impl WordDot for Eight {
    #[inline(always)]
    unsafe fn word_dot(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }
}

/// Sums of byte products by the VNNI instruction.
struct Vnni;

impl ByteDot<Eight> for Vnni {
    #[inline(always)]
    unsafe fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_dpbusd_avx_epi32(sum, unsigned, signed) }
    }
}

/// Sums of byte products through 16-bit products, exact because two of them fit an i32.
struct Widening16;

impl ByteDot<Eight> for Widening16 {
    #[inline(always)]
    unsafe fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe {
            let even = _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(unsigned);
            let signed_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed));
            let signed_odd = _mm256_srai_epi16::<8>(signed);
            let even = _mm256_madd_epi16(even, signed_even);
            _mm256_add_epi32(sum, _mm256_add_epi32(even, _mm256_madd_epi16(odd, signed_odd)))
        }
    }
}

impl HalfDot<Eight> for Vnni {
    #[inline(always)]
    unsafe fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { <Self as ByteDot<Eight>>::dot(sum, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn total(sum: __m256i, offset: i32) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_add_epi32(sum, _mm256_set1_epi32(offset)) }
    }
}

/// Sums in 16 bits of pairs of products, of which a block has eight: `8 · 2 · 15 · 127` fits, so that nothing saturates.
struct Sums16;

impl HalfDot<Eight> for Sums16 {
    #[inline(always)]
    unsafe fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(unsigned, signed)) }
    }

    #[inline(always)]
    unsafe fn total(sum: __m256i, offset: i32) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe {
            let pairs = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
            _mm256_add_epi32(pairs, _mm256_set1_epi32(offset))
        }
    }
}

/// AVX2 without the byte dot product.
pub(super) mod plain {
    use super::{Eight, Sums16, Widening16};
    super::super::set::word_kernels!(
        #[target_feature(enable = "avx2,fma")]
        Eight, vectors: 2, rows: [1 2 3 4]
    );
    super::super::set::kernel_set!(
        #[target_feature(enable = "avx2,fma")]
        Eight, Widening16, vectors: 2, few: 4, f32: [1 2 3 4 5 6],
        bf16: Rounded by bf16_tile up to 96, int8: [1 2] up to 2, words: WORDS, int4: [1 2 3 4] by Sums16
    );
}

/// AVX2 with the byte dot product.
pub(super) mod vnni {
    use super::{Eight, Vnni};
    super::super::set::kernel_set!(
        #[target_feature(enable = "avx2,fma,avxvnni")]
        Eight, Vnni, vectors: 2, few: 4, f32: [1 2 3 4 5 6],
        bf16: Rounded by bf16_tile up to 96, int8: [1 2 3] up to usize::MAX, words: &[], int4: [1 2 3] by Vnni
    );
}
