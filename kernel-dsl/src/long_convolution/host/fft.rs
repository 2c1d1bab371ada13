//! Fast Fourier transforms of many channels at once: a channel in each SIMD lane.
//!
//! Tokens are rows, so the lanes of a vector are neighbours in memory: nothing is transposed, and every twiddle factor is a scalar for all
//! lanes, at any width. Decimation in frequency leaves the frequencies in bit-reversed order, in which products are formed and from which
//! decimation in time comes back: nothing is permuted either. Crates of transforms take one signal at a time, which would have to be
//! gathered from the rows and scattered again, and ask the processor for its instructions by themselves, whatever level is in use.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pulp::Simd;

use crate::simd::mul_add;

/// A complex number in every lane.
pub(super) type Point<S> = [<S as Simd>::f32s; 2];

/// A complex number for all lanes.
type Factor = [f32; 2];

/// Points whose passes stay within the second and within the first cache, at 16 lanes.
const OUTER: usize = 4096;
const INNER: usize = 256;

/// The factors of a transform of `points` points, computed in f64.
#[derive(Debug)]
pub(super) struct Plan {
    points: usize,
    /// e^{iπn/2M}, for places n < M.
    turns: Vec<Factor>,
    /// Per pass of radix 4 w^j, w^{2j} and w^{3j} for j < length / 4, w = e^{−2πi/length}. The length is `points`, then a quarter of it and
    /// so on, and more than 4.
    passes: Vec<Vec<[Factor; 3]>>,
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
        Self {
            points,
            turns: (0..points).map(|n| turn(n, 2 * points)).collect(),
            passes: lengths.map(pass).collect(),
        }
    }

    /// M.
    pub(super) fn points(&self) -> usize {
        self.points
    }

    /// The transform of the real signal whose value at place n < N is `value(n)`; places from `end` on are zero.
    ///
    /// # Shapes
    /// `to` M points.
    #[inline(always)]
    pub(super) fn analyse<S: Simd>(
        &self,
        simd: S,
        end: usize,
        to: &mut [Point<S>],
        mut value: impl FnMut(usize) -> S::f32s,
    ) {
        let zero = simd.splat_f32s(0.0);
        let folded = end.saturating_sub(self.points);
        let (both, rest) = to.split_at_mut(folded);
        for (n, (point, &turn)) in both.iter_mut().zip(&self.turns).enumerate() {
            *point = times(simd, [value(n), value(n + self.points)], turn);
        }
        let (one, none) = rest.split_at_mut(end.min(self.points) - folded);
        for (i, (point, &[re, im])) in one.iter_mut().zip(&self.turns[folded..]).enumerate() {
            let x = value(folded + i);
            *point = [re, im].map(|part| simd.mul_f32s(x, simd.splat_f32s(part)));
        }
        none.fill([zero; 2]);
        self.forward(simd, to);
    }

    /// The inverse of [`Plan::analyse`] but for a factor M: gives `write` the values at places n < `end`, each of them once.
    #[inline(always)]
    pub(super) fn synthesise<S: Simd>(
        &self,
        simd: S,
        points: &mut [Point<S>],
        end: usize,
        mut write: impl FnMut(usize, S::f32s),
    ) {
        self.inverse(simd, points);
        for (n, (&point, &turn)) in points.iter().zip(&self.turns).enumerate().take(end) {
            let [re, im] = times_conjugate(simd, point, turn);
            write(n, re);
            if n + self.points < end {
                write(n + self.points, im);
            }
        }
    }

    /// Frequencies in bit-reversed order.
    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        let outer = self.level(OUTER);
        let inner = self.level(INNER).max(outer);
        self.descend(simd, points, 0..outer);
        for block in points.chunks_exact_mut(self.points >> (2 * outer)) {
            self.descend(simd, block, outer..inner);
            for block in block.chunks_exact_mut(self.points >> (2 * inner)) {
                self.descend(simd, block, inner..self.passes.len());
                match self.points >> (2 * self.passes.len()) {
                    4 => last_four(simd, block),
                    2 => last_two(simd, block),
                    _ => {}
                }
            }
        }
    }

    /// From frequencies in bit-reversed order to M times the points.
    #[inline(always)]
    fn inverse<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        let outer = self.level(OUTER);
        let inner = self.level(INNER).max(outer);
        for block in points.chunks_exact_mut(self.points >> (2 * outer)) {
            for block in block.chunks_exact_mut(self.points >> (2 * inner)) {
                match self.points >> (2 * self.passes.len()) {
                    4 => first_four(simd, block),
                    2 => last_two(simd, block),
                    _ => {}
                }
                self.ascend(simd, block, inner..self.passes.len());
            }
            self.ascend(simd, block, outer..inner);
        }
        self.ascend(simd, points, 0..outer);
    }

    /// The first pass whose blocks have at most so many points.
    fn level(&self, most: usize) -> usize {
        (0..self.passes.len())
            .find(|&level| self.points >> (2 * level) <= most)
            .unwrap_or(self.passes.len())
    }

    #[inline(always)]
    fn descend<S: Simd>(&self, simd: S, points: &mut [Point<S>], levels: std::ops::Range<usize>) {
        for factors in &self.passes[levels] {
            for block in points.chunks_exact_mut(4 * factors.len()) {
                down(simd, factors, block);
            }
        }
    }

    #[inline(always)]
    fn ascend<S: Simd>(&self, simd: S, points: &mut [Point<S>], levels: std::ops::Range<usize>) {
        for factors in self.passes[levels].iter().rev() {
            for block in points.chunks_exact_mut(4 * factors.len()) {
                up(simd, factors, block);
            }
        }
    }
}

/// The quarters of a block.
#[inline(always)]
fn quarters<T>(block: &mut [T]) -> [&mut [T]; 4] {
    let (low, high) = block.split_at_mut(block.len() / 2);
    let (a, b) = low.split_at_mut(low.len() / 2);
    let (c, d) = high.split_at_mut(high.len() / 2);
    [a, b, c, d]
}

/// Two levels of decimation in frequency.
#[inline(always)]
fn down<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
    let [a, b, c, d] = quarters(block);
    for ((((a, b), c), d), &[w1, w2, w3]) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        let [p, q, r, s] = butterfly(simd, [*a, *b, *c, *d]);
        *a = p;
        *b = times(simd, q, w2);
        *c = times(simd, r, w1);
        *d = times(simd, s, w3);
    }
}

/// Undoes [`down`], but for a factor 4.
#[inline(always)]
fn up<S: Simd>(simd: S, factors: &[[Factor; 3]], block: &mut [Point<S>]) {
    let [a, b, c, d] = quarters(block);
    for ((((a, b), c), d), &[w1, w2, w3]) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        let q = times_conjugate(simd, *b, w2);
        let r = times_conjugate(simd, *c, w1);
        let s = times_conjugate(simd, *d, w3);
        [*a, *b, *c, *d] = butterfly_back(simd, [*a, q, r, s]);
    }
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
fn times<S: Simd>(simd: S, x: Point<S>, factor: Factor) -> Point<S> {
    product(simd, x, factor.map(|part| simd.splat_f32s(part)))
}

#[inline(always)]
fn times_conjugate<S: Simd>(simd: S, x: Point<S>, factor: Factor) -> Point<S> {
    product_conjugate(simd, factor.map(|part| simd.splat_f32s(part)), x)
}

/// x y.
#[inline(always)]
pub(super) fn product<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    let minus = simd.neg_f32s(x[1]);
    [
        mul_add(simd, x[0], y[0], simd.mul_f32s(minus, y[1])),
        mul_add(simd, x[0], y[1], simd.mul_f32s(x[1], y[0])),
    ]
}

/// x̄ y, of the convolution with the signal of x in reverse.
#[inline(always)]
pub(super) fn product_conjugate<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    let minus = simd.neg_f32s(x[1]);
    [
        mul_add(simd, x[0], y[0], simd.mul_f32s(x[1], y[1])),
        mul_add(simd, x[0], y[1], simd.mul_f32s(minus, y[0])),
    ]
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::simd::dispatch;

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
            let lanes = S::as_simd_f32s(&lanes).0[0];
            let mut spectra = [(); 2].map(|()| vec![[simd.splat_f32s(0.0); 2]; plan.points()]);
            let [x, k] = &mut spectra;
            plan.analyse(simd, self.x.len(), x, |n| {
                simd.mul_f32s(lanes, simd.splat_f32s(self.x[n]))
            });
            plan.analyse(simd, self.k.len(), k, |n| simd.splat_f32s(self.k[n]));
            x.iter_mut().zip(k).for_each(|(x, k)| *x = product(simd, *x, *k));
            let mut y = vec![simd.splat_f32s(f32::NAN); self.places];
            plan.synthesise(simd, x, self.places, |n, value| y[n] = value);
            let scale = simd.splat_f32s(1.0 / plan.points() as f32);
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
