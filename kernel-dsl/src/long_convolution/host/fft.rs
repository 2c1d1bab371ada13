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

use pulp::{Simd, WithSimd};

use super::butterfly::{
    Factor, Point, down, first_four, last_four, last_two, put, take, times, times_conjugate, two_down,
    two_up, up,
};

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

/// Stage of a transform that [`Apart`] runs.
#[derive(Clone, Copy)]
enum Stage {
    Rest,
    RestBack,
    Plain,
    PlainBack,
}

/// A stage as a function of its own.
struct Apart<'a> {
    plan: &'a Plan,
    stage: Stage,
    /// Points, as the values of their lanes.
    points: &'a mut [f32],
}

impl WithSimd for Apart<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let points: &mut [Point<S>] = bytemuck::cast_slice_mut(self.points);
        match self.stage {
            Stage::Rest => self.plan.rest_inline(simd, points),
            Stage::RestBack => self.plan.rest_back_inline(simd, points),
            Stage::Plain => self.plan.plain_inline(simd, points),
            Stage::PlainBack => self.plan.plain_back_inline(simd, points),
        }
    }
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

    /// M, the number of complex points of the transform.
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

    /// The middle and the inner stage of all that the outer stage leaves.
    ///
    /// This and the three below are functions of their own in the code for every level of instructions, and not part of each caller.
    pub(super) fn rest<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        self.apart(simd, Stage::Rest, points);
    }

    /// Undoes [`Plan::rest`] but for a factor.
    pub(super) fn rest_back<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        self.apart(simd, Stage::RestBack, points);
    }

    /// A plain transform of M complex points, without the factors that make one of half the length: frequencies in bit-reversed order.
    pub(super) fn plain<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        self.apart(simd, Stage::Plain, points);
    }

    /// Undoes [`Plan::plain`] but for a factor, M.
    pub(super) fn plain_back<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        self.apart(simd, Stage::PlainBack, points);
    }

    #[inline(always)]
    fn apart<S: Simd>(&self, simd: S, stage: Stage, points: &mut [Point<S>]) {
        simd.vectorize(Apart {
            plan: self,
            stage,
            points: bytemuck::cast_slice_mut(points),
        });
    }

    #[inline(always)]
    fn rest_inline<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        for block in self.outer_blocks() {
            let block = &mut points[block];
            self.middle(simd, block);
            for block in block.chunks_exact_mut(self.inner_block()) {
                self.inner(simd, block);
            }
        }
    }

    #[inline(always)]
    fn rest_back_inline<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        for block in self.outer_blocks() {
            let block = &mut points[block];
            for block in block.chunks_exact_mut(self.inner_block()) {
                self.inner_back(simd, block);
            }
            self.middle_back(simd, block);
        }
    }

    #[inline(always)]
    fn plain_inline<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        for factors in &self.passes {
            for block in points.chunks_exact_mut(4 * factors.len()) {
                down(simd, factors, block);
            }
        }
        match self.points >> (2 * self.passes.len()) {
            4 => last_four(simd, points),
            2 => last_two(simd, points),
            _ => {}
        }
    }

    #[inline(always)]
    fn plain_back_inline<S: Simd>(&self, simd: S, points: &mut [Point<S>]) {
        match self.points >> (2 * self.passes.len()) {
            4 => first_four(simd, points),
            2 => last_two(simd, points),
            _ => {}
        }
        for factors in self.passes.iter().rev() {
            for block in points.chunks_exact_mut(4 * factors.len()) {
                up(simd, factors, block);
            }
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

    /// Undoes [`Plan::fold`]: gives the sink the values at places n and n + M below `end`.
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

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::long_convolution::host::butterfly::product;
    use crate::simd::dispatch_large;

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
            let (lanes, found) = dispatch_large(Convolve { places, x: &x, k: &k });
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
