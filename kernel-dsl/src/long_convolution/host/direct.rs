//! Tap by tap: for few taps or few tokens.

use std::ops::Range;

use pulp::Simd;

use super::lanes::{Backward, Forward, columns, input, load_kernel};
use crate::simd::mul_add;

/// Places that are summed up together, so that a tap is loaded once for all of them.
const PLACES: usize = 8;

#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, call: &Forward, channels: Range<usize>) {
    let (problem, reach) = (call.problem, &call.reach);
    let (zero, lags) = (simd.splat_f32s(0.0), reach.lags());
    let mut kernels = vec![zero; problem.multiplicity * lags];
    // Before the first token, as many zeros as the largest lag reaches back.
    let before = reach.ahead.saturating_sub(1);
    let tokens = before..before + problem.time;
    let mut signal = vec![zero; reach.positions + lags];
    for columns in columns::<S>(channels) {
        for (m, kernel) in kernels.chunks_exact_mut(lags.max(1)).enumerate() {
            load_kernel::<S>(problem, reach, call.inputs, m, &columns, kernel);
            kernel.reverse();
        }
        for b in 0..problem.batch {
            for (t, value) in signal[tokens.clone()].iter_mut().enumerate() {
                *value = input(simd, problem, call.inputs, b, t, &columns);
            }
            for m in 0..problem.multiplicity {
                let kernel = &kernels[m * lags..(m + 1) * lags];
                slide(
                    simd,
                    reach.positions,
                    kernel,
                    &signal,
                    tokens.clone(),
                    |t, sum| {
                        call.write(simd, [b, m, t], &columns, sum);
                    },
                );
            }
        }
    }
}

#[inline(always)]
pub(super) fn backward<S: Simd>(simd: S, call: &Backward, channels: Range<usize>) {
    let (problem, reach) = (call.problem, &call.reach);
    let (zero, lags, time) = (simd.splat_f32s(0.0), reach.lags(), problem.time);
    let mut kernels = vec![zero; problem.multiplicity * lags];
    let mut by_kernels = vec![zero; kernels.len()];
    let (mut tokens, mut by_input) = (vec![zero; time], vec![zero; time]);
    let seen = reach.back()..reach.back() + reach.positions;
    let mut signal = vec![zero; reach.back() + reach.positions + lags];
    for columns in columns::<S>(channels) {
        for (m, kernel) in kernels.chunks_exact_mut(lags.max(1)).enumerate() {
            load_kernel::<S>(problem, reach, call.inputs, m, &columns, kernel);
        }
        by_kernels.fill(zero);
        for b in 0..problem.batch {
            for (t, value) in tokens.iter_mut().enumerate() {
                *value = input(simd, problem, call.inputs, b, t, &columns);
            }
            by_input.fill(zero);
            for m in 0..problem.multiplicity {
                for (t, value) in signal[seen.clone()].iter_mut().enumerate() {
                    *value = call.cotangent(simd, [b, m, t], &columns);
                }
                let of_output = m * lags..(m + 1) * lags;
                let kernel = &kernels[of_output.clone()];
                slide(simd, time, kernel, &signal, seen.clone(), |t, sum| {
                    by_input[t] = simd.add_f32s(by_input[t], sum);
                });
                let by_kernel = &mut by_kernels[of_output];
                slide(simd, lags, &tokens, &signal, seen.clone(), |lag, sum| {
                    by_kernel[lag] = simd.add_f32s(by_kernel[lag], sum);
                });
            }
            for (t, &sum) in by_input.iter().enumerate() {
                call.write_input(simd, [b, t], &columns, sum);
            }
        }
        for m in 0..problem.multiplicity {
            call.write_kernel::<S>(m, &columns, &by_kernels[m * lags..(m + 1) * lags]);
        }
        call.write_skip(simd, &columns);
    }
}

/// Gives Σ_i weights[i] signal[p + i] for every p < `count`, where `signal` is zero outside of `filled`.
#[inline(always)]
pub(super) fn slide<S: Simd>(
    simd: S,
    count: usize,
    weights: &[S::f32s],
    signal: &[S::f32s],
    filled: Range<usize>,
    mut give: impl FnMut(usize, S::f32s),
) {
    let whole = count - count % PLACES;
    for p in (0..whole).step_by(PLACES) {
        let sums = sums::<S, PLACES>(simd, p, weights, signal, &filled);
        sums.into_iter().enumerate().for_each(|(r, sum)| give(p + r, sum));
    }
    for p in whole..count {
        let [sum] = sums::<S, 1>(simd, p, weights, signal, &filled);
        give(p, sum);
    }
}

#[inline(always)]
fn sums<S: Simd, const P: usize>(
    simd: S,
    p: usize,
    weights: &[S::f32s],
    signal: &[S::f32s],
    filled: &Range<usize>,
) -> [S::f32s; P] {
    let mut sums = [simd.splat_f32s(0.0); P];
    let first = filled.start.saturating_sub(p + P - 1).min(weights.len());
    let end = filled.end.saturating_sub(p).clamp(first, weights.len());
    let windows = signal[p + first..].windows(P);
    for (&weight, window) in weights[first..end].iter().zip(windows) {
        for (sum, &value) in sums.iter_mut().zip(window) {
            *sum = mul_add(simd, weight, value, *sum);
        }
    }
    sums
}
