//! 512-bit tiles: two registers of columns, up to fourteen rows.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::sync::OnceLock;

use super::lanes::{ByteDot, HalfDot, Lanes, PairDot, WordDot};
use super::set::KernelSet;

/// Sixteen f32 in a 512-bit register.
#[derive(Clone, Copy)]
struct Sixteen(__m512);

// SAFETY of the blocks below: AVX-512 F is there, and pointers are valid, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Sixteen {
    const LANES: usize = 16;
    type Int = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))),
                Self(_mm512_castsi512_ps(odd)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn int_splat(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn int_load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: __m512i) -> (__m512i, __m512i) {
        unsafe {
            let mask = _mm512_set1_epi32(0x0f0f_0f0f);
            (
                _mm512_and_si512(bytes, mask),
                _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask),
            )
        }
    }

    #[inline(always)]
    unsafe fn int_to_float(value: __m512i) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(value) })
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

impl PairDot for Sixteen {
    #[inline(always)]
    unsafe fn pair_dot(self, a: __m512i, b: __m512i) -> Self {
        // SAFETY: the trait's contract; both types are 512 bits without any meaning of their own.
        unsafe {
            let (a, b) = (
                transmute::<__m512i, __m512bh>(a),
                transmute::<__m512i, __m512bh>(b),
            );
            Self(_mm512_dpbf16_ps(self.0, a, b))
        }
    }
}

impl WordDot for Sixteen {
    #[inline(always)]
    unsafe fn word_dot(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)) }
    }
}

/// Sums of byte products by the VNNI instruction.
struct Vnni;

impl ByteDot<Sixteen> for Vnni {
    #[inline(always)]
    unsafe fn dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_dpbusd_epi32(sum, unsigned, signed) }
    }
}

/// Sums of byte products through 16-bit products, exact because two of them fit an i32.
struct Widening16;

impl ByteDot<Sixteen> for Widening16 {
    #[inline(always)]
    unsafe fn dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe {
            let even = _mm512_and_si512(unsigned, _mm512_set1_epi16(0xff));
            let odd = _mm512_srli_epi16::<8>(unsigned);
            let signed_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed));
            let signed_odd = _mm512_srai_epi16::<8>(signed);
            let even = _mm512_madd_epi16(even, signed_even);
            _mm512_add_epi32(sum, _mm512_add_epi32(even, _mm512_madd_epi16(odd, signed_odd)))
        }
    }
}

impl HalfDot<Sixteen> for Vnni {
    #[inline(always)]
    unsafe fn dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { <Self as ByteDot<Sixteen>>::dot(sum, unsigned, signed) }
    }

    #[inline(always)]
    unsafe fn total(sum: __m512i, offset: i32) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_epi32(sum, _mm512_set1_epi32(offset)) }
    }
}

/// Sums in 16 bits of pairs of products, of which a block has eight: `8 · 2 · 15 · 127` fits, so that nothing saturates.
struct Sums16;

impl HalfDot<Sixteen> for Sums16 {
    #[inline(always)]
    unsafe fn dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_epi16(sum, _mm512_maddubs_epi16(unsigned, signed)) }
    }

    #[inline(always)]
    unsafe fn total(sum: __m512i, offset: i32) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe {
            let pairs = _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
            _mm512_add_epi32(pairs, _mm512_set1_epi32(offset))
        }
    }
}

/// AVX-512 without the byte dot product.
pub(super) mod plain {
    use super::{Sixteen, Sums16, Widening16};
    super::super::set::word_kernels!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        Sixteen, vectors: 2, rows: [1 2 3 4 5 6 7 8]
    );
    super::super::set::kernel_set!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        Sixteen, Widening16, vectors: 2, few: 2, f32: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        bf16: Rounded by bf16_tile up to usize::MAX, int8: [1 2 3 4] up to 8, words: WORDS, int4: [1 2 3 4 5 6] by Sums16
    );
}

/// AVX-512 with the byte dot product.
pub(super) mod vnni {
    use super::{Sixteen, Vnni};
    super::super::set::kernel_set!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        Sixteen, Vnni, vectors: 2, few: 2, f32: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        bf16: Rounded by bf16_tile up to usize::MAX, int8: [1 2 3 4 5 6] up to usize::MAX, words: &[],
        int4: [1 2 3 4 5 6] by Vnni
    );
}

/// AVX-512 with the dot products of bytes and of bf16, where the latter is slow: for so few rows that memory is waited for.
pub(super) mod bf16 {
    use super::{Sixteen, Vnni};
    super::super::set::kernel_set!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
        Sixteen, Vnni, vectors: 2, few: 2, f32: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        bf16: Pairs by bf16_pair_tile up to 4, int8: [1 2 3 4 5 6] up to usize::MAX, words: &[],
        int4: [1 2 3 4 5 6] by Vnni
    );
}

/// The kernels of `bf16` where its dot product is as fast as a multiply-add: by pairs for any number of rows.
pub(super) static PAIRS_FIRST: KernelSet = KernelSet {
    bf16_rows: usize::MAX,
    ..bf16::KERNELS
};

/// The faster of `bf16::KERNELS` and [`PAIRS_FIRST`] on this processor.
///
/// AMD's processors (Zen 4 and 5) start as many products of pairs in a cycle as multiply-adds, each of twice the work. Intel's
/// (Sapphire Rapids: `cargo bench kernels`) start one in two cycles where they start four multiply-adds.
pub(super) fn with_bf16() -> &'static KernelSet {
    static CHOICE: OnceLock<&KernelSet> = OnceLock::new();
    CHOICE.get_or_init(|| {
        let maker = __cpuid(0);
        let amd = [maker.ebx, maker.edx, maker.ecx]
            == [b"Auth", b"enti", b"cAMD"].map(|part| u32::from_le_bytes(*part));
        if amd { &PAIRS_FIRST } else { &bf16::KERNELS }
    })
}
