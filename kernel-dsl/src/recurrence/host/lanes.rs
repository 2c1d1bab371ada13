//! Loads and stores of whole or partial SIMD vectors.

use pulp::Simd;

use crate::simd::mul_add;

/// Vector `index` of `values`; with `PARTIAL`, all of `values` with zeros behind.
#[inline(always)]
pub(crate) fn load<S: Simd, const PARTIAL: bool>(simd: S, values: &[f32], index: usize) -> S::f32s {
    if PARTIAL {
        simd.partial_load_f32s(values)
    } else {
        S::as_simd_f32s(values).0[index]
    }
}

/// The inverse of [`load`].
#[inline(always)]
pub(crate) fn store<S: Simd, const PARTIAL: bool>(simd: S, values: &mut [f32], index: usize, x: S::f32s) {
    if PARTIAL {
        simd.partial_store_f32s(values, x)
    } else {
        S::as_mut_simd_f32s(values).0[index] = x
    }
}

/// Σ aᵢ bᵢ, in the same order for every call of the same length.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = mul_add(simd, *a, *b, sum);
    }
    if !a_tail.is_empty() {
        sum = mul_add(
            simd,
            simd.partial_load_f32s(a_tail),
            simd.partial_load_f32s(b_tail),
            sum,
        );
    }
    simd.reduce_sum_f32s(sum)
}

/// Σ aᵢ bᵢ cᵢ, in the same order for every call of the same length.
#[inline(always)]
pub(crate) fn dot_of_three<S: Simd>(simd: S, a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let (c, c_tail) = S::as_simd_f32s(c);
    let mut sum = simd.splat_f32s(0.0);
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        sum = mul_add(simd, simd.mul_f32s(*a, *b), *c, sum);
    }
    if !a_tail.is_empty() {
        let ab = simd.mul_f32s(simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
        sum = mul_add(simd, ab, simd.partial_load_f32s(c_tail), sum);
    }
    simd.reduce_sum_f32s(sum)
}
