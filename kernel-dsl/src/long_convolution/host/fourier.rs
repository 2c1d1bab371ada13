//! By transforms: for many taps and tokens.

use std::ops::Range;

use pulp::Simd;

use super::fft::{Plan, Point, product, product_conjugate};
use super::lanes::{Backward, Forward, columns, input, load_kernel};
use crate::long_convolution::problem::Reach;
use crate::long_convolution::{Inputs, Problem};

#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, call: &Forward, channels: Range<usize>) {
    let problem = call.problem;
    let plan = Plan::of(call.reach.places());
    let (points, zero) = (plan.points(), [simd.splat_f32s(0.0); 2]);
    let mut kernels = Kernels::<S>::new(simd, &plan, problem, &call.reach);
    let [mut signal, mut found] = [(); 2].map(|()| vec![zero; points]);
    for columns in columns::<S>(channels) {
        kernels.transform(simd, &plan, problem, call.inputs, &columns);
        for b in 0..problem.batch {
            let input = |t: usize| input(simd, problem, call.inputs, b, t, &columns);
            plan.analyse(simd, problem.time, &mut signal, input);
            for (m, kernel) in kernels.spectra.chunks_exact(points).enumerate() {
                for ((found, &x), &k) in found.iter_mut().zip(&signal).zip(kernel) {
                    *found = product(simd, x, k);
                }
                plan.synthesise(simd, &mut found, call.reach.positions, |t, sum| {
                    call.write(simd, [b, m, t], &columns, input, sum);
                });
            }
        }
    }
}

#[inline(always)]
pub(super) fn backward<S: Simd>(simd: S, call: &Backward, channels: Range<usize>) {
    let (problem, reach) = (call.problem, &call.reach);
    let plan = Plan::of(reach.places());
    let (points, zero) = (plan.points(), [simd.splat_f32s(0.0); 2]);
    let mut kernels = Kernels::<S>::new(simd, &plan, problem, reach);
    let mut by_kernels = vec![zero; kernels.spectra.len()];
    let [mut signal, mut cotangent, mut by_input] = [(); 3].map(|()| vec![zero; points]);
    for columns in columns::<S>(channels) {
        kernels.transform(simd, &plan, problem, call.inputs, &columns);
        by_kernels.fill(zero);
        for b in 0..problem.batch {
            let input = |t: usize| input(simd, problem, call.inputs, b, t, &columns);
            plan.analyse(simd, problem.time, &mut signal, input);
            by_input.fill(zero);
            let outputs = kernels.spectra.chunks_exact(points);
            for (m, (kernel, by_kernel)) in outputs.zip(by_kernels.chunks_exact_mut(points)).enumerate() {
                plan.analyse(simd, reach.positions, &mut cotangent, |t| {
                    call.cotangent(simd, [b, m, t], &columns)
                });
                let by_both = by_input.iter_mut().zip(by_kernel);
                let both = kernel.iter().zip(&signal);
                for ((&y, (&k, &x)), (by_input, by_kernel)) in cotangent.iter().zip(both).zip(by_both) {
                    *by_input = sum(simd, *by_input, product_conjugate(simd, k, y));
                    *by_kernel = sum(simd, *by_kernel, product_conjugate(simd, x, y));
                }
            }
            plan.synthesise(simd, &mut by_input, problem.time, |t, sum| {
                call.write_input(simd, [b, t], &columns, sum);
            });
        }
        for (m, by_kernel) in by_kernels.chunks_exact_mut(points).enumerate() {
            kernels.pull_back(simd, &plan, by_kernel);
            call.write_kernel::<S>(m, &columns, &kernels.lags);
        }
        call.write_skip(simd, &columns);
    }
}

/// The kernels of some channels, as transforms.
struct Kernels<'a, S: Simd> {
    reach: &'a Reach,
    /// Of all outputs, divided by the number of points.
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
            spectra: vec![[zero; 2]; problem.multiplicity * plan.points()],
            lags: vec![zero; reach.lags()],
            scale: simd.splat_f32s(1.0 / plan.points() as f32),
        }
    }

    #[inline(always)]
    fn transform(
        &mut self,
        simd: S,
        plan: &Plan,
        problem: &Problem,
        inputs: &Inputs,
        columns: &Range<usize>,
    ) {
        let Self {
            reach,
            spectra,
            lags,
            scale,
        } = self;
        let (back, places) = (reach.back(), 2 * plan.points());
        let end = if back > 0 { places } else { reach.ahead };
        for (m, spectrum) in spectra.chunks_exact_mut(plan.points()).enumerate() {
            load_kernel::<S>(problem, reach, inputs, m, columns, lags);
            plan.analyse(simd, end, spectrum, |place| {
                if place < reach.ahead {
                    simd.mul_f32s(lags[back + place], *scale)
                } else if place + back >= places {
                    // Behind the last place the sign changes.
                    simd.mul_f32s(simd.neg_f32s(lags[place + back - places]), *scale)
                } else {
                    simd.splat_f32s(0.0)
                }
            });
        }
    }

    /// From the gradient of a spectrum to that of the taps, in `lags`.
    #[inline(always)]
    fn pull_back(&mut self, simd: S, plan: &Plan, spectrum: &mut [Point<S>]) {
        let Self {
            reach, lags, scale, ..
        } = self;
        let (back, places) = (reach.back(), 2 * plan.points());
        let end = if back > 0 { places } else { reach.ahead };
        plan.synthesise(simd, spectrum, end, |place, sum| {
            if place < reach.ahead {
                lags[back + place] = simd.mul_f32s(sum, *scale);
            } else if place + back >= places {
                lags[place + back - places] = simd.mul_f32s(simd.neg_f32s(sum), *scale);
            }
        });
    }
}

#[inline(always)]
fn sum<S: Simd>(simd: S, x: Point<S>, y: Point<S>) -> Point<S> {
    [simd.add_f32s(x[0], y[0]), simd.add_f32s(x[1], y[1])]
}
