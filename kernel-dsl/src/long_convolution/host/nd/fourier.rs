//! The convolution by Fourier transforms over all axes, of the kernel as a whole: for kernels of many terms.

use std::ops::Range;

use pulp::Simd;

use super::grid::{Grid, Side, Way};
use super::lanes::{Backward, Forward, load_image, load_taps};
use crate::long_convolution::host::butterfly::{Point, product};
use crate::long_convolution::host::fourier::add_correlation;
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
            grid.turn(simd, Way::Down, Side::Image, &mut image, &mut signal, &mut line);
            for m in 0..problem.multiplicity {
                let spectrum = &kernels.spectra[m];
                for ((to, &x), &k) in product_of.iter_mut().zip(&signal).zip(spectrum) {
                    *to = product(simd, x, k);
                }
                grid.turn(simd, Way::Up, Side::Image, &mut found, &mut product_of, &mut line);
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
            grid.turn(simd, Way::Down, Side::Image, &mut image, &mut signal, &mut line);
            by_signal.fill([zero; 2]);
            for (m, kept) in cotangents.iter_mut().enumerate() {
                call.load_cotangent(simd, [b, m], &columns, kept);
                grid.turn(simd, Way::Down, Side::Image, kept, &mut of_output, &mut line);
                add_correlation(simd, false, &kernels.spectra[m], &of_output, &mut by_signal);
                add_correlation(simd, false, &signal, &of_output, &mut by_spectra[m]);
            }
            grid.turn(
                simd,
                Way::Up,
                Side::Image,
                &mut by_image,
                &mut by_signal,
                &mut line,
            );
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
            grid.turn(
                simd,
                Way::Up,
                Side::Kernel,
                &mut kernels.whole,
                by_spectrum,
                &mut line,
            );
            kernels.write_gradient(simd, call, m, &columns);
        }
        call.write_idle_taps(&columns);
        for (m, by_skip) in by_skip.chunks_exact(S::F32_LANES).enumerate() {
            call.write_skip(m, &columns, by_skip);
        }
    }
}

/// The kernels of some channels: taps of every term, and the transforms of their sums.
struct Kernels<S: Simd> {
    /// Taps of the kernels, by term, output and axis.
    taps: Vec<Vec<S::f32s>>,
    /// Transforms of the kernels, one for each output.
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
        let lags: Vec<usize> = grid.reaches().map(Reach::lags).collect();
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
            grid.turn(
                simd,
                Way::Down,
                Side::Kernel,
                &mut whole,
                &mut self.spectra[m],
                line,
            );
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
