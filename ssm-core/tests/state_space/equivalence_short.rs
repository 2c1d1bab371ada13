//! Tiny and odd lengths, and kernels that reach past their inputs: every operator is its formula there too.

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::operators::linear_state_space::{Rule, Spectrum};
use spillway_ssm_core::operators::long_convolution::{Later, Method};
use spillway_ssm_core::operators::vandermonde::{Discretization, ModeSet};
use spillway_ssm_core::operators::{
    DiagonalPlan, DiagonalSystem, LinearSystem, LongConvolutionInputs, LowRankSystem, cauchy_kernel,
    linear_state_space, long_convolution, long_convolution_piece, vandermonde_kernel,
};
use spillway_ssm_core::state_space::{Complex64, DiscreteStateSpace, Discretisation, Dplr, StateSpace};

use super::mixers::values;

const LENGTHS: [usize; 8] = [0, 1, 2, 3, 5, 7, 31, 65];

fn wave(shape: [usize; 3], by: f32) -> Tensor<3> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (by * i as f32 + 0.3).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= 2e-6 * (1.0 + expected.abs()),
            "{what}: {at} is off by {off:e}"
        );
    }
}

#[test]
fn a_convolution_never_wraps_and_never_reads_outside_of_its_input() {
    let (channels, device) = (2, Device::flex());
    for time in LENGTHS {
        for taps in [1, 2, 3, 8, 33, 100] {
            for method in [Method::Auto, Method::Direct, Method::Fourier] {
                let what = format!("{time} tokens, {taps} taps, {method:?}");
                let (input, kernel) = (wave([1, time, channels], 0.7), wave([1, channels, taps], 1.3));
                let later = wave([1, channels, taps], 0.9);
                let (u, k, l) = (
                    values(input.clone()),
                    values(kernel.clone()),
                    values(later.clone()),
                );
                let at = |t: isize, h: usize| match usize::try_from(t) {
                    Ok(t) if t < time => f64::from(u[t * channels + h]),
                    _ => 0.0,
                };
                let sum = |both: bool| -> Vec<f64> {
                    (0..time * channels)
                        .map(|i| {
                            let (t, h) = ((i / channels) as isize, i % channels);
                            let tap = |k: &[f32], s: usize| f64::from(k[h * taps + s]);
                            let earlier: f64 = (0..taps).map(|s| tap(&k, s) * at(t - s as isize, h)).sum();
                            let later: f64 = (0..taps).map(|s| tap(&l, s) * at(t + 1 + s as isize, h)).sum();
                            earlier + if both { later } else { 0.0 }
                        })
                        .collect()
                };
                let inputs = |later_kernel| LongConvolutionInputs {
                    input: input.clone(),
                    kernel: kernel.clone(),
                    later_kernel,
                    skip: None,
                    response: None,
                };
                let found = long_convolution(inputs(None), method).expect("it fits");
                close(&what, &values(found), &sum(false));
                let both = inputs(Some((Later::Next, later)));
                close(
                    &what,
                    &values(long_convolution(both, method).expect("it fits")),
                    &sum(true),
                );
                let mut tail = Tensor::zeros([1, taps - 1, channels], &device);
                let found = long_convolution_piece(inputs(None), method, &mut tail).expect("it fits");
                close(&what, &values(found), &sum(false));
            }
        }
    }
}

/// Two modes of one channel with P.
fn system() -> (Vec<Complex64>, Vec<Complex64>, Vec<Complex64>, Vec<Complex64>) {
    let complex = |values: [(f64, f64); 2]| values.map(|(re, im)| Complex64::new(re, im)).to_vec();
    (
        complex([(-0.5, 1.0), (-0.25, 3.5)]),
        complex([(0.5, 0.25), (-0.25, 0.5)]),
        complex([(1.0, 0.0), (0.75, -0.5)]),
        complex([(0.5, -1.0), (1.5, 0.25)]),
    )
}

fn tensor<const D: usize>(values: &[Complex64], shape: [usize; D]) -> Tensor<D> {
    let values: Vec<f32> = values.iter().flat_map(|z| [z.re as f32, z.im as f32]).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

#[test]
fn kernels_of_tiny_and_odd_lengths_are_responses_to_an_impulse() {
    const STEP: f64 = 0.25;
    let device = Device::flex();
    let (a, p, b, c) = system();
    for low_rank in [vec![], vec![p]] {
        let dplr = Dplr::new(a.clone(), low_rank.clone(), b.clone(), c.clone(), 0.0).expect("a system");
        let discrete = dplr
            .discretise(Discretisation::BILINEAR, STEP)
            .expect("a discrete system");
        for length in LENGTHS {
            let what = format!("rank {}, {length} taps", low_rank.len());
            let expected = match length {
                0 => Vec::new(),
                _ => discrete.kernel(length).expect("a kernel"),
            };
            let linear = LinearSystem {
                step_size: Tensor::from_floats([STEP as f32], &device),
                a: tensor(&a, [1, 2, 2]),
                b: tensor(&b, [1, 2, 2]),
                c: tensor(&c, [1, 1, 2, 2]),
                low_rank: low_rank.first().map(|p| tensor(p, [1, 1, 2, 2])),
                skip: None,
                rule: Rule::Bilinear,
                spectrum: Spectrum::ConjugatePairs,
            };
            let mut impulse = vec![0.0_f32; length];
            impulse.iter_mut().take(1).for_each(|first| *first = 1.0);
            let impulse = Tensor::from_data(TensorData::new(impulse, [1, length, 1]), &device);
            let mut state = linear.start(1, &device);
            let found = linear_state_space(impulse, &linear, &mut state).expect("it fits");
            close(&what, &values(found), &expected);
            let found = match low_rank.first() {
                None => {
                    let diagonal = DiagonalSystem {
                        step: linear.step_size.clone().reshape([1, 1]),
                        a: linear.a,
                        b: linear.b,
                        c: linear.c,
                    };
                    let plan = DiagonalPlan {
                        length,
                        discretization: Discretization::Bilinear,
                        mode_set: ModeSet::ConjugatePairs,
                    };
                    vandermonde_kernel(diagonal, &plan)
                }
                Some(p) => {
                    // C̃ of as many nodes as taps.
                    let truncated = discrete.truncate(length).expect("C̃");
                    let system = LowRankSystem {
                        step: linear.step_size.clone(),
                        a: linear.a,
                        b: linear.b,
                        p: tensor(p, [1, 1, 2, 2]),
                        c: tensor(&truncated.output, [1, 1, 2, 2]),
                        nodes: length,
                    };
                    cauchy_kernel(system, length)
                }
            };
            close(&what, &values(found.expect("it fits")), &expected);
        }
    }
}

#[test]
fn dss_of_one_tap_is_the_sum_of_its_weights() {
    let device = Device::flex();
    let (a, _, b, c) = system();
    let diagonal = DiagonalSystem {
        step: Tensor::from_floats([[0.25]], &device),
        a: tensor(&a, [1, 2, 2]),
        b: tensor(&b, [1, 2, 2]),
        c: tensor(&c, [1, 1, 2, 2]),
    };
    let plan = |length| DiagonalPlan {
        length,
        discretization: Discretization::Softmax,
        mode_set: ModeSet::All,
    };
    let expected: f64 = (0..2).map(|n| (c[n] * b[n] / a[n]).re).sum();
    let found = vandermonde_kernel(diagonal.clone(), &plan(1)).expect("it fits");
    close("one tap", &values(found), &[expected]);
    // The shares of a mode sum to 1 over any length.
    for length in [2, 3, 7] {
        let found: f64 = values(vandermonde_kernel(diagonal.clone(), &plan(length)).expect("it fits"))
            .iter()
            .map(|tap| f64::from(*tap))
            .sum();
        assert!(
            (found - expected).abs() < 1e-5,
            "{length} taps: {found} and {expected}"
        );
    }
}
