//! By transforms over all axes, of the kernel as a whole: for kernels of many terms.
//!
//! The last axis is transformed as real signals are, to half as many points; the others as the complex ones that its points are. A point of
//! the last axis is a number at a root of z^M = i and a place of the others a number at one of w^N = 1, so that conjugates belong to signals
//! in reverse on all axes, and correlations are products with them, as on one axis.

use std::ops::Range;
use std::sync::Arc;

use pulp::{Simd, WithSimd};

use super::lanes::{Backward, Forward, Strided, StridedMut, load_image, load_taps};
use crate::long_convolution::host::butterfly::{Point, product};
use crate::long_convolution::host::fft::{Plan, Sink, Source};
use crate::long_convolution::host::fourier::{Taps, add_correlation, end_of_taps};
use crate::long_convolution::host::lanes::columns;
use crate::long_convolution::nd::{Inputs, Problem};
use crate::long_convolution::problem::Reach;
use crate::simd::mul_add;

#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, call: &Forward, channels: Range<usize>) {
    let (problem, zero) = (call.problem, simd.splat_f32s(0.0));
    let grid = Grid::of(problem);
    let mut kernels = Kernels::<S>::new(simd, problem, &grid);
    let [mut image, mut found] = [(); 2].map(|()| vec![zero; problem.positions()]);
    let [mut signal, mut product_of] = [(); 2].map(|()| vec![[zero; 2]; grid.room()]);
    let mut line = vec![[zero; 2]; grid.longest()];
    for columns in columns::<S>(channels) {
        kernels.load(simd, problem, call.inputs, &grid, &columns, &mut line);
        for b in 0..problem.batch {
            load_image(simd, problem, call.inputs, b, &columns, &mut image);
            grid.down(simd, Side::Image, &mut image, &mut signal, &mut line);
            for m in 0..problem.multiplicity {
                let spectrum = &kernels.spectra[m];
                for ((to, &x), &k) in product_of.iter_mut().zip(&signal).zip(spectrum) {
                    *to = product(simd, x, k);
                }
                grid.up(simd, Side::Image, &mut product_of, &mut found, &mut line);
                call.write(simd, [b, m], &columns, &image, &found);
            }
        }
    }
}

#[inline(always)]
pub(super) fn backward<S: Simd>(simd: S, call: &Backward, channels: Range<usize>) {
    let (problem, zero) = (call.problem, simd.splat_f32s(0.0));
    let grid = Grid::of(problem);
    let mut kernels = Kernels::<S>::new(simd, problem, &grid);
    let mut by_spectra = vec![vec![[zero; 2]; grid.room()]; problem.multiplicity];
    let [mut image, mut by_image] = [(); 2].map(|()| vec![zero; problem.positions()]);
    let mut cotangents = vec![image.clone(); problem.multiplicity];
    let [mut signal, mut of_output, mut by_signal] = [(); 3].map(|()| vec![[zero; 2]; grid.room()]);
    let mut line = vec![[zero; 2]; grid.longest()];
    let mut by_skip = vec![0.0_f64; problem.multiplicity * S::F32_LANES];
    for columns in columns::<S>(channels) {
        kernels.load(simd, problem, call.inputs, &grid, &columns, &mut line);
        by_spectra
            .iter_mut()
            .for_each(|spectrum| spectrum.fill([zero; 2]));
        by_skip.fill(0.0);
        for b in 0..problem.batch {
            load_image(simd, problem, call.inputs, b, &columns, &mut image);
            grid.down(simd, Side::Image, &mut image, &mut signal, &mut line);
            by_signal.fill([zero; 2]);
            for (m, kept) in cotangents.iter_mut().enumerate() {
                call.load_cotangent(simd, [b, m], &columns, kept);
                grid.down(simd, Side::Image, kept, &mut of_output, &mut line);
                add_correlation(simd, false, &kernels.spectra[m], &of_output, &mut by_signal);
                add_correlation(simd, false, &signal, &of_output, &mut by_spectra[m]);
            }
            grid.up(simd, Side::Image, &mut by_signal, &mut by_image, &mut line);
            let by_skips = by_skip.chunks_exact_mut(S::F32_LANES);
            for (m, (cotangent, by_skip)) in cotangents.iter().zip(by_skips).enumerate() {
                call.skip(
                    simd,
                    m,
                    &columns,
                    (&image[..], &cotangent[..]),
                    (&mut by_image[..], by_skip),
                );
            }
            call.write_input(simd, b, &columns, &by_image);
        }
        for (m, by_spectrum) in by_spectra.iter_mut().enumerate() {
            grid.up(simd, Side::Kernel, by_spectrum, &mut kernels.whole, &mut line);
            kernels.write_gradient(simd, call, m, &columns);
        }
        call.write_idle_taps(&columns);
        for (m, by_skip) in by_skip.chunks_exact(S::F32_LANES).enumerate() {
            call.write_skip(m, &columns, by_skip);
        }
    }
}

/// What is transformed: an image by its positions, or a kernel by its lags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Image,
    Kernel,
}

/// The points of a transform over all axes.
struct Grid {
    /// All axes but the last, with the plans of as many points as they have places.
    others: Vec<(Reach, Arc<Plan>)>,
    /// The last axis.
    last: Reach,
    plan: Arc<Plan>,
}

impl Grid {
    fn of(problem: &Problem) -> Self {
        let axes = problem.axes.as_slice();
        let reaches = axes.iter().map(|axis| axis.reach());
        let mut reaches: Vec<Reach> = reaches.collect();
        // There is at least one axis.
        let last = reaches.pop().unwrap_or(Reach {
            ahead: 1,
            later: 0,
            shift: 1,
            positions: 1,
            time: 1,
        });
        let others = reaches.into_iter().map(|reach| {
            let places = reach.places().next_power_of_two();
            (reach, Plan::of(2 * places))
        });
        Self {
            others: others.collect(),
            plan: Plan::of(last.places()),
            last,
        }
    }

    /// Points of memory for a transform.
    fn room(&self) -> usize {
        self.rows_from(0) * self.plan.room()
    }

    /// Places on the axes from `axis` on but the last.
    fn rows_from(&self, axis: usize) -> usize {
        let plans = self.others[axis..].iter().map(|(_, plan)| plan.points());
        plans.product()
    }

    /// The longest line on any axis but the last.
    fn longest(&self) -> usize {
        let points = self.others.iter().map(|(_, plan)| plan.points());
        points.max().unwrap_or(0)
    }

    /// The inverse of what transforms there and back multiply by.
    fn scale(&self) -> f32 {
        1.0 / (self.rows_from(0) * self.plan.points()) as f32
    }

    /// Values along an axis.
    fn extent(side: Side, reach: &Reach) -> usize {
        match side {
            Side::Image => reach.time,
            Side::Kernel => reach.lags(),
        }
    }

    /// Where values lie on an axis but the last.
    fn place(side: Side, (reach, plan): &(Reach, Arc<Plan>), index: usize) -> usize {
        match side {
            Side::Image => index,
            Side::Kernel => (index + plan.points() - reach.back()) % plan.points(),
        }
    }

    /// The rows of values, each with the row of the grid in which it lies.
    fn rows(&self, side: Side) -> impl Iterator<Item = (usize, usize)> {
        let counts = self.others.iter().map(|(reach, _)| Self::extent(side, reach));
        let count: usize = counts.product();
        (0..count).map(move |row| {
            let (mut rest, mut stride, mut found) = (row, 1, 0);
            for axis in self.others.iter().rev() {
                let extent = Self::extent(side, &axis.0);
                found += Self::place(side, axis, rest % extent) * stride;
                (rest, stride) = (rest / extent, stride * axis.1.points());
            }
            (row, found)
        })
    }

    /// The transform of values, over what was there before: a function of its own in the code for every level of instructions.
    #[inline(always)]
    fn down<S: Simd>(
        &self,
        simd: S,
        side: Side,
        values: &mut [S::f32s],
        to: &mut [Point<S>],
        line: &mut [Point<S>],
    ) {
        simd.vectorize(Turn {
            grid: self,
            side,
            goes_down: true,
            values: bytemuck::cast_slice_mut(values),
            points: bytemuck::cast_slice_mut(to),
            line: bytemuck::cast_slice_mut(line),
        });
    }

    /// Undoes [`Grid::down`], but for the factor that [`Grid::scale`] takes away.
    #[inline(always)]
    fn up<S: Simd>(
        &self,
        simd: S,
        side: Side,
        from: &mut [Point<S>],
        values: &mut [S::f32s],
        line: &mut [Point<S>],
    ) {
        simd.vectorize(Turn {
            grid: self,
            side,
            goes_down: false,
            values: bytemuck::cast_slice_mut(values),
            points: bytemuck::cast_slice_mut(from),
            line: bytemuck::cast_slice_mut(line),
        });
    }

    #[inline(always)]
    fn down_inline<S: Simd>(
        &self,
        simd: S,
        side: Side,
        values: &mut [S::f32s],
        to: &mut [Point<S>],
        line: &mut [Point<S>],
    ) {
        to.fill([simd.splat_f32s(0.0); 2]);
        let (room, extent) = (self.plan.room(), Self::extent(side, &self.last));
        for (row, place) in self.rows(side) {
            let values = &mut values[row * extent..(row + 1) * extent];
            let to = &mut to[place * room..(place + 1) * room];
            match side {
                Side::Image => self.row_down(
                    simd,
                    extent,
                    to,
                    &Strided::<S> {
                        values,
                        first: 0,
                        stride: 1,
                    },
                ),
                Side::Kernel => {
                    let taps = self.taps(simd, values);
                    self.row_down(simd, end_of_taps(&self.plan, &self.last), to, &taps);
                }
            }
        }
        for axis in (0..self.others.len()).rev() {
            let (plan, stride) = (&self.others[axis].1, self.stride(axis));
            let line = &mut line[..plan.points()];
            for first in self.starts(axis, side) {
                gather::<S>(to, first, stride, line);
                plan.plain(simd, line);
                scatter::<S>(line, first, stride, to);
            }
        }
    }

    #[inline(always)]
    fn up_inline<S: Simd>(
        &self,
        simd: S,
        side: Side,
        from: &mut [Point<S>],
        values: &mut [S::f32s],
        line: &mut [Point<S>],
    ) {
        for axis in 0..self.others.len() {
            let (plan, stride) = (&self.others[axis].1, self.stride(axis));
            let line = &mut line[..plan.points()];
            for first in self.starts(axis, side) {
                gather::<S>(from, first, stride, line);
                plan.plain_back(simd, line);
                scatter::<S>(line, first, stride, from);
            }
        }
        let (room, extent) = (self.plan.room(), Self::extent(side, &self.last));
        for (row, place) in self.rows(side) {
            let values = &mut values[row * extent..(row + 1) * extent];
            let from = &mut from[place * room..(place + 1) * room];
            match side {
                Side::Image => self.row_up(
                    simd,
                    from,
                    extent,
                    &mut StridedMut::<S> {
                        values,
                        first: 0,
                        stride: 1,
                    },
                ),
                Side::Kernel => {
                    let mut taps = self.taps(simd, values);
                    self.row_up(simd, from, end_of_taps(&self.plan, &self.last), &mut taps);
                }
            }
        }
    }

    #[inline(always)]
    fn row_down<S: Simd>(&self, simd: S, end: usize, to: &mut [Point<S>], source: &impl Source<S>) {
        self.plan.outer(simd, end, to, source);
        self.plan.rest(simd, to);
    }

    #[inline(always)]
    fn row_up<S: Simd>(&self, simd: S, from: &mut [Point<S>], end: usize, sink: &mut impl Sink<S>) {
        self.plan.rest_back(simd, from);
        self.plan.outer_back(simd, from, end, sink);
    }

    /// A row of a kernel on the last axis.
    #[inline(always)]
    fn taps<'a, S: Simd>(&'a self, simd: S, lags: &'a mut [S::f32s]) -> Taps<'a, S> {
        Taps {
            reach: &self.last,
            places: 2 * self.plan.points(),
            lags,
            scale: simd.splat_f32s(self.scale()),
        }
    }

    /// Distance between neighbours on an axis but the last, in points.
    fn stride(&self, axis: usize) -> usize {
        self.rows_from(axis + 1) * self.plan.room()
    }

    /// Where lines along an axis but the last begin, as far as the axes before it hold anything: they are transformed last and come back
    /// first.
    fn starts(&self, axis: usize, side: Side) -> impl Iterator<Item = usize> {
        let before = match self.others[..axis].first() {
            None => vec![0],
            Some(first) => {
                let extent = Self::extent(side, &first.0);
                (0..extent).map(|index| Self::place(side, first, index)).collect()
            }
        };
        let (room, rows) = (self.plan.room(), self.rows_from(axis + 1));
        let group = self.others[axis].1.points() * self.stride(axis);
        let starts = before
            .into_iter()
            .flat_map(move |outer| (0..rows).map(move |row| outer * group + row * room));
        starts.flat_map(|start| {
            self.plan
                .outer_blocks()
                .flat_map(move |block| block.map(move |point| start + point))
        })
    }
}

/// A transform over all axes, or its inverse, as a function of its own; vectors as the values of their lanes.
struct Turn<'a> {
    grid: &'a Grid,
    side: Side,
    goes_down: bool,
    values: &'a mut [f32],
    points: &'a mut [f32],
    line: &'a mut [f32],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let values: &mut [S::f32s] = bytemuck::cast_slice_mut(self.values);
        let points: &mut [Point<S>] = bytemuck::cast_slice_mut(self.points);
        let line: &mut [Point<S>] = bytemuck::cast_slice_mut(self.line);
        match self.goes_down {
            true => self.grid.down_inline(simd, self.side, values, points, line),
            false => self.grid.up_inline(simd, self.side, points, values, line),
        }
    }
}

#[inline(always)]
fn gather<S: Simd>(from: &[Point<S>], first: usize, stride: usize, line: &mut [Point<S>]) {
    for (to, from) in line.iter_mut().zip(from[first..].iter().step_by(stride)) {
        *to = *from;
    }
}

#[inline(always)]
fn scatter<S: Simd>(line: &[Point<S>], first: usize, stride: usize, to: &mut [Point<S>]) {
    for (from, to) in line.iter().zip(to[first..].iter_mut().step_by(stride)) {
        *to = *from;
    }
}

/// The kernels of some channels: taps of every term, and the transforms of their sums.
struct Kernels<S: Simd> {
    /// By term, output and axis.
    taps: Vec<Vec<S::f32s>>,
    /// Of every output.
    spectra: Vec<Vec<Point<S>>>,
    /// The sum of terms of one output, or the gradient by it, on all lags of all axes.
    whole: Vec<S::f32s>,
    lags: Vec<usize>,
    multiplicity: usize,
    rank: usize,
}

impl<S: Simd> Kernels<S> {
    #[inline(always)]
    fn new(simd: S, problem: &Problem, grid: &Grid) -> Self {
        let zero = simd.splat_f32s(0.0);
        let reaches = grid.others.iter().map(|(reach, _)| reach).chain([&grid.last]);
        let lags: Vec<usize> = reaches.map(Reach::lags).collect();
        let count = problem.rank * problem.multiplicity;
        Self {
            taps: (0..count)
                .flat_map(|_| lags.iter().map(|lags| vec![zero; *lags]))
                .collect(),
            spectra: vec![vec![[zero; 2]; grid.room()]; problem.multiplicity],
            whole: vec![zero; lags.iter().product()],
            multiplicity: problem.multiplicity,
            rank: problem.rank,
            lags,
        }
    }

    /// The taps of a term of an output, by axis.
    fn term(&self, term: usize, m: usize) -> &[Vec<S::f32s>] {
        let axes = self.lags.len();
        &self.taps[(term * self.multiplicity + m) * axes..][..axes]
    }

    #[inline(always)]
    fn load(
        &mut self,
        simd: S,
        problem: &Problem,
        inputs: &Inputs,
        grid: &Grid,
        columns: &Range<usize>,
        line: &mut [Point<S>],
    ) {
        let axes = self.lags.len();
        for (index, taps) in self.taps.iter_mut().enumerate() {
            let (kernel, axis) = (index / axes, index % axes);
            let place = [kernel / self.multiplicity, kernel % self.multiplicity, axis];
            load_taps::<S>(problem, inputs, place, columns, taps);
        }
        for m in 0..self.multiplicity {
            let mut whole = std::mem::take(&mut self.whole);
            whole.fill(simd.splat_f32s(0.0));
            for term in 0..self.rank {
                let taps = self.term(term, m);
                for (place, whole) in whole.iter_mut().enumerate() {
                    *whole = simd.add_f32s(*whole, self.factors(simd, taps, place, None));
                }
            }
            grid.down(simd, Side::Kernel, &mut whole, &mut self.spectra[m], line);
            self.whole = whole;
        }
    }

    /// The product of a term's taps at a place on all lags, but for one axis.
    #[inline(always)]
    fn factors(&self, simd: S, taps: &[Vec<S::f32s>], place: usize, without: Option<usize>) -> S::f32s {
        let (mut rest, mut found) = (place, simd.splat_f32s(1.0));
        for (axis, lags) in self.lags.iter().enumerate().rev() {
            if Some(axis) != without {
                found = simd.mul_f32s(found, taps[axis][rest % lags]);
            }
            rest /= lags;
        }
        found
    }

    /// The index on an axis of a place on all lags.
    fn index(&self, axis: usize, place: usize) -> usize {
        let after: usize = self.lags[axis + 1..].iter().product();
        place / after % self.lags[axis]
    }

    /// Writes the gradients of the taps of output `m` from that of their sum of products, which is in `whole`.
    #[inline(always)]
    fn write_gradient(&self, simd: S, call: &Backward, m: usize, columns: &Range<usize>) {
        for term in 0..self.rank {
            let taps = self.term(term, m);
            for axis in 0..self.lags.len() {
                let mut by_taps = vec![simd.splat_f32s(0.0); self.lags[axis]];
                for (place, &by_whole) in self.whole.iter().enumerate() {
                    let by_tap = &mut by_taps[self.index(axis, place)];
                    let factors = self.factors(simd, taps, place, Some(axis));
                    *by_tap = mul_add(simd, by_whole, factors, *by_tap);
                }
                call.write_taps::<S>([term, m, axis], columns, &by_taps);
            }
        }
    }
}
