//! The convolution by Fourier transforms: for many taps and tokens.

use std::ops::Range;

use pulp::Simd;

use super::butterfly::{Point, product, product_conjugate};
use super::fft::{Plan, Sink, Source};
use super::lanes::{Backward, Forward, columns, input, load_kernel};
use crate::long_convolution::problem::Reach;
use crate::long_convolution::{Inputs, Problem};

#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, call: &Forward, channels: Range<usize>) {
    let problem = call.problem;
    let plan = Plan::of(call.reach.places());
    let (room, zero) = (plan.room(), [simd.splat_f32s(0.0); 2]);
    let mut kernels = Kernels::<S>::new(simd, &plan, problem, &call.reach);
    let mut signal = vec![zero; room];
    // The last output's product takes the place of the signal's transform.
    let mut found = vec![zero; if problem.multiplicity > 1 { room } else { 0 }];
    for columns in columns::<S>(channels) {
        let columns = &columns;
        kernels.begin(simd, &plan, problem, call.inputs, columns);
        for b in 0..problem.batch {
            let inputs = call.inputs;
            plan.outer(
                simd,
                problem.time,
                &mut signal,
                &Tokens {
                    problem,
                    inputs,
                    b,
                    columns,
                },
            );
            for (m, kernel) in kernels.spectra.chunks_exact_mut(room).enumerate() {
                let fresh = Fresh {
                    signal: m == 0,
                    kernel: b == 0,
                };
                let mut written = Written { call, b, m, columns };
                let end = call.reach.positions;
                if m + 1 < problem.multiplicity {
                    convolve(simd, &plan, fresh, (&mut signal, kernel), Some(&mut found));
                    plan.outer_back(simd, &mut found, end, &mut written);
                } else {
                    convolve(simd, &plan, fresh, (&mut signal, kernel), None);
                    plan.outer_back(simd, &mut signal, end, &mut written);
                }
            }
        }
    }
}

/// Which transforms have seen the outer stage alone.
#[derive(Clone, Copy)]
struct Fresh {
    signal: bool,
    kernel: bool,
}

/// The product of two transforms, taken back to the outer stage, in `found` or else in place of the signal.
#[inline(always)]
fn convolve<S: Simd>(
    simd: S,
    plan: &Plan,
    fresh: Fresh,
    (signal, kernel): (&mut [Point<S>], &mut [Point<S>]),
    mut found: Option<&mut [Point<S>]>,
) {
    let inner = plan.inner_block();
    for block in plan.outer_blocks() {
        if fresh.signal {
            plan.middle(simd, &mut signal[block.clone()]);
        }
        if fresh.kernel {
            plan.middle(simd, &mut kernel[block.clone()]);
        }
        for first in block.clone().step_by(inner) {
            let block = first..first + inner;
            let (signal, kernel) = (&mut signal[block.clone()], &mut kernel[block.clone()]);
            if fresh.signal {
                plan.inner(simd, signal);
            }
            if fresh.kernel {
                plan.inner(simd, kernel);
            }
            match &mut found {
                Some(found) => {
                    let found = &mut found[block];
                    for ((found, &x), &k) in found.iter_mut().zip(&*signal).zip(&*kernel) {
                        *found = product(simd, x, k);
                    }
                    plan.inner_back(simd, found);
                }
                None => {
                    for (x, &k) in signal.iter_mut().zip(&*kernel) {
                        *x = product(simd, *x, k);
                    }
                    plan.inner_back(simd, signal);
                }
            }
        }
        match &mut found {
            Some(found) => plan.middle_back(simd, &mut found[block]),
            None => plan.middle_back(simd, &mut signal[block]),
        }
    }
}

#[inline(always)]
pub(super) fn backward<S: Simd>(simd: S, call: &Backward, channels: Range<usize>) {
    let (problem, reach) = (call.problem, &call.reach);
    let plan = Plan::of(reach.places());
    let (room, zero) = (plan.room(), [simd.splat_f32s(0.0); 2]);
    let mut kernels = Kernels::<S>::new(simd, &plan, problem, reach);
    let mut by_kernels = vec![zero; kernels.spectra.len()];
    let [mut signal, mut cotangent, mut by_input] = [(); 3].map(|()| vec![zero; room]);
    for columns in columns::<S>(channels) {
        let columns = &columns;
        kernels.begin(simd, &plan, problem, call.inputs, columns);
        for b in 0..problem.batch {
            let inputs = call.inputs;
            plan.outer(
                simd,
                problem.time,
                &mut signal,
                &Tokens {
                    problem,
                    inputs,
                    b,
                    columns,
                },
            );
            let outputs = kernels.spectra.chunks_exact_mut(room);
            for (m, (kernel, by_kernel)) in outputs.zip(by_kernels.chunks_exact_mut(room)).enumerate() {
                plan.outer(
                    simd,
                    reach.positions,
                    &mut cotangent,
                    &Cotangent { call, b, m, columns },
                );
                let stages = Stages {
                    sequence: (b == 0, b + 1 == problem.batch),
                    output: (m == 0, m + 1 == problem.multiplicity),
                };
                let transforms = Transforms {
                    signal: &mut signal,
                    kernel,
                    cotangent: &mut cotangent,
                    by_input: &mut by_input,
                    by_kernel,
                };
                correlate(simd, &plan, stages, transforms);
            }
            plan.outer_back(
                simd,
                &mut by_input,
                problem.time,
                &mut InputGradient { call, b, columns },
            );
        }
        for (m, by_kernel) in by_kernels.chunks_exact_mut(room).enumerate() {
            kernels.pull_back(simd, &plan, by_kernel);
            call.write_kernel::<S>(m, columns, &kernels.lags);
        }
        call.write_skip(simd, columns);
    }
}

/// Whether a sequence and an output are the first, and the last, of a block of channels.
#[derive(Clone, Copy)]
struct Stages {
    sequence: (bool, bool),
    output: (bool, bool),
}

/// What [`correlate`] reads and writes, [`Plan::room`] points each.
struct Transforms<'a, S: Simd> {
    signal: &'a mut [Point<S>],
    kernel: &'a mut [Point<S>],
    cotangent: &'a mut [Point<S>],
    by_input: &'a mut [Point<S>],
    by_kernel: &'a mut [Point<S>],
}

/// Adds the correlations of a cotangent with kernel and signal, which are taken back to the outer stage with the last term.
#[inline(always)]
fn correlate<S: Simd>(simd: S, plan: &Plan, stages: Stages, transforms: Transforms<S>) {
    let Transforms {
        signal,
        kernel,
        cotangent,
        by_input,
        by_kernel,
    } = transforms;
    let (sequence, output) = (stages.sequence, stages.output);
    let inner = plan.inner_block();
    for block in plan.outer_blocks() {
        if output.0 {
            plan.middle(simd, &mut signal[block.clone()]);
        }
        if sequence.0 {
            plan.middle(simd, &mut kernel[block.clone()]);
        }
        plan.middle(simd, &mut cotangent[block.clone()]);
        for first in block.clone().step_by(inner) {
            let block = first..first + inner;
            let (signal, kernel) = (&mut signal[block.clone()], &mut kernel[block.clone()]);
            let cotangent = &mut cotangent[block.clone()];
            if output.0 {
                plan.inner(simd, signal);
            }
            if sequence.0 {
                plan.inner(simd, kernel);
            }
            plan.inner(simd, cotangent);
            let by_input = &mut by_input[block.clone()];
            add_correlation(simd, output.0, kernel, cotangent, by_input);
            if output.1 {
                plan.inner_back(simd, by_input);
            }
            let by_kernel = &mut by_kernel[block];
            add_correlation(simd, sequence.0, signal, cotangent, by_kernel);
            if sequence.1 {
                plan.inner_back(simd, by_kernel);
            }
        }
        if output.1 {
            plan.middle_back(simd, &mut by_input[block.clone()]);
        }
        if sequence.1 {
            plan.middle_back(simd, &mut by_kernel[block]);
        }
    }
}

/// sum ← x̄ y, or with what is there before.
#[inline(always)]
pub(super) fn add_correlation<S: Simd>(
    simd: S,
    first: bool,
    x: &[Point<S>],
    y: &[Point<S>],
    sum: &mut [Point<S>],
) {
    for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
        let [re, im] = product_conjugate(simd, x, y);
        *sum = match first {
            true => [re, im],
            false => [simd.add_f32s(sum[0], re), simd.add_f32s(sum[1], im)],
        };
    }
}

/// The tokens of a sequence.
struct Tokens<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    b: usize,
    columns: &'a Range<usize>,
}

impl<S: Simd> Source<S> for Tokens<'_> {
    #[inline(always)]
    fn at(&self, simd: S, place: usize) -> S::f32s {
        input(simd, self.problem, self.inputs, self.b, place, self.columns)
    }
}

/// The outputs of a sequence.
struct Written<'a> {
    call: &'a Forward<'a>,
    b: usize,
    m: usize,
    columns: &'a Range<usize>,
}

impl<S: Simd> Sink<S> for Written<'_> {
    #[inline(always)]
    fn put(&mut self, simd: S, place: usize, value: S::f32s) {
        self.call
            .write(simd, [self.b, self.m, place], self.columns, value);
    }
}

/// The cotangent of an output of a sequence.
struct Cotangent<'a> {
    call: &'a Backward<'a>,
    b: usize,
    m: usize,
    columns: &'a Range<usize>,
}

impl<S: Simd> Source<S> for Cotangent<'_> {
    #[inline(always)]
    fn at(&self, simd: S, place: usize) -> S::f32s {
        self.call.cotangent(simd, [self.b, self.m, place], self.columns)
    }
}

/// The gradient by the tokens of a sequence.
struct InputGradient<'a> {
    call: &'a Backward<'a>,
    b: usize,
    columns: &'a Range<usize>,
}

impl<S: Simd> Sink<S> for InputGradient<'_> {
    #[inline(always)]
    fn put(&mut self, simd: S, place: usize, value: S::f32s) {
        self.call.write_input(simd, [self.b, place], self.columns, value);
    }
}

/// The kernels of some channels, as transforms.
struct Kernels<'a, S: Simd> {
    reach: &'a Reach,
    /// Spectra of the kernels of all outputs, divided by the number of points.
    spectra: Vec<Point<S>>,
    /// The taps of one output, or their gradients, by their lags.
    lags: Vec<S::f32s>,
    scale: S::f32s,
}

impl<'a, S: Simd> Kernels<'a, S> {
    #[inline(always)]
    fn new(simd: S, plan: &Plan, problem: &Problem, reach: &'a Reach) -> Self {
        let zero = simd.splat_f32s(0.0);
        Self {
            reach,
            spectra: vec![[zero; 2]; problem.multiplicity * plan.room()],
            lags: vec![zero; reach.lags()],
            scale: simd.splat_f32s(1.0 / plan.points() as f32),
        }
    }

    /// The outer stage of all kernels.
    #[inline(always)]
    fn begin(&mut self, simd: S, plan: &Plan, problem: &Problem, inputs: &Inputs, columns: &Range<usize>) {
        let end = end_of_taps(plan, self.reach);
        for (m, spectrum) in self.spectra.chunks_exact_mut(plan.room()).enumerate() {
            load_kernel::<S>(problem, self.reach, inputs, m, columns, &mut self.lags);
            let taps = Taps {
                reach: self.reach,
                places: 2 * plan.points(),
                lags: &mut self.lags,
                scale: self.scale,
            };
            plan.outer(simd, end, spectrum, &taps);
        }
    }

    /// Takes the gradient by a spectrum, at the outer stage, to the gradient by the taps, in `lags`.
    #[inline(always)]
    fn pull_back(&mut self, simd: S, plan: &Plan, spectrum: &mut [Point<S>]) {
        let end = end_of_taps(plan, self.reach);
        let mut taps = Taps {
            reach: self.reach,
            places: 2 * plan.points(),
            lags: &mut self.lags,
            scale: self.scale,
        };
        plan.outer_back(simd, spectrum, end, &mut taps);
    }
}

/// Places of a kernel that may hold a tap.
pub(super) fn end_of_taps(plan: &Plan, reach: &Reach) -> usize {
    match reach.back() {
        0 => reach.ahead,
        _ => 2 * plan.points(),
    }
}

/// Taps by their lags, at the places of a transform: behind the last place the sign changes.
pub(super) struct Taps<'a, S: Simd> {
    pub reach: &'a Reach,
    /// N = 2M, the number of places of the transform.
    pub places: usize,
    /// A tap for every lag, from −back to ahead − 1.
    pub lags: &'a mut [S::f32s],
    /// What every tap is multiplied by, on its way in and out.
    pub scale: S::f32s,
}

impl<S: Simd> Source<S> for Taps<'_, S> {
    #[inline(always)]
    fn at(&self, simd: S, place: usize) -> S::f32s {
        let back = self.reach.back();
        if place < self.reach.ahead {
            simd.mul_f32s(self.lags[back + place], self.scale)
        } else if place + back >= self.places {
            simd.mul_f32s(simd.neg_f32s(self.lags[place + back - self.places]), self.scale)
        } else {
            simd.splat_f32s(0.0)
        }
    }
}

impl<S: Simd> Sink<S> for Taps<'_, S> {
    #[inline(always)]
    fn put(&mut self, simd: S, place: usize, value: S::f32s) {
        let back = self.reach.back();
        if place < self.reach.ahead {
            self.lags[back + place] = simd.mul_f32s(value, self.scale);
        } else if place + back >= self.places {
            self.lags[place + back - self.places] = simd.mul_f32s(simd.neg_f32s(value), self.scale);
        }
    }
}
