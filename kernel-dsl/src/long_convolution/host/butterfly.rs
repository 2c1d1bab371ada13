//! Levels of a transform: two of radix 2 on four points, and twice that on sixteen, with the factors between them.

use pulp::Simd;

use crate::simd::mul_add;

/// A complex number in every lane.
pub(super) type Point<S> = [<S as Simd>::f32s; 2];

/// A complex number for all lanes.
pub(super) type Factor = [f32; 2];

/// Points at a stride of a sixteenth of a block, which two levels of radix 4 combine.
pub(super) type Sixteen<S> = [Point<S>; 16];

/// The points of a block at column j.
#[inline(always)]
pub(super) fn take<S: Simd>(block: &[Point<S>], j: usize) -> Sixteen<S> {
    let stride = block.len() / 16;
    let mut points = [block[j]; 16];
    for (i, point) in points.iter_mut().enumerate().skip(1) {
        *point = block[i * stride + j];
    }
    points
}

/// The inverse of [`take`].
#[inline(always)]
pub(super) fn put<S: Simd>(block: &mut [Point<S>], j: usize, points: Sixteen<S>) {
    let stride = block.len() / 16;
    for (i, point) in points.into_iter().enumerate() {
        block[i * stride + j] = point;
    }
}

/// Two levels of decimation in frequency at column j, with their factors.
#[inline(always)]
pub(super) fn two_down<S: Simd>(
    simd: S,
    x: &Sixteen<S>,
    (first, second): (&[[Factor; 3]], &[[Factor; 3]]),
    j: usize,
) -> Sixteen<S> {
    let stride = second.len();
    let a = down_four(simd, [x[0], x[4], x[8], x[12]], &first[j]);
    let b = down_four(simd, [x[1], x[5], x[9], x[13]], &first[stride + j]);
    let c = down_four(simd, [x[2], x[6], x[10], x[14]], &first[2 * stride + j]);
    let d = down_four(simd, [x[3], x[7], x[11], x[15]], &first[3 * stride + j]);
    let factors = &second[j];
    let [x0, x1, x2, x3] = down_four(simd, [a[0], b[0], c[0], d[0]], factors);
    let [x4, x5, x6, x7] = down_four(simd, [a[1], b[1], c[1], d[1]], factors);
    let [x8, x9, x10, x11] = down_four(simd, [a[2], b[2], c[2], d[2]], factors);
    let [x12, x13, x14, x15] = down_four(simd, [a[3], b[3], c[3], d[3]], factors);
    [
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15,
    ]
}

/// Undoes [`two_down`], but for a factor 16.
#[inline(always)]
pub(super) fn two_up<S: Simd>(
    simd: S,
    x: &Sixteen<S>,
    (first, second): (&[[Factor; 3]], &[[Factor; 3]]),
    j: usize,
) -> Sixteen<S> {
    let (stride, factors) = (second.len(), &second[j]);
    let a = up_four(simd, [x[0], x[1], x[2], x[3]], factors);
    let b = up_four(simd, [x[4], x[5], x[6], x[7]], factors);
    let c = up_four(simd, [x[8], x[9], x[10], x[11]], factors);
    let d = up_four(simd, [x[12], x[13], x[14], x[15]], factors);
    let [x0, x4, x8, x12] = up_four(simd, [a[0], b[0], c[0], d[0]], &first[j]);
    let [x1, x5, x9, x13] = up_four(simd, [a[1], b[1], c[1], d[1]], &first[stride + j]);
    let [x2, x6, x10, x14] = up_four(simd, [a[2], b[2], c[2], d[2]], &first[2 * stride + j]);
    let [x3, x7, x11, x15] = up_four(simd, [a[3], b[3], c[3], d[3]], &first[3 * stride + j]);
    [
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15,
    ]
}

/// The quarters of a block.
#[inline(always)]
fn quarters<T>(block: &mut [T]) -> [&mut [T]; 4] {
    let (low, high) = block.split_at_mut(block.len() / 2);
    let (a, b) = low.split_at_mut(low.len() / 2);
    let (c, d) = high.split_at_mut(high.len() / 2);
    [a, b, c, d]
}

/// Two levels of radix 2 of decimation in frequency, over all columns of a block.
#[inline(always)]
pub(super) fn down<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
    let [a, b, c, d] = quarters(block);
    for ((((a, b), c), d), factors) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        [*a, *b, *c, *d] = down_four(simd, [*a, *b, *c, *d], factors);
    }
}

/// Undoes [`down`], but for a factor 4.
#[inline(always)]
pub(super) fn up<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
    let [a, b, c, d] = quarters(block);
    for ((((a, b), c), d), factors) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        [*a, *b, *c, *d] = up_four(simd, [*a, *b, *c, *d], factors);
    }
}

/// One column of [`down`].
#[inline(always)]
fn down_four<S: Simd>(simd: S, points: [Point<S>; 4], &[w1, w2, w3]: &[Factor; 3]) -> [Point<S>; 4] {
    let [p, q, r, s] = butterfly(simd, points);
    [p, times(simd, q, w2), times(simd, r, w1), times(simd, s, w3)]
}

/// One column of [`up`].
#[inline(always)]
fn up_four<S: Simd>(simd: S, [p, q, r, s]: [Point<S>; 4], &[w1, w2, w3]: &[Factor; 3]) -> [Point<S>; 4] {
    let q = times_conjugate(simd, q, w2);
    let r = times_conjugate(simd, r, w1);
    let s = times_conjugate(simd, s, w3);
    butterfly_back(simd, [p, q, r, s])
}

/// The last two levels, whose factors are 1.
#[inline(always)]
pub(super) fn last_four<S: Simd>(simd: S, points: &mut [Point<S>]) {
    for block in points.as_chunks_mut::<4>().0 {
        *block = butterfly(simd, *block);
    }
}

/// Undoes [`last_four`], but for a factor 4.
#[inline(always)]
pub(super) fn first_four<S: Simd>(simd: S, points: &mut [Point<S>]) {
    for block in points.as_chunks_mut::<4>().0 {
        *block = butterfly_back(simd, *block);
    }
}

/// The last level, whose factors are 1; its own inverse, but for a factor 2.
#[inline(always)]
pub(super) fn last_two<S: Simd>(simd: S, points: &mut [Point<S>]) {
    for [a, b] in points.as_chunks_mut::<2>().0 {
        [*a, *b] = [add(simd, *a, *b), sub(simd, *a, *b)];
    }
}

/// (a + c) ± (b + d), then (a − c) ∓ i (b − d).
#[inline(always)]
fn butterfly<S: Simd>(simd: S, [a, b, c, d]: [Point<S>; 4]) -> [Point<S>; 4] {
    let (sum, difference) = (add(simd, a, c), sub(simd, a, c));
    let (other, [re, im]) = (add(simd, b, d), sub(simd, b, d));
    [
        add(simd, sum, other),
        sub(simd, sum, other),
        [simd.add_f32s(difference[0], im), simd.sub_f32s(difference[1], re)],
        [simd.sub_f32s(difference[0], im), simd.add_f32s(difference[1], re)],
    ]
}

/// Undoes [`butterfly`], but for a factor 4.
#[inline(always)]
fn butterfly_back<S: Simd>(simd: S, [p, q, r, s]: [Point<S>; 4]) -> [Point<S>; 4] {
    let (sum, other) = (add(simd, p, q), sub(simd, p, q));
    // r − s is −2i (b − d).
    let (difference, [re, im]) = (add(simd, r, s), sub(simd, r, s));
    [
        add(simd, sum, difference),
        [simd.sub_f32s(other[0], im), simd.add_f32s(other[1], re)],
        sub(simd, sum, difference),
        [simd.add_f32s(other[0], im), simd.sub_f32s(other[1], re)],
    ]
}

#[inline(always)]
fn add<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    [simd.add_f32s(x[0], y[0]), simd.add_f32s(x[1], y[1])]
}

#[inline(always)]
fn sub<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    [simd.sub_f32s(x[0], y[0]), simd.sub_f32s(x[1], y[1])]
}

#[inline(always)]
pub(super) fn times<S: Simd>(simd: S, x: Point<S>, [re, im]: Factor) -> Point<S> {
    // The minus sign goes to the factor, of which there is one for all lanes.
    let (re, im, minus) = (simd.splat_f32s(re), simd.splat_f32s(im), simd.splat_f32s(-im));
    [
        mul_add(simd, x[1], minus, simd.mul_f32s(x[0], re)),
        mul_add(simd, x[0], im, simd.mul_f32s(x[1], re)),
    ]
}

#[inline(always)]
pub(super) fn times_conjugate<S: Simd>(simd: S, x: Point<S>, [re, im]: Factor) -> Point<S> {
    times(simd, x, [re, -im])
}

/// Product x y of two complex points.
#[inline(always)]
pub(super) fn product<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    [
        simd.sub_f32s(simd.mul_f32s(x[0], y[0]), simd.mul_f32s(x[1], y[1])),
        mul_add(simd, x[0], y[1], simd.mul_f32s(x[1], y[0])),
    ]
}

/// x̄ y, of the convolution with the signal of x in reverse.
#[inline(always)]
pub(super) fn product_conjugate<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    [
        mul_add(simd, x[0], y[0], simd.mul_f32s(x[1], y[1])),
        simd.sub_f32s(simd.mul_f32s(x[0], y[1]), simd.mul_f32s(x[1], y[0])),
    ]
}
