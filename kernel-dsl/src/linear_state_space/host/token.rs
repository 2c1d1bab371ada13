//! One token of one channel: the update of a state and what is read from it.
//!
//! States lie as pairs (re, im), so that none is moved on its way from and to memory. Ā − 1 lies as two rows, its real parts twice
//! each and its imaginary parts with both signs: (Ā − 1) x is then one product with x and one with x whose pairs are swapped.

use pulp::Simd;

use crate::simd::mul_add;
use crate::vector::{add_scaled, dot};

/// Ā − 1 and B̄ of the modes of a channel, as products with states take them.
#[derive(Clone, Copy)]
pub(super) struct Modes<'a> {
    /// Re(Ā − 1) twice.
    pub re: &'a [f32],
    /// −Im Ā, Im Ā.
    pub im: &'a [f32],
    /// B̄ of every mode, as pairs (re, im).
    pub input: &'a [f32],
}

/// What a low rank feeds back: rows of [2 Re E, −2 Im E] and of F, each as long as a row of [`Modes`].
#[derive(Clone, Copy)]
pub(super) struct Feedback<'a> {
    pub read: &'a [f32],
    pub write: &'a [f32],
}

/// Pairs with their values exchanged.
#[inline(always)]
pub(super) fn swapped<S: Simd>(simd: S, pairs: S::f32s) -> S::f32s {
    bytemuck::cast(simd.swap_re_im_c32s(bytemuck::cast(pairs)))
}

/// x ← Ā x − F s + B̄ u with s = E·x, which is left in `s`; gives `c`·x after it, where that is wanted. The values of `x` fill whole
/// vectors.
#[inline(always)]
pub(super) fn advance<S: Simd, const READ: bool>(
    simd: S,
    (modes, feedback): (&Modes, &Feedback),
    u: f32,
    (x, s): (&mut [f32], &mut [f32]),
    c: &[f32],
) -> f32 {
    let width = modes.input.len();
    for (s, read) in s.iter_mut().zip(feedback.read.chunks_exact(width.max(1))) {
        *s = dot(simd, read, x);
    }
    let input = simd.splat_f32s(u);
    let mut sum = simd.splat_f32s(0.0);
    let vectors = S::as_mut_simd_f32s(x).0;
    let count = vectors.len();
    let of = |values| &S::as_simd_f32s(values).0[..count];
    let (re, im, b) = (of(modes.re), of(modes.im), of(modes.input));
    let c = if READ { of(c) } else { &[] };
    for v in 0..count {
        let before = vectors[v];
        let fed = mul_add(simd, b[v], input, before);
        let turned = mul_add(simd, im[v], swapped(simd, before), fed);
        let after = mul_add(simd, re[v], before, turned);
        vectors[v] = after;
        if READ && s.is_empty() {
            sum = mul_add(simd, c[v], after, sum);
        }
    }
    if s.is_empty() {
        return simd.reduce_sum_f32s(sum);
    }
    for (s, write) in s.iter().zip(feedback.write.chunks_exact(width.max(1))) {
        add_scaled(simd, -s, write, x);
    }
    if READ {
        dot(simd, bytemuck::cast_slice(c), x)
    } else {
        0.0
    }
}
