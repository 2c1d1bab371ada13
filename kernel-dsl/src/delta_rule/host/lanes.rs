//! Arithmetic on `N` SIMD vectors at a time, and on slices inside of a SIMD dispatch.
//!
//! All of it is functions that are always inlined rather than closures: a closure that the compiler leaves outside of the
//! dispatch is compiled without vector instructions.

use pulp::Simd;

use crate::recurrence::host::lanes;
use crate::simd::{mul_add, mul_add_one};

/// `N` vectors from `values`; with `PARTIAL`, part of one with zeros behind.
#[inline(always)]
pub(super) fn load<S: Simd, const N: usize, const PARTIAL: bool>(simd: S, values: &[f32]) -> [S::f32s; N] {
    let mut x = [simd.splat_f32s(0.0); N];
    for (c, x) in x.iter_mut().enumerate() {
        *x = lanes::load::<S, PARTIAL>(simd, values, c);
    }
    x
}

/// The inverse of [`load`].
#[inline(always)]
pub(super) fn store<S: Simd, const N: usize, const PARTIAL: bool>(
    simd: S,
    values: &mut [f32],
    x: [S::f32s; N],
) {
    for (c, x) in x.into_iter().enumerate() {
        lanes::store::<S, PARTIAL>(simd, values, c, x);
    }
}

/// `N` vectors with x in every lane.
#[inline(always)]
pub(super) fn splat<S: Simd, const N: usize>(simd: S, x: f32) -> [S::f32s; N] {
    [simd.splat_f32s(x); N]
}

/// a∘b.
#[inline(always)]
pub(super) fn mul<S: Simd, const N: usize>(simd: S, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
    let mut product = a;
    for (a, b) in product.iter_mut().zip(b) {
        *a = simd.mul_f32s(*a, b);
    }
    product
}

/// a + b.
#[inline(always)]
pub(super) fn add<S: Simd, const N: usize>(simd: S, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
    let mut sum = a;
    for (a, b) in sum.iter_mut().zip(b) {
        *a = simd.add_f32s(*a, b);
    }
    sum
}

/// a − b.
#[inline(always)]
pub(super) fn sub<S: Simd, const N: usize>(simd: S, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
    let mut difference = a;
    for (a, b) in difference.iter_mut().zip(b) {
        *a = simd.sub_f32s(*a, b);
    }
    difference
}

/// a∘b + c.
#[inline(always)]
pub(super) fn fma<S: Simd, const N: usize>(
    simd: S,
    a: [S::f32s; N],
    b: [S::f32s; N],
    c: [S::f32s; N],
) -> [S::f32s; N] {
    let mut sum = c;
    for ((a, b), c) in a.into_iter().zip(b).zip(&mut sum) {
        *c = mul_add(simd, a, b, *c);
    }
    sum
}

/// Σ a∘b over all lanes.
#[inline(always)]
pub(super) fn dot_lanes<S: Simd, const N: usize>(simd: S, a: [S::f32s; N], b: [S::f32s; N]) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.into_iter().zip(b) {
        sum = mul_add(simd, a, b, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// Σ aᵢ bᵢ, in the same order for every call of the same length.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let mut sums = [simd.splat_f32s(0.0); 2];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        sums[i % 2] = mul_add(simd, *a, *b, sums[i % 2]);
    }
    if !a_tail.is_empty() {
        let tails = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
        sums[0] = mul_add(simd, tails.0, tails.1, sums[0]);
    }
    simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]))
}

/// y ← factor·x.
#[inline(always)]
pub(super) fn scale(y: &mut [f32], factor: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = factor * x;
    }
}

/// y ← y + factor·x.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, y: &mut [f32], factor: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = mul_add_one(simd, *x, factor, *y);
    }
}

/// z ← z + x∘y.
#[inline(always)]
pub(super) fn add_product<S: Simd>(simd: S, z: &mut [f32], x: &[f32], y: &[f32]) {
    for (z, (x, y)) in z.iter_mut().zip(x.iter().zip(y)) {
        *z = mul_add_one(simd, *x, *y, *z);
    }
}
