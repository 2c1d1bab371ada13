//! Another sampling rate, and step sizes and parameters that are drawn.

use crate::differences::assert_near;
use crate::systems;
use spillway_ssm_core::state_space::init::{
    InputInit, SpectrumOptions, StepRange, Transform, complex_normal, copies, initialise, real_normal,
};
use spillway_ssm_core::state_space::{
    Diagonal, DiscreteStateSpace, Discretisation, StateSpace, StateSpaceError, band_limit, length_at_rate,
    step_at_rate,
};
use std::f64::consts::PI;

fn lin(seed: u64) -> Diagonal {
    let mut rng = systems::rng(seed);
    let lin = initialise("diag-lin", 64, 0, &SpectrumOptions::default(), &mut rng).expect("parameters");
    let output = complex_normal(32, &mut rng);
    lin.diagonal(output, 0.0).expect("a system")
}

fn run(system: &Diagonal, rule: Discretisation, step: f64, input: &[f64]) -> Vec<f64> {
    let discrete = system.discretise(rule, step).expect("a recurrence");
    discrete
        .respond(&mut discrete.zero_state(), input)
        .expect("outputs")
}

#[test]
fn a_held_signal_is_the_same_at_half_the_rate() {
    let system = lin(0);
    let input = real_normal(100, &mut systems::rng(1));
    let slow = run(
        &system,
        Discretisation::ZeroOrderHold,
        step_at_rate(0.01, 2.0).expect("a step"),
        &input,
    );
    let twice: Vec<f64> = input.iter().flat_map(|&u| [u, u]).collect();
    let fast = run(&system, Discretisation::ZeroOrderHold, 0.01, &twice);
    let at_ends: Vec<f64> = fast.into_iter().skip(1).step_by(2).collect();
    assert_near(&slow, &at_ends, 1e-12, "every second sample");
}

#[test]
fn a_smooth_signal_is_nearly_the_same_at_half_the_rate() {
    for (rule, frequency, bound) in [
        (Discretisation::ZeroOrderHold, 1.0, 0.05),
        (Discretisation::BILINEAR, 1.0, 0.05),
        (Discretisation::ZeroOrderHold, 4.0, 0.2),
        (Discretisation::BILINEAR, 4.0, 0.3),
    ] {
        let system = lin(3);
        let signal = |step: f64, count: usize| -> Vec<f64> {
            (1..=count)
                .map(|k| (2.0 * PI * frequency * k as f64 * step).sin())
                .collect()
        };
        let fine = run(&system, rule, 0.005, &signal(0.005, 800));
        let coarse = run(&system, rule, 0.01, &signal(0.01, 400));
        let size = fine.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let pairs = fine.iter().skip(1).step_by(2).zip(&coarse);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / size;
        assert!(worst < bound, "{rule:?} at {frequency}: {worst}");
    }
}

#[test]
fn a_band_limit_keeps_what_is_slower_than_it() {
    let system = lin(0);
    let kept = band_limit(system.eigenvalues(), 0.01, 0.2).expect("a mask");
    // Δ n π/2π < 0.1 for n < 20.
    assert_eq!(kept.iter().filter(|&&kept| kept).count(), 20);
    assert!(kept[..20].iter().all(|&kept| kept));
    assert_eq!(length_at_rate(17, 2.0).expect("a length"), 8);
    assert_eq!(length_at_rate(16, 0.5).expect("a length"), 32);
}

#[test]
fn transforms_have_inverses() {
    for transform in [
        Transform::None,
        Transform::Exp,
        Transform::Relu,
        Transform::Sigmoid,
        Transform::Softplus,
    ] {
        for value in [1e-3, 0.1, 0.5, 0.9] {
            let parameter = transform.invert(value).expect("a parameter");
            assert!(
                (transform.apply(parameter) - value).abs() < 1e-15,
                "{transform:?} {value}"
            );
        }
    }
    assert_eq!(Transform::Softplus.apply(800.0), 800.0);
    assert_eq!(Transform::Softplus.invert(800.0), Ok(800.0));
    assert!(matches!(
        Transform::Exp.invert(0.0),
        Err(StateSpaceError::Value { .. })
    ));
    assert_eq!(Transform::Exp.invert_rate(0.0), Ok(1e-4_f64.ln()));
}

#[test]
fn step_sizes_fill_their_range() {
    let range = StepRange::default();
    let steps = range.random(2000, &mut systems::rng(0)).expect("steps");
    assert!(steps.iter().all(|step| (1e-3..=1e-1).contains(step)));
    let mean = steps.iter().map(|s| s.ln()).sum::<f64>() / 2000.0;
    assert!((mean - 0.01_f64.ln()).abs() < 0.1);
    assert_near(
        &range.spaced(3).expect("steps"),
        &[1e-3, 1e-2, 1e-1],
        1e-15,
        "spaced steps",
    );
    assert!(
        StepRange { min: 0.1, max: 0.01 }
            .random(1, &mut systems::rng(0))
            .is_err()
    );
}

#[test]
fn random_parameters_come_from_their_seed_and_have_their_law() {
    let draw = |name: &str, options: &SpectrumOptions, seed| {
        initialise(name, 64, 2, options, &mut systems::rng(seed)).expect("parameters")
    };
    let random = SpectrumOptions {
        real_random: true,
        imag_random: true,
        input: InputInit::Random,
        ..SpectrumOptions::default()
    };
    for name in ["diag-rand", "dplr-lin", "diag-inv", "diag-real"] {
        assert_eq!(draw(name, &random, 1), draw(name, &random, 1), "{name}");
        assert_ne!(draw(name, &random, 1), draw(name, &random, 2), "{name}");
    }
    let usual = SpectrumOptions::default();
    let rand = draw("diag-rand", &usual, 1);
    assert!(rand.real.iter().all(|&re| re == 0.5) && rand.imag.iter().all(|&im| im > 0.0));
    let real = draw("diag-real", &random, 1);
    assert!(
        real.real
            .iter()
            .all(|re| re.fract() == 0.0 && (0.0..32.0).contains(re))
    );
    assert!(real.imag.iter().all(|&im| im == 0.0));
    let dplr = draw("dplr-lin", &usual, 1);
    assert_eq!(dplr.low_rank.len(), 2);
    let power: f64 = dplr.low_rank.concat().iter().map(|p| p.norm_sqr()).sum();
    assert!((power / 64.0 - 1.0).abs() < 0.5);
    assert!(
        draw("diag-lin", &usual, 1)
            .low_rank
            .concat()
            .iter()
            .all(|p| p.norm() == 0.0)
    );
}

#[test]
fn mixtures_share_their_copies_out() {
    let usual = SpectrumOptions::default();
    let mut rng = systems::rng(0);
    let alone = |name: &str| initialise(name, 16, 1, &usual, &mut systems::rng(0)).expect("parameters");
    let all = copies("all", 8, 16, 1, &usual, &mut rng).expect("copies");
    for (i, name) in ["legs", "fourier", "diag-inv", "diag-lin"]
        .into_iter()
        .enumerate()
    {
        assert_eq!(all[2 * i], alone(name), "{name}");
        assert_eq!(all[2 * i + 1], alone(name), "{name}");
    }
    assert!(matches!(
        copies("hippo", 3, 16, 1, &usual, &mut rng),
        Err(StateSpaceError::Copies {
            parts: 2,
            copies: 3,
            ..
        })
    ));
}
