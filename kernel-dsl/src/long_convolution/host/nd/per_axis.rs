//! Along one axis after another, term by term.

use std::ops::Range;
use std::sync::Arc;

use pulp::{Simd, WithSimd};

use super::lanes::{Backward, Forward, Strided, StridedMut, load_image, load_taps};
use crate::long_convolution::host::butterfly::{Point, product, product_conjugate};
use crate::long_convolution::host::direct::slide;
use crate::long_convolution::host::fft::Plan;
use crate::long_convolution::host::fourier::{Taps, add_correlation, end_of_taps};
use crate::long_convolution::host::lanes::columns;
use crate::long_convolution::nd::{Inputs, Problem};
use crate::long_convolution::problem::Reach;

#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, call: &Forward, channels: Range<usize>) {
    let (problem, zero) = (call.problem, simd.splat_f32s(0.0));
    let lines = Lines::all(problem);
    let mut kernels = Kernels::<S>::new(simd, problem, &lines);
    let mut scratch = Scratch::<S>::new(simd, &lines);
    let [mut image, mut from, mut to, mut sum] = [(); 4].map(|()| vec![zero; problem.positions()]);
    for columns in columns::<S>(channels) {
        kernels.load(simd, problem, call.inputs, &lines, &columns);
        for b in 0..problem.batch {
            load_image(simd, problem, call.inputs, b, &columns, &mut image);
            for m in 0..problem.multiplicity {
                sum.fill(zero);
                for term in 0..problem.rank {
                    from.copy_from_slice(&image);
                    for (line, kernel) in lines.iter().zip(kernels.of(term, m)) {
                        convolve(simd, line, kernel, &from, &mut to, &mut scratch);
                        std::mem::swap(&mut from, &mut to);
                    }
                    sum.iter_mut()
                        .zip(&from)
                        .for_each(|(sum, &value)| *sum = simd.add_f32s(*sum, value));
                }
                call.write(simd, [b, m], &columns, &image, &sum);
            }
        }
    }
}

#[inline(always)]
pub(super) fn backward<S: Simd>(simd: S, call: &Backward, channels: Range<usize>) {
    let (problem, zero) = (call.problem, simd.splat_f32s(0.0));
    let lines = Lines::all(problem);
    let mut kernels = Kernels::<S>::new(simd, problem, &lines);
    let mut scratch = Scratch::<S>::new(simd, &lines);
    let empty = || vec![zero; problem.positions()];
    // What goes into each axis, and the cotangents of what comes out of it.
    let mut images = vec![empty(); lines.len()];
    let [mut cotangent, mut by_out, mut by_in, mut by_image] = [(); 4].map(|()| empty());
    let mut by_skip = vec![0.0_f64; problem.multiplicity * S::F32_LANES];
    for columns in columns::<S>(channels) {
        kernels.load(simd, problem, call.inputs, &lines, &columns);
        by_skip.fill(0.0);
        for b in 0..problem.batch {
            load_image(simd, problem, call.inputs, b, &columns, &mut images[0]);
            by_image.fill(zero);
            for (m, by_skip) in by_skip.chunks_exact_mut(S::F32_LANES).enumerate() {
                call.load_cotangent(simd, [b, m], &columns, &mut cotangent);
                for term in 0..problem.rank {
                    let kernels = kernels.of_mut(term, m);
                    for axis in 1..lines.len() {
                        let (before, after) = images.split_at_mut(axis);
                        let (from, to) = (&before[axis - 1], &mut after[0]);
                        convolve(simd, &lines[axis - 1], &kernels[axis - 1], from, to, &mut scratch);
                    }
                    by_out.copy_from_slice(&cotangent);
                    let axes = lines.iter().zip(kernels).zip(&images);
                    for ((line, kernel), image) in axes.rev() {
                        correlate(
                            simd,
                            line,
                            kernel,
                            (image, by_out.as_slice()),
                            &mut by_in,
                            &mut scratch,
                        );
                        std::mem::swap(&mut by_in, &mut by_out);
                    }
                    by_image
                        .iter_mut()
                        .zip(&by_out)
                        .for_each(|(sum, &value)| *sum = simd.add_f32s(*sum, value));
                }
                call.skip(
                    simd,
                    m,
                    &columns,
                    (&images[0][..], &cotangent[..]),
                    (&mut by_image[..], by_skip),
                );
            }
            call.write_input(simd, b, &columns, &by_image);
        }
        kernels.write(simd, call, &lines, &columns);
        for (m, by_skip) in by_skip.chunks_exact(S::F32_LANES).enumerate() {
            call.write_skip(m, &columns, by_skip);
        }
    }
}

/// The lines of an image along one axis.
struct Lines {
    reach: Reach,
    /// Distance between neighbours of a line.
    stride: usize,
    /// Number of lines in an image.
    count: usize,
    /// Plan by which the lines are transformed; `None` where they are summed up tap by tap.
    plan: Option<Arc<Plan>>,
}

impl Lines {
    fn all(problem: &Problem) -> Vec<Self> {
        let axes = problem.axes.as_slice();
        let lines = axes.iter().enumerate().map(|(index, axis)| {
            let reach = axis.reach();
            Self {
                reach,
                stride: axes[index + 1..].iter().map(|axis| axis.size).product(),
                count: problem.positions() / axis.size.max(1),
                plan: (!axis.is_direct()).then(|| Plan::of(reach.places())),
            }
        });
        lines.collect()
    }

    /// Where each of them begins.
    fn starts(&self) -> impl Iterator<Item = usize> + use<> {
        let (stride, group) = (self.stride, self.stride * self.reach.time);
        (0..self.count).map(move |line| line / stride * group + line % stride)
    }
}

/// Room for a line and its transforms.
struct Scratch<S: Simd> {
    signal: Vec<S::f32s>,
    line: Vec<S::f32s>,
    points: [Vec<Point<S>>; 2],
}

impl<S: Simd> Scratch<S> {
    #[inline(always)]
    fn new(simd: S, lines: &[Lines]) -> Self {
        let most = |of: fn(&Lines) -> usize| lines.iter().map(of).max().unwrap_or(0);
        let zero = simd.splat_f32s(0.0);
        let points = most(|line| line.plan.as_ref().map_or(0, |plan| plan.room()));
        Self {
            signal: vec![zero; most(|line| 2 * (line.reach.time + line.reach.lags()))],
            line: vec![zero; most(|line| line.reach.time)],
            points: [(); 2].map(|()| vec![[zero; 2]; points]),
        }
    }
}

/// The taps of a term on one axis, and the gradients by them.
struct AxisKernel<S: Simd> {
    /// Taps by their lags, from −back on.
    taps: Vec<S::f32s>,
    /// The other way around, as a window slides over a line.
    reversed: Vec<S::f32s>,
    by_taps: Vec<S::f32s>,
    /// The transforms of both, where lines are transformed.
    spectrum: Vec<Point<S>>,
    by_spectrum: Vec<Point<S>>,
}

/// The axis kernels of all terms, outputs and axes.
struct Kernels<S: Simd> {
    all: Vec<AxisKernel<S>>,
    multiplicity: usize,
    axes: usize,
}

impl<S: Simd> Kernels<S> {
    #[inline(always)]
    fn new(simd: S, problem: &Problem, lines: &[Lines]) -> Self {
        let zero = simd.splat_f32s(0.0);
        let count = problem.rank * problem.multiplicity;
        let of_line = |line: &Lines| {
            let (lags, room) = (
                line.reach.lags(),
                line.plan.as_ref().map_or(0, |plan| plan.room()),
            );
            AxisKernel {
                taps: vec![zero; lags],
                reversed: vec![zero; lags],
                by_taps: vec![zero; lags],
                spectrum: vec![[zero; 2]; room],
                by_spectrum: vec![[zero; 2]; room],
            }
        };
        Self {
            all: (0..count).flat_map(|_| lines.iter().map(of_line)).collect(),
            multiplicity: problem.multiplicity,
            axes: lines.len(),
        }
    }

    fn range(&self, term: usize, m: usize) -> Range<usize> {
        let first = (term * self.multiplicity + m) * self.axes;
        first..first + self.axes
    }

    fn of(&self, term: usize, m: usize) -> &[AxisKernel<S>] {
        &self.all[self.range(term, m)]
    }

    fn of_mut(&mut self, term: usize, m: usize) -> &mut [AxisKernel<S>] {
        let range = self.range(term, m);
        &mut self.all[range]
    }

    /// The index of each: term, output, axis.
    fn indices(&self) -> impl Iterator<Item = [usize; 3]> + use<S> {
        let (multiplicity, axes) = (self.multiplicity, self.axes);
        (0..self.all.len()).map(move |index| {
            let (kernel, axis) = (index / axes, index % axes);
            [kernel / multiplicity, kernel % multiplicity, axis]
        })
    }

    /// Loads the kernels of some channels, with gradients of 0.
    #[inline(always)]
    fn load(&mut self, simd: S, problem: &Problem, inputs: &Inputs, lines: &[Lines], columns: &Range<usize>) {
        let zero = simd.splat_f32s(0.0);
        for (index, kernel) in self.indices().zip(&mut self.all) {
            load_taps::<S>(problem, inputs, index, columns, &mut kernel.taps);
            kernel.reversed.copy_from_slice(&kernel.taps);
            kernel.reversed.reverse();
            kernel.by_taps.fill(zero);
            let Lines { reach, plan, .. } = &lines[index[2]];
            if let Some(plan) = plan {
                let taps = taps(simd, plan, reach, &mut kernel.taps);
                plan.outer(simd, end_of_taps(plan, reach), &mut kernel.spectrum, &taps);
                plan.rest(simd, &mut kernel.spectrum);
                kernel.by_spectrum.fill([zero; 2]);
            }
        }
    }

    /// Writes the gradients by the taps of every term, output and axis.
    #[inline(always)]
    fn write(&mut self, simd: S, call: &Backward, lines: &[Lines], columns: &Range<usize>) {
        for (index, kernel) in self.indices().zip(&mut self.all) {
            let Lines { reach, plan, .. } = &lines[index[2]];
            if let Some(plan) = plan {
                plan.rest_back(simd, &mut kernel.by_spectrum);
                let mut taps = taps(simd, plan, reach, &mut kernel.by_taps);
                plan.outer_back(simd, &mut kernel.by_spectrum, end_of_taps(plan, reach), &mut taps);
            }
            call.write_taps::<S>(index, columns, &kernel.by_taps);
        }
        call.write_idle_taps(columns);
    }
}

/// Taps at the places of a transform, divided by its points.
#[inline(always)]
fn taps<'a, S: Simd>(simd: S, plan: &Plan, reach: &'a Reach, lags: &'a mut [S::f32s]) -> Taps<'a, S> {
    Taps {
        reach,
        places: 2 * plan.points(),
        lags,
        scale: simd.splat_f32s(1.0 / plan.points() as f32),
    }
}

/// k ∗ x along every line.
#[inline(always)]
fn convolve<S: Simd>(
    simd: S,
    lines: &Lines,
    kernel: &AxisKernel<S>,
    from: &[S::f32s],
    to: &mut [S::f32s],
    scratch: &mut Scratch<S>,
) {
    let Lines { reach, stride, .. } = lines;
    let (time, stride) = (reach.time, *stride);
    // Before the first position, as many zeros as the largest lag reaches back.
    let before = reach.ahead.saturating_sub(1);
    let filled = before..before + time;
    scratch.signal.fill(simd.splat_f32s(0.0));
    for first in lines.starts() {
        let Some(plan) = &lines.plan else {
            for (t, value) in scratch.signal[filled.clone()].iter_mut().enumerate() {
                *value = from[first + t * stride];
            }
            let signal = &scratch.signal[..time + reach.lags()];
            slide(simd, time, &kernel.reversed, signal, filled.clone(), |t, sum| {
                to[first + t * stride] = sum;
            });
            continue;
        };
        let points = &mut scratch.points[0][..plan.room()];
        transform(simd, plan, from, (first, stride, time), points);
        for (x, &k) in points.iter_mut().zip(&kernel.spectrum) {
            *x = product(simd, *x, k);
        }
        plan.rest_back(simd, points);
        let mut sink = StridedMut::<S> {
            values: to,
            first,
            stride,
        };
        plan.outer_back(simd, points, time, &mut sink);
    }
}

/// The transform of a line: a function of its own in the code for every level of instructions.
#[inline(always)]
fn transform<S: Simd>(
    simd: S,
    plan: &Plan,
    values: &[S::f32s],
    place: (usize, usize, usize),
    points: &mut [Point<S>],
) {
    simd.vectorize(Transform {
        plan,
        values: bytemuck::cast_slice(values),
        place,
        points: bytemuck::cast_slice_mut(points),
    });
}

/// [`transform`], vectors as the values of their lanes.
struct Transform<'a> {
    plan: &'a Plan,
    values: &'a [f32],
    /// Where the line begins, from neighbour to neighbour, and how many there are.
    place: (usize, usize, usize),
    points: &'a mut [f32],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (first, stride, time) = self.place;
        let source = Strided::<S> {
            values: bytemuck::cast_slice(self.values),
            first,
            stride,
        };
        let points: &mut [Point<S>] = bytemuck::cast_slice_mut(self.points);
        self.plan.outer(simd, time, points, &source);
        self.plan.rest(simd, points);
    }
}

/// The cotangent of x from that of k ∗ x along every line, and what they add to the gradients of the taps.
#[inline(always)]
fn correlate<S: Simd>(
    simd: S,
    lines: &Lines,
    kernel: &mut AxisKernel<S>,
    (image, cotangent): (&[S::f32s], &[S::f32s]),
    by_image: &mut [S::f32s],
    scratch: &mut Scratch<S>,
) {
    let Lines { reach, stride, .. } = lines;
    let (time, stride, lags) = (reach.time, *stride, reach.lags());
    let seen = reach.back()..reach.back() + time;
    scratch.signal.fill(simd.splat_f32s(0.0));
    for first in lines.starts() {
        let Some(plan) = &lines.plan else {
            let line = &mut scratch.line[..time];
            for (t, (x, y)) in line.iter_mut().zip(&mut scratch.signal[seen.clone()]).enumerate() {
                *x = image[first + t * stride];
                *y = cotangent[first + t * stride];
            }
            // A window of taps over all of a line, and one of a line over all lags.
            let signal = &scratch.signal[..reach.back() + time + lags];
            slide(simd, time, &kernel.taps, signal, seen.clone(), |t, sum| {
                by_image[first + t * stride] = sum;
            });
            let by_taps = &mut kernel.by_taps;
            slide(simd, lags, line, signal, seen.clone(), |lag, sum| {
                by_taps[lag] = simd.add_f32s(by_taps[lag], sum);
            });
            continue;
        };
        let [x, y] = &mut scratch.points;
        let (x, y) = (&mut x[..plan.room()], &mut y[..plan.room()]);
        transform(simd, plan, image, (first, stride, time), x);
        transform(simd, plan, cotangent, (first, stride, time), y);
        add_correlation(simd, false, x, y, &mut kernel.by_spectrum);
        for (y, &k) in y.iter_mut().zip(&kernel.spectrum) {
            *y = product_conjugate(simd, k, *y);
        }
        plan.rest_back(simd, y);
        let mut sink = StridedMut::<S> {
            values: by_image,
            first,
            stride,
        };
        plan.outer_back(simd, y, time, &mut sink);
    }
}
