//! What a block of channels reads and writes: a channel in each lane, a vector for each position of an image.

use std::ops::Range;

use pulp::Simd;

use crate::long_convolution::host::fft::{Sink, Source};
use crate::long_convolution::host::lanes::TERMS;
use crate::long_convolution::nd::{Cotangents, Inputs, Problem};
use crate::simd::mul_add;
use crate::vector::{SharedRows, load_at, part, store_at};

#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub problem: &'a Problem,
    pub inputs: &'a Inputs<'a>,
    /// y, `[batch · positions, outputs]`.
    pub out: SharedRows<'a>,
}

#[derive(Clone, Copy)]
pub(super) struct Backward<'a> {
    pub problem: &'a Problem,
    pub inputs: &'a Inputs<'a>,
    pub cotangents: &'a Cotangents<'a>,
    /// ū, `[batch · positions, channels]`.
    pub input: SharedRows<'a>,
    /// k̄, `[rank · multiplicity · channels, lags]`.
    pub kernel: SharedRows<'a>,
    /// D̄, `[1, multiplicity · channels]`.
    pub skip: Option<SharedRows<'a>>,
}

/// The columns of output `m` of the channels `columns`.
fn outputs(problem: &Problem, m: usize, columns: &Range<usize>) -> Range<usize> {
    m * problem.channels + columns.start..m * problem.channels + columns.end
}

/// Loads image `b` of a block of channels, a vector for each position.
#[inline(always)]
pub(super) fn load_image<S: Simd>(
    simd: S,
    problem: &Problem,
    inputs: &Inputs,
    b: usize,
    columns: &Range<usize>,
    to: &mut [S::f32s],
) {
    for (position, to) in to.iter_mut().enumerate() {
        let row = b * problem.positions() + position;
        *to = load_at(simd, part(&inputs.input, row, columns.clone()), 0);
    }
}

/// The taps of a term of output `m` on axis `axis`, as many as meet anything, by their lags.
///
/// # Shapes
/// `to` a vector for each of them, overwritten.
pub(super) fn load_taps<S: Simd>(
    problem: &Problem,
    inputs: &Inputs,
    [term, m, axis]: [usize; 3],
    columns: &Range<usize>,
    to: &mut [S::f32s],
) {
    let to: &mut [f32] = bytemuck::cast_slice_mut(to);
    to.fill(0.0);
    let taps = taps(problem, axis);
    for (lane, column) in outputs(problem, m, columns).enumerate() {
        let row = term * problem.outputs() + column;
        let from = &inputs.kernel[row * problem.axes.lags()..][taps.clone()];
        let lanes = to.iter_mut().skip(lane).step_by(S::F32_LANES);
        lanes.zip(from).for_each(|(to, &tap)| *to = tap);
    }
}

/// Where the taps on an axis that meet anything lie among those of all axes.
fn taps(problem: &Problem, axis: usize) -> Range<usize> {
    let axes = problem.axes.as_slice();
    let before: usize = axes[..axis].iter().map(|axis| axis.lags()).sum();
    let used = axes[axis].used();
    before + used.start..before + used.end
}

impl Forward<'_> {
    /// Writes an image of output `m`, with what the skip adds.
    #[inline(always)]
    pub fn write<S: Simd>(
        &self,
        simd: S,
        [b, m]: [usize; 2],
        columns: &Range<usize>,
        image: &[S::f32s],
        found: &[S::f32s],
    ) {
        let outputs = outputs(self.problem, m, columns);
        let skip = self
            .inputs
            .skip
            .map(|skip| load_at(simd, &skip[outputs.clone()], 0));
        for (position, (&input, &sum)) in image.iter().zip(found).enumerate() {
            let sum = match skip {
                Some(skip) => mul_add(simd, skip, input, sum),
                None => sum,
            };
            // SAFETY: tasks write different columns, and a task one position at a time.
            let to = unsafe {
                self.out
                    .part(b * self.problem.positions() + position, outputs.clone())
            };
            store_at(simd, to, 0, sum);
        }
    }
}

impl Backward<'_> {
    /// The cotangent of an image of output `m`.
    #[inline(always)]
    pub fn load_cotangent<S: Simd>(
        &self,
        simd: S,
        [b, m]: [usize; 2],
        columns: &Range<usize>,
        to: &mut [S::f32s],
    ) {
        let outputs = outputs(self.problem, m, columns);
        for (position, to) in to.iter_mut().enumerate() {
            let row = b * self.problem.positions() + position;
            *to = load_at(simd, part(&self.cotangents.out, row, outputs.clone()), 0);
        }
    }

    /// Adds what the skip of output `m` passes on, to the gradient of an image and to that of the skip.
    #[inline(always)]
    pub fn skip<S: Simd>(
        &self,
        simd: S,
        m: usize,
        columns: &Range<usize>,
        (image, cotangent): (&[S::f32s], &[S::f32s]),
        (by_image, by_skip): (&mut [S::f32s], &mut [f64]),
    ) {
        let Some(skip) = self.inputs.skip else { return };
        let skip = load_at(simd, &skip[outputs(self.problem, m, columns)], 0);
        let chunks = by_image.chunks_mut(TERMS).zip(image.chunks(TERMS));
        for ((by_image, image), cotangent) in chunks.zip(cotangent.chunks(TERMS)) {
            let mut sum = simd.splat_f32s(0.0);
            for ((by_image, &input), &cotangent) in by_image.iter_mut().zip(image).zip(cotangent) {
                *by_image = mul_add(simd, skip, cotangent, *by_image);
                sum = mul_add(simd, input, cotangent, sum);
            }
            let lanes: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&sum));
            by_skip
                .iter_mut()
                .zip(lanes)
                .for_each(|(sum, &lane)| *sum += f64::from(lane));
        }
    }

    /// Writes the gradient of an image.
    #[inline(always)]
    pub fn write_input<S: Simd>(&self, simd: S, b: usize, columns: &Range<usize>, by_image: &[S::f32s]) {
        for (position, &sum) in by_image.iter().enumerate() {
            let row = b * self.problem.positions() + position;
            // SAFETY: tasks write different columns, and a task one position at a time.
            let to = unsafe { self.input.part(row, columns.clone()) };
            store_at(simd, to, 0, sum);
        }
    }

    /// Writes the gradients of the taps that [`load_taps`] loads.
    pub fn write_taps<S: Simd>(
        &self,
        [term, m, axis]: [usize; 3],
        columns: &Range<usize>,
        by_taps: &[S::f32s],
    ) {
        let from: &[f32] = bytemuck::cast_slice(by_taps);
        let taps = taps(self.problem, axis);
        for (lane, column) in outputs(self.problem, m, columns).enumerate() {
            let row = term * self.problem.outputs() + column;
            // SAFETY: rows are channels, and no two tasks have one in common.
            let to = unsafe { self.kernel.part(row, taps.clone()) };
            let lanes = from.iter().skip(lane).step_by(S::F32_LANES);
            to.iter_mut().zip(lanes).for_each(|(to, &tap)| *to = tap);
        }
    }

    /// Zeros for the gradients of the taps that meet nothing.
    pub fn write_idle_taps(&self, columns: &Range<usize>) {
        let problem = self.problem;
        let used: Vec<_> = (0..problem.axes.as_slice().len())
            .map(|axis| taps(problem, axis))
            .collect();
        for term in 0..problem.rank {
            for m in 0..problem.multiplicity {
                for column in outputs(problem, m, columns) {
                    let row = term * problem.outputs() + column;
                    // SAFETY: rows are channels, and no two tasks have one in common.
                    let to = unsafe { self.kernel.part(row, 0..problem.axes.lags()) };
                    let idle = to.iter_mut().enumerate();
                    let idle = idle.filter(|(tap, _)| !used.iter().any(|used| used.contains(tap)));
                    idle.for_each(|(_, to)| *to = 0.0);
                }
            }
        }
    }

    /// Writes the gradient of the skip of output `m`, where it is wanted.
    pub fn write_skip(&self, m: usize, columns: &Range<usize>, by_skip: &[f64]) {
        if let Some(skip) = &self.skip {
            // SAFETY: tasks have different columns.
            let to = unsafe { skip.part(0, outputs(self.problem, m, columns)) };
            to.iter_mut().zip(by_skip).for_each(|(to, &sum)| *to = sum as f32);
        }
    }
}

/// Values at a stride, from a first one on.
pub(super) struct Strided<'a, S: Simd> {
    pub values: &'a [S::f32s],
    pub first: usize,
    pub stride: usize,
}

impl<S: Simd> Source<S> for Strided<'_, S> {
    #[inline(always)]
    fn at(&self, _simd: S, place: usize) -> S::f32s {
        self.values[self.first + place * self.stride]
    }
}

/// As [`Strided`], to be written.
pub(super) struct StridedMut<'a, S: Simd> {
    pub values: &'a mut [S::f32s],
    pub first: usize,
    pub stride: usize,
}

impl<S: Simd> Sink<S> for StridedMut<'_, S> {
    #[inline(always)]
    fn put(&mut self, _simd: S, place: usize, value: S::f32s) {
        self.values[self.first + place * self.stride] = value;
    }
}

impl<S: Simd> Source<S> for StridedMut<'_, S> {
    #[inline(always)]
    fn at(&self, _simd: S, place: usize) -> S::f32s {
        self.values[self.first + place * self.stride]
    }
}
