//! What the operators of state spaces refuse, on constants and under autodiff: an error and never a panic.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::h3::{H3, H3Config};
use spillway_ssm_core::operators::linear_state_space::{Rule, Spectrum};
use spillway_ssm_core::operators::long_convolution::{Later, Method};
use spillway_ssm_core::operators::vandermonde::{Discretization, ModeSet};
use spillway_ssm_core::operators::{
    AxisKernel, DiagonalPlan, DiagonalSystem, FixedLinearSystem, LinearSystem, LongConvolutionInputs,
    LowRankSystem, cauchy_kernel, cauchy_response, linear_state_space, long_convolution, long_convolution_nd,
    long_convolution_piece, vandermonde_kernel, vandermonde_response,
};
use spillway_ssm_core::{Error, WeightMap};

const NOT_NUMBERS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Ones with one value of their own, which stands last.
fn with_last<const D: usize>(shape: [usize; D], last: f32, device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let mut values = vec![1.0; count];
    values[count - 1] = last;
    Tensor::<1>::from_floats(values.as_slice(), device).reshape(shape)
}

fn devices() -> [Device; 2] {
    [Device::flex(), Device::flex().autodiff()]
}

fn expect_refused<T>(what: &str, result: Result<T, Error>) {
    let Err(error) = result else {
        panic!("{what} is taken");
    };
    assert!(
        matches!(
            error,
            Error::Value { .. } | Error::Kernel { .. } | Error::Shape { .. }
        ),
        "{what}: {error:?}"
    );
    assert!(!error.to_string().is_empty());
}

/// λ of two copies with two modes each, the last real part of which is `real`.
fn rates(real: f32, imaginary: f32, device: &Device) -> Tensor<3> {
    let values = [-0.5, 1.0, -0.5, 2.0, -0.5, 3.0, real, imaginary];
    Tensor::<1>::from_floats(values, device).reshape([2, 2, 2])
}

fn diagonal(device: &Device) -> DiagonalSystem {
    DiagonalSystem {
        step: Tensor::ones([2, 1], device) * 0.1,
        a: rates(-0.5, 4.0, device),
        b: Tensor::ones([2, 2, 2], device),
        c: Tensor::ones([1, 2, 2, 2], device),
    }
}

fn plan(length: usize) -> DiagonalPlan {
    DiagonalPlan {
        length,
        discretization: Discretization::ZeroOrderHold,
        mode_set: ModeSet::ConjugatePairs,
    }
}

fn low_rank(device: &Device) -> LowRankSystem {
    LowRankSystem {
        step: Tensor::ones([2], device) * 0.1,
        a: rates(-0.5, 4.0, device),
        b: Tensor::ones([2, 2, 2], device),
        p: Tensor::ones([1, 2, 2, 2], device),
        c: Tensor::ones([1, 2, 2, 2], device),
        nodes: 8,
    }
}

fn linear(device: &Device) -> LinearSystem {
    LinearSystem {
        step_size: Tensor::ones([2], device) * 0.1,
        a: rates(-0.5, 4.0, device),
        b: Tensor::ones([2, 2, 2], device),
        c: Tensor::ones([1, 2, 2, 2], device),
        low_rank: Some(Tensor::ones([1, 2, 2, 2], device)),
        skip: Some(Tensor::ones([1, 2], device)),
        rule: Rule::Bilinear,
        spectrum: Spectrum::ConjugatePairs,
    }
}

fn run(system: &LinearSystem, device: &Device) -> Result<(), Error> {
    let mut state = system.start(1, device);
    linear_state_space(Tensor::ones([1, 3, 2], device), system, &mut state)?;
    let mut state = system.start(1, device);
    FixedLinearSystem::from(system.clone())
        .forward(Tensor::ones([1, 1, 2], device), &mut state)
        .map(drop)
}

#[test]
fn numbers_that_are_none_are_refused_in_every_parameter_of_a_diagonal_system() {
    for device in devices() {
        assert!(vandermonde_kernel(diagonal(&device), &plan(5)).is_ok());
        for bad in NOT_NUMBERS {
            let ok = || diagonal(&device);
            for (what, system) in [
                (
                    "Δ",
                    DiagonalSystem {
                        step: with_last([2, 1], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "Re λ",
                    DiagonalSystem {
                        a: rates(bad, 4.0, &device),
                        ..ok()
                    },
                ),
                (
                    "Im λ",
                    DiagonalSystem {
                        a: rates(-0.5, bad, &device),
                        ..ok()
                    },
                ),
                (
                    "B",
                    DiagonalSystem {
                        b: with_last([2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "C",
                    DiagonalSystem {
                        c: with_last([1, 2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
            ] {
                let what = format!("{what} = {bad}");
                expect_refused(&what, vandermonde_kernel(system.clone(), &plan(5)));
                let (state, signal) = (
                    Tensor::zeros([1, 2, 2, 2], &device),
                    Tensor::ones([1, 2, 5], &device),
                );
                expect_refused(&what, vandermonde_response(system, state, signal, &plan(5)));
            }
            let (state, signal) = (
                with_last([1, 2, 2, 2], bad, &device),
                Tensor::ones([1, 2, 5], &device),
            );
            expect_refused("a state", vandermonde_response(ok(), state, signal, &plan(5)));
        }
        for step in [0.0, -0.1] {
            let system = DiagonalSystem {
                step: with_last([2, 1], step, &device),
                ..diagonal(&device)
            };
            expect_refused(&format!("Δ = {step}"), vandermonde_kernel(system, &plan(5)));
        }
    }
}

#[test]
fn numbers_that_are_none_are_refused_in_every_parameter_of_a_low_rank_system() {
    for device in devices() {
        assert!(cauchy_kernel(low_rank(&device), 8).is_ok());
        for bad in NOT_NUMBERS {
            let ok = || low_rank(&device);
            for (what, system) in [
                (
                    "Δ",
                    LowRankSystem {
                        step: with_last([2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "Re λ",
                    LowRankSystem {
                        a: rates(bad, 4.0, &device),
                        ..ok()
                    },
                ),
                (
                    "Im λ",
                    LowRankSystem {
                        a: rates(-0.5, bad, &device),
                        ..ok()
                    },
                ),
                (
                    "B",
                    LowRankSystem {
                        b: with_last([2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "P",
                    LowRankSystem {
                        p: with_last([1, 2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "C̃",
                    LowRankSystem {
                        c: with_last([1, 2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
            ] {
                let what = format!("{what} = {bad}");
                expect_refused(&what, cauchy_kernel(system.clone(), 8));
                expect_refused(
                    &what,
                    cauchy_response(system, Tensor::zeros([1, 2, 2, 2], &device), 8),
                );
            }
            expect_refused(
                "a state",
                cauchy_response(ok(), with_last([1, 2, 2, 2], bad, &device), 8),
            );
        }
        for (step, real) in [(0.0, -0.5), (-0.1, -0.5), (0.1, 0.0), (0.1, 0.5)] {
            let (step, a) = (with_last([2], step, &device), rates(real, 4.0, &device));
            expect_refused(
                "Δ or λ",
                cauchy_kernel(
                    LowRankSystem {
                        step,
                        a,
                        ..low_rank(&device)
                    },
                    8,
                ),
            );
        }
        expect_refused("a length beyond the nodes", cauchy_kernel(low_rank(&device), 9));
    }
}

#[test]
fn numbers_that_are_none_are_refused_in_every_parameter_of_a_recurrence() {
    for device in devices() {
        assert!(run(&linear(&device), &device).is_ok());
        for bad in NOT_NUMBERS {
            let ok = || linear(&device);
            for (what, system) in [
                (
                    "Δ",
                    LinearSystem {
                        step_size: with_last([2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "Re Λ",
                    LinearSystem {
                        a: rates(bad, 4.0, &device),
                        ..ok()
                    },
                ),
                (
                    "Im Λ",
                    LinearSystem {
                        a: rates(-0.5, bad, &device),
                        ..ok()
                    },
                ),
                (
                    "B",
                    LinearSystem {
                        b: with_last([2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "C",
                    LinearSystem {
                        c: with_last([1, 2, 2, 2], bad, &device),
                        ..ok()
                    },
                ),
                (
                    "P",
                    LinearSystem {
                        low_rank: Some(with_last([1, 2, 2, 2], bad, &device)),
                        ..ok()
                    },
                ),
                (
                    "D",
                    LinearSystem {
                        skip: Some(with_last([1, 2], bad, &device)),
                        ..ok()
                    },
                ),
            ] {
                let what = format!("{what} = {bad}");
                expect_refused(&what, run(&system, &device));
                let mut state = system.start(1, &device);
                let alone = FixedLinearSystem::from(system);
                expect_refused(&what, alone.forward(Tensor::ones([1, 1, 2], &device), &mut state));
            }
        }
    }
}

#[test]
fn ranks_and_copies_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
    let low_rank_of = |p| LowRankSystem {
        p,
        ..low_rank(&device)
    };
    expect_refused(
        "P of other modes",
        cauchy_kernel(low_rank_of(ones([1, 2, 3, 2])), 8),
    );
    expect_refused(
        "P of other copies",
        cauchy_kernel(low_rank_of(ones([1, 1, 2, 2])), 8),
    );
    let linear_of = |p| LinearSystem {
        low_rank: Some(p),
        ..linear(&device)
    };
    expect_refused("P of other modes", run(&linear_of(ones([1, 2, 3, 2])), &device));
    expect_refused("P of other copies", run(&linear_of(ones([2, 1, 2, 2])), &device));
    let held = LinearSystem {
        rule: Rule::ZeroOrderHold,
        ..linear(&device)
    };
    expect_refused("P under the hold", run(&held, &device));
    let complete = LinearSystem {
        spectrum: Spectrum::Complete,
        ..linear(&device)
    };
    expect_refused("P of a complete spectrum", run(&complete, &device));
    let three = DiagonalSystem {
        step: Tensor::ones([3, 1], &device),
        ..diagonal(&device)
    };
    expect_refused("steps of three channels", vandermonde_kernel(three, &plan(4)));
    // More rank than modes is no mistake.
    assert!(cauchy_kernel(low_rank_of(ones([5, 2, 2, 2]) * 0.1), 8).is_ok());
    assert!(cauchy_kernel(low_rank_of(Tensor::zeros([0, 2, 2, 2], &device)), 8).is_ok());
}

#[test]
fn kernels_of_a_convolution_that_are_no_numbers_are_refused() {
    let inputs = |device: &Device| LongConvolutionInputs {
        input: Tensor::ones([1, 4, 2], device),
        kernel: Tensor::ones([1, 2, 3], device),
        later_kernel: None,
        skip: None,
        response: None,
    };
    for device in devices() {
        assert!(long_convolution(inputs(&device), Method::Auto).is_ok());
        for bad in NOT_NUMBERS {
            let kernel = || with_last([1, 2, 3], bad, &device);
            let of_kernel = LongConvolutionInputs {
                kernel: kernel(),
                ..inputs(&device)
            };
            expect_refused("K", long_convolution(of_kernel.clone(), Method::Auto));
            let mut tail = Tensor::zeros([1, 2, 2], &device);
            expect_refused(
                "K of a stream",
                long_convolution_piece(of_kernel, Method::Auto, &mut tail),
            );
            assert_eq!(tail.dims(), [1, 2, 2], "the tail of a call that is refused stays");
            let later_kernel = Some((Later::Next, kernel()));
            expect_refused(
                "K′",
                long_convolution(
                    LongConvolutionInputs {
                        later_kernel,
                        ..inputs(&device)
                    },
                    Method::Auto,
                ),
            );
            let skip = Some(with_last([1, 2], bad, &device));
            expect_refused(
                "D",
                long_convolution(
                    LongConvolutionInputs {
                        skip,
                        ..inputs(&device)
                    },
                    Method::Auto,
                ),
            );
        }
        let none = LongConvolutionInputs {
            kernel: Tensor::zeros([1, 2, 0], &device),
            ..inputs(&device)
        };
        expect_refused("no taps", long_convolution(none, Method::Auto));
    }
}

#[test]
fn a_shift_of_h3_that_is_no_number_is_refused() {
    let config = H3Config {
        model_dim: 2,
        head_dim: 1,
        state_dim: 4,
    };
    let weights = |bad: f32| {
        let mut tensors = BTreeMap::new();
        let mut add = |name: &str, shape: &[usize], last: f32| {
            let mut values = vec![1.0_f32; shape.iter().product()];
            *values.last_mut().expect("values") = last;
            tensors.insert(name.to_string(), TensorData::new(values, shape.to_vec()));
        };
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(&format!("{name}.weight"), &[2, 2], 1.0);
            add(&format!("{name}.bias"), &[2], 1.0);
        }
        add("shift.B", &[2, 4], bad);
        add("shift.C", &[1, 2, 4], 1.0);
        for name in ["shift_D", "diagonal.log_dt", "D"] {
            add(name, &[2], 1.0);
        }
        for name in ["diagonal.inv_A_real", "diagonal.A_imag"] {
            add(name, &[2, 2], 1.0);
        }
        add("diagonal.B", &[2, 2, 2], 1.0);
        add("diagonal.C", &[1, 2, 2, 2], 1.0);
        WeightMap::new(tensors, Device::flex())
    };
    assert!(H3::read(config, &mut weights(1.0)).is_ok());
    for bad in NOT_NUMBERS {
        expect_refused("B of the shift", H3::read(config, &mut weights(bad)));
    }
}

#[test]
fn long_convolutions_over_axes_that_do_not_fit_are_refused() {
    for device in devices() {
        let axis = |size: usize, last: f32| AxisKernel {
            size,
            kernel: with_last([2, 1, 2, 2], last, &device),
            later_kernel: None,
        };
        let input = || Tensor::<3>::ones([1, 6, 2], &device);
        let of = |axes: Vec<AxisKernel>, skip: Option<f32>| {
            let skip = skip.map(|last| with_last([1, 2], last, &device));
            long_convolution_nd(input(), axes, skip, Default::default())
        };
        let good = || vec![axis(2, 1.0), axis(3, 1.0)];
        assert!(of(good(), Some(1.0)).is_ok());
        expect_refused("no axis", of(Vec::new(), None));
        expect_refused("four axes", of(vec![axis(1, 1.0); 4], None));
        expect_refused("other positions", of(vec![axis(2, 1.0), axis(2, 1.0)], None));
        let with = |kernel: Tensor<4>, later_kernel: Option<Tensor<4>>| AxisKernel {
            size: 3,
            kernel,
            later_kernel,
        };
        let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
        for (what, kernel, later) in [
            ("another rank", ones([1, 1, 2, 2]), None),
            ("another number of outputs", ones([2, 2, 2, 2]), None),
            ("another number of channels", ones([2, 1, 3, 2]), None),
            ("no taps", ones([2, 1, 2, 0]), None),
            (
                "another later kernel",
                ones([2, 1, 2, 2]),
                Some(ones([2, 1, 1, 2])),
            ),
        ] {
            expect_refused(what, of(vec![axis(2, 1.0), with(kernel, later)], None));
        }
        for value in NOT_NUMBERS {
            expect_refused("K", of(vec![axis(2, 1.0), axis(3, value)], None));
            expect_refused("D", of(good(), Some(value)));
        }
    }
}
