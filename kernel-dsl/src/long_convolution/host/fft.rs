//! Fast Fourier transforms of many channels at once: a channel in each SIMD lane.
//!
//! Tokens are rows, so the lanes of a vector are neighbours in memory: nothing is transposed, and every twiddle factor is a scalar for all
//! lanes, at any width. Decimation in frequency leaves the frequencies in bit-reversed order, in which products are formed and from which
//! decimation in time comes back: nothing is permuted either. Crates of transforms take one signal at a time, which would have to be
//! gathered from the rows and scattered again, and ask the processor for its instructions by themselves, whatever level is in use.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pulp::Simd;

use crate::simd::mul_add;

/// A complex number in every lane.
pub(super) type Point<S> = [<S as Simd>::f32s; 2];

/// A complex number for all lanes.
type Factor = [f32; 2];

/// A signal that is transformed: real, and another one in every lane.
///
/// A trait and no closure: a closure is compiled for the instructions of its caller only where it happens to be inlined.
pub(super) trait Source<S: Simd> {
    /// The value at a place.
    fn at(&self, simd: S, place: usize) -> S::f32s;
}

/// What takes the values of a signal.
pub(super) trait Sink<S: Simd> {
    /// Takes the value at a place.
    fn put(&mut self, simd: S, place: usize, value: S::f32s);
}

/// Points whose passes stay within the first cache, at 16 lanes.
const INNER: usize = 256;
/// Levels of radix 4 that the first stage takes, on what it reads of the signal.
const OUTER_LEVELS: usize = 2;
/// Points that are left free behind each of the sixteen blocks of the outer stage: without them the lines of all that it writes at once,
/// a power of two apart, would fall into one set of each cache.
const GAP: usize = 4;

/// Points at a stride of a sixteenth of a block, which two levels of radix 4 combine.
type Sixteen<S> = [Point<S>; 16];

/// The factors of a transform of `points` points, computed in f64, and the order of its stages.
///
/// A transform has three of them, so that what is longer than a cache is read and written as seldom as can be. The outer stage takes
/// the first levels on its way from the signal to the points, and leaves blocks; the middle stage takes a block to blocks that fit the
/// first cache; the inner stage finishes one of these. A product of transforms is formed where its factors leave the inner stage.
#[derive(Debug)]
pub(super) struct Plan {
    points: usize,
    /// e^{iπn/2M}, for places n < M.
    turns: Vec<Factor>,
    /// Per pass of radix 4 w^j, w^{2j} and w^{3j} for j < length / 4, w = e^{−2πi/length}. The length is `points`, then a quarter of it and
    /// so on, and more than 4.
    passes: Vec<Vec<[Factor; 3]>>,
    /// The first passes of the middle and of the inner stage.
    middle: usize,
    inner: usize,
}

impl Plan {
    /// The plan for convolutions modulo z^N + 1 whose N is the least power of two, and at least 2, that is not below `places`.
    pub(super) fn of(places: usize) -> Arc<Self> {
        static PLANS: OnceLock<Mutex<BTreeMap<usize, Arc<Plan>>>> = OnceLock::new();
        let points = places.max(2).next_power_of_two() / 2;
        let mut plans = PLANS
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plans
            .entry(points)
            .or_insert_with(|| Arc::new(Self::new(points)))
            .clone()
    }

    fn new(points: usize) -> Self {
        let turn = |numerator: usize, denominator: usize| {
            let angle = PI * numerator as f64 / denominator as f64;
            [angle.cos() as f32, angle.sin() as f32]
        };
        let back = |power: usize, length: usize| {
            let [re, im] = turn(2 * (power % length), length);
            [re, -im]
        };
        let lengths =
            std::iter::successors(Some(points), |length| Some(length / 4)).take_while(|&length| length > 4);
        let pass = |length| {
            (0..length / 4)
                .map(move |j| [1, 2, 3].map(|factor| back(factor * j, length)))
                .collect()
        };
        let passes: Vec<_> = lengths.map(pass).collect();
        let middle = passes.len().min(OUTER_LEVELS);
        let small = (0..passes.len()).find(|&level| points >> (2 * level) <= INNER);
        Self {
            points,
            turns: (0..points).map(|n| turn(n, 2 * points)).collect(),
            inner: small.unwrap_or(passes.len()).max(middle),
            middle,
            passes,
        }
    }

    /// M.
    pub(super) fn points(&self) -> usize {
        self.points
    }

    /// Points that memory for a transform must have: M, and gaps between blocks.
    pub(super) fn room(&self) -> usize {
        match self.middle {
            OUTER_LEVELS => self.points + 16 * GAP,
            _ => self.points,
        }
    }

    /// Where the blocks lie that the outer stage leaves.
    pub(super) fn outer_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let len = self.points >> (2 * self.middle);
        let count = self.points / len;
        let stride = self.room() / count;
        (0..count).map(move |index| index * stride..index * stride + len)
    }

    /// Points of the blocks that the middle stage leaves.
    pub(super) fn inner_block(&self) -> usize {
        self.points >> (2 * self.inner)
    }

    /// The outer stage of the transform of a real signal of N places, of which those from `end` on are zero.
    ///
    /// # Shapes
    /// `to` [`Plan::room`] points.
    #[inline(always)]
    pub(super) fn outer<S: Simd>(&self, simd: S, end: usize, to: &mut [Point<S>], source: &impl Source<S>) {
        match &self.passes[..self.middle] {
            [first, second] => {
                let stride = self.points / 16;
                for j in 0..stride {
                    let mut points = [[simd.splat_f32s(0.0); 2]; 16];
                    for (i, point) in points.iter_mut().enumerate() {
                        *point = self.fold(simd, end, i * stride + j, source);
                    }
                    put::<S>(to, j, two_down(simd, &points, (first, second), j));
                }
            }
            passes => {
                for (n, point) in to[..self.points].iter_mut().enumerate() {
                    *point = self.fold(simd, end, n, source);
                }
                for factors in passes {
                    down(simd, factors, to);
                }
            }
        }
    }

    /// The point that places n and n + M become.
    #[inline(always)]
    fn fold<S: Simd>(&self, simd: S, end: usize, n: usize, source: &impl Source<S>) -> Point<S> {
        let [re, im] = self.turns[n];
        if n + self.points < end {
            times(
                simd,
                [source.at(simd, n), source.at(simd, n + self.points)],
                [re, im],
            )
        } else if n < end {
            let x = source.at(simd, n);
            [
                simd.mul_f32s(x, simd.splat_f32s(re)),
                simd.mul_f32s(x, simd.splat_f32s(im)),
            ]
        } else {
            [simd.splat_f32s(0.0); 2]
        }
    }

    /// The middle stage of one block of the outer.
    #[inline(always)]
    pub(super) fn middle<S: Simd>(&self, simd: S, block: &mut [Point<S>]) {
        let passes = &self.passes[self.middle..self.inner];
        let (pairs, rest) = passes.as_chunks::<2>();
        for [first, second] in pairs {
            for block in block.chunks_exact_mut(4 * first.len()) {
                for j in 0..second.len() {
                    let points = two_down(simd, &take::<S>(block, j), (first, second), j);
                    put::<S>(block, j, points);
                }
            }
        }
        for factors in rest {
            for block in block.chunks_exact_mut(4 * factors.len()) {
                down(simd, factors, block);
            }
        }
    }

    /// The inner stage of one block of the middle: frequencies in bit-reversed order.
    #[inline(always)]
    pub(super) fn inner<S: Simd>(&self, simd: S, block: &mut [Point<S>]) {
        for factors in &self.passes[self.inner..] {
            for block in block.chunks_exact_mut(4 * factors.len()) {
                down(simd, factors, block);
            }
        }
        match self.points >> (2 * self.passes.len()) {
            4 => last_four(simd, block),
            2 => last_two(simd, block),
            _ => {}
        }
    }

    /// Undoes [`Plan::inner`] but for a factor, the points of the block.
    #[inline(always)]
    pub(super) fn inner_back<S: Simd>(&self, simd: S, block: &mut [Point<S>]) {
        match self.points >> (2 * self.passes.len()) {
            4 => first_four(simd, block),
            2 => last_two(simd, block),
            _ => {}
        }
        for factors in self.passes[self.inner..].iter().rev() {
            for block in block.chunks_exact_mut(4 * factors.len()) {
                up(simd, factors, block);
            }
        }
    }

    /// Undoes [`Plan::middle`] but for a factor.
    #[inline(always)]
    pub(super) fn middle_back<S: Simd>(&self, simd: S, block: &mut [Point<S>]) {
        let passes = &self.passes[self.middle..self.inner];
        let (pairs, rest) = passes.as_chunks::<2>();
        for factors in rest {
            for block in block.chunks_exact_mut(4 * factors.len()) {
                up(simd, factors, block);
            }
        }
        for [first, second] in pairs.iter().rev() {
            for block in block.chunks_exact_mut(4 * first.len()) {
                for j in 0..second.len() {
                    let points = two_up(simd, &take::<S>(block, j), (first, second), j);
                    put::<S>(block, j, points);
                }
            }
        }
    }

    /// Undoes [`Plan::outer`] but for a factor, so that all stages together leave M: gives the sink the values at places n < `end`, each
    /// of them once.
    #[inline(always)]
    pub(super) fn outer_back<S: Simd>(
        &self,
        simd: S,
        points: &mut [Point<S>],
        end: usize,
        sink: &mut impl Sink<S>,
    ) {
        match &self.passes[..self.middle] {
            [first, second] => {
                let stride = self.points / 16;
                for j in 0..stride {
                    let found = two_up(simd, &take::<S>(points, j), (first, second), j);
                    for (i, &point) in found.iter().enumerate() {
                        self.unfold(simd, end, i * stride + j, point, sink);
                    }
                }
            }
            passes => {
                for factors in passes {
                    up(simd, factors, points);
                }
                for (n, &point) in points.iter().enumerate() {
                    self.unfold(simd, end, n, point, sink);
                }
            }
        }
    }

    /// Undoes [`Plan::fold`].
    #[inline(always)]
    fn unfold<S: Simd>(&self, simd: S, end: usize, n: usize, point: Point<S>, sink: &mut impl Sink<S>) {
        let [re, im] = times_conjugate(simd, point, self.turns[n]);
        if n < end {
            sink.put(simd, n, re);
        }
        if n + self.points < end {
            sink.put(simd, n + self.points, im);
        }
    }
}

/// The points of a block at column j.
#[inline(always)]
fn take<S: Simd>(block: &[Point<S>], j: usize) -> Sixteen<S> {
    let stride = block.len() / 16;
    let mut points = [block[j]; 16];
    for i in 1..16 {
        points[i] = block[i * stride + j];
    }
    points
}

/// The inverse of [`take`].
#[inline(always)]
fn put<S: Simd>(block: &mut [Point<S>], j: usize, points: Sixteen<S>) {
    let stride = block.len() / 16;
    for (i, point) in points.into_iter().enumerate() {
        block[i * stride + j] = point;
    }
}

/// Two levels of decimation in frequency at column j, with their factors.
#[inline(always)]
fn two_down<S: Simd>(
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
fn two_up<S: Simd>(
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
fn down<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
    let [a, b, c, d] = quarters(block);
    for ((((a, b), c), d), factors) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        [*a, *b, *c, *d] = down_four(simd, [*a, *b, *c, *d], factors);
    }
}

/// Undoes [`down`], but for a factor 4.
#[inline(always)]
fn up<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
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
fn last_four<S: Simd>(simd: S, points: &mut [Point<S>]) {
    for block in points.as_chunks_mut::<4>().0 {
        *block = butterfly(simd, *block);
    }
}

/// Undoes [`last_four`], but for a factor 4.
#[inline(always)]
fn first_four<S: Simd>(simd: S, points: &mut [Point<S>]) {
    for block in points.as_chunks_mut::<4>().0 {
        *block = butterfly_back(simd, *block);
    }
}

/// The last level, whose factors are 1; its own inverse, but for a factor 2.
#[inline(always)]
fn last_two<S: Simd>(simd: S, points: &mut [Point<S>]) {
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
fn times<S: Simd>(simd: S, x: Point<S>, [re, im]: Factor) -> Point<S> {
    // The minus sign goes to the factor, of which there is one for all lanes.
    let (re, im, minus) = (simd.splat_f32s(re), simd.splat_f32s(im), simd.splat_f32s(-im));
    [
        mul_add(simd, x[1], minus, simd.mul_f32s(x[0], re)),
        mul_add(simd, x[0], im, simd.mul_f32s(x[1], re)),
    ]
}

#[inline(always)]
fn times_conjugate<S: Simd>(simd: S, x: Point<S>, [re, im]: Factor) -> Point<S> {
    times(simd, x, [re, -im])
}

/// x y.
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

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::simd::dispatch;

    /// Values times a factor for each lane.
    struct Scaled<'a, S: Simd>(S::f32s, &'a [f32]);

    impl<S: Simd> Source<S> for Scaled<'_, S> {
        fn at(&self, simd: S, place: usize) -> S::f32s {
            simd.mul_f32s(self.0, simd.splat_f32s(self.1[place]))
        }
    }

    struct Kept<S: Simd>(Vec<S::f32s>);

    impl<S: Simd> Sink<S> for Kept<S> {
        fn put(&mut self, _simd: S, place: usize, value: S::f32s) {
            self.0[place] = value;
        }
    }

    /// Two signals convolved modulo z^N + 1, the first multiplied by the number of its lane plus one.
    struct Convolve<'a> {
        places: usize,
        x: &'a [f32],
        k: &'a [f32],
    }

    impl WithSimd for Convolve<'_> {
        type Output = (usize, Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let plan = Plan::of(self.places);
            let lanes: Vec<f32> = (1..=S::F32_LANES).map(|lane| lane as f32).collect();
            let by_lane = Scaled::<S>(S::as_simd_f32s(&lanes).0[0], self.x);
            let by_one = Scaled::<S>(simd.splat_f32s(1.0), self.k);
            let mut spectra = [(); 2].map(|()| vec![[simd.splat_f32s(0.0); 2]; plan.room()]);
            let [x, k] = &mut spectra;
            plan.outer(simd, self.x.len(), x, &by_lane);
            plan.outer(simd, self.k.len(), k, &by_one);
            for block in plan.outer_blocks() {
                let (x, k) = (&mut x[block.clone()], &mut k[block]);
                plan.middle(simd, x);
                plan.middle(simd, k);
                let inner = plan.inner_block();
                for (x, k) in x.chunks_exact_mut(inner).zip(k.chunks_exact_mut(inner)) {
                    plan.inner(simd, x);
                    plan.inner(simd, k);
                    x.iter_mut().zip(k).for_each(|(x, k)| *x = product(simd, *x, *k));
                    plan.inner_back(simd, x);
                }
                plan.middle_back(simd, x);
            }
            let mut y = Kept::<S>(vec![simd.splat_f32s(f32::NAN); self.places]);
            plan.outer_back(simd, x, self.places, &mut y);
            let (mut y, scale) = (y.0, simd.splat_f32s(1.0 / plan.points() as f32));
            y.iter_mut().for_each(|y| *y = simd.mul_f32s(*y, scale));
            (S::F32_LANES, bytemuck::cast_slice(&y).to_vec())
        }
    }

    #[test]
    fn every_length_convolves_and_changes_the_sign_of_what_wraps() {
        for power in 1..=14 {
            let places = 1_usize << power;
            let values = |seed: usize| -> Vec<f32> {
                let value = |i: usize| ((i * i + seed) * 2_654_435_761 % 1009) as f32 / 504.0 - 1.0;
                (0..places).map(value).collect()
            };
            let (x, mut k) = (values(1), values(7));
            // A short kernel, at both ends of the places, keeps the definition cheap.
            let taps: Vec<usize> = (0..places).filter(|&j| j < 40 || j + 40 > places).collect();
            (0..places).filter(|j| !taps.contains(j)).for_each(|j| k[j] = 0.0);
            let (lanes, found) = dispatch(Convolve { places, x: &x, k: &k });
            let (mut off, mut norm) = (0.0, 0.0);
            for n in 0..places {
                let term = |&j: &usize| match n.checked_sub(j) {
                    Some(i) => f64::from(k[j]) * f64::from(x[i]),
                    None => -f64::from(k[j]) * f64::from(x[n + places - j]),
                };
                let expected: f64 = taps.iter().map(term).sum();
                for lane in 0..lanes {
                    let factor = (lane + 1) as f64;
                    off += (f64::from(found[n * lanes + lane]) - factor * expected).powi(2);
                    norm += (factor * expected).powi(2);
                }
            }
            let error = (off / norm).sqrt();
            assert!(error < 3e-7, "{places} places: {error:e}");
        }
    }
}
