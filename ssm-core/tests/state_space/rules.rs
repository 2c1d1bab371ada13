//! Rules of discretisation against their formulas and their limits.

use crate::differences::assert_near;
use crate::systems;
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};
use spillway_ssm_core::state_space::phi::{exp_minus_one, phi1};
use spillway_ssm_core::state_space::{
    Complex64, Dense, Diagonal, DiscreteStateSpace, Discretisation, Modes, StateSpace,
};

#[test]
fn the_generalised_bilinear_rule_has_euler_and_tustin_in_it() {
    let (z, step) = (Complex64::new(-0.7, 4.0), 0.05);
    let mode = |rule: Discretisation| rule.mode(z, step).expect("a mode");
    let near = |a: Complex64, b: Complex64| assert!((a - b).norm() < 1e-15, "{a} {b}");
    let forward = mode(Discretisation::FORWARD_EULER);
    near(forward.transition, 1.0 + step * z);
    near(forward.input, step.into());
    let backward = mode(Discretisation::BACKWARD_EULER);
    near(backward.transition, 1.0 / (1.0 - step * z));
    near(backward.input, step / (1.0 - step * z));
    let tustin = mode(Discretisation::BILINEAR);
    near(tustin.transition, (1.0 + step * z / 2.0) / (1.0 - step * z / 2.0));
    near(tustin.input, step / (1.0 - step * z / 2.0));
    let hold = mode(Discretisation::ZeroOrderHold);
    near(hold.transition, (step * z).exp());
    near(hold.input, ((step * z).exp() - 1.0) / z);
    near(mode(Discretisation::Mixed).input, step.into());
}

#[test]
fn one_mode_is_the_same_alone_and_in_a_matrix() {
    let (rate, turn, step) = (-0.3, 5.0, 0.1);
    let dense = Dense::from_rows(&[rate, -turn, turn, rate], &[1.0, 0.0], &[1.0, 0.0], 0.0);
    let dense = dense.expect("a system");
    for rule in [
        Discretisation::BILINEAR,
        Discretisation::ZeroOrderHold,
        Discretisation::Mixed,
    ] {
        let mode = rule.mode(Complex64::new(rate, turn), step).expect("a mode");
        let discrete = dense.discretise(rule, step).expect("a recurrence");
        let found = [
            discrete.a()[(0, 0)],
            discrete.a()[(1, 0)],
            discrete.b()[0],
            discrete.b()[1],
        ];
        let expected = [
            mode.transition.re,
            mode.transition.im,
            mode.input.re,
            mode.input.im,
        ];
        assert_near(&found, &expected, 1e-14, &rule.name());
    }
}

#[test]
fn the_zero_order_hold_is_stable_near_an_eigenvalue_of_zero() {
    // φ₁ = 1 + z/2 + z²/6 + …, of which two terms are enough for |z| < 1e-5.
    for exponent in 0..40 {
        let z = Complex64::new(-1.0, 0.5) * 10.0_f64.powi(-5 - exponent);
        let expected = 1.0 + z / 2.0 + z * z / 6.0;
        assert!(
            (phi1(z) - expected).norm() < 3e-16 * 2.0,
            "{z}: {}",
            phi1(z) - expected
        );
    }
    assert_eq!(phi1(Complex64::ZERO), Complex64::ONE);
    assert_eq!(exp_minus_one(Complex64::ZERO), Complex64::ZERO);
    let held = Discretisation::ZeroOrderHold.mode(Complex64::ZERO, 0.25);
    assert_eq!(held.expect("a mode").input, Complex64::new(0.25, 0.0));
    // A dense matrix that has no inverse: the integral of the input.
    let integrator = Dense::from_rows(&[0.0], &[1.0], &[1.0], 0.0).expect("a system");
    let discrete = integrator
        .discretise(Discretisation::ZeroOrderHold, 0.5)
        .expect("a recurrence");
    let y = discrete.respond(&mut [0.0], &[1.0, 1.0, 2.0]).expect("outputs");
    assert_near(&y, &[0.5, 1.0, 2.0], 1e-15, "an integrator");
}

#[test]
fn stable_rules_keep_every_stable_mode_within_the_unit_circle() {
    let mut rng = systems::rng(5);
    for z in systems::eigenvalues(200, &mut rng) {
        for step in [1e-3, 0.1, 10.0] {
            for rule in [
                Discretisation::BILINEAR,
                Discretisation::BACKWARD_EULER,
                Discretisation::ZeroOrderHold,
                Discretisation::Mixed,
            ] {
                let mode = rule.mode(z, step).expect("a mode");
                assert!(mode.transition.norm() < 1.0, "{z} {step} {rule:?}");
            }
        }
    }
}

#[test]
fn forward_euler_loses_s4d_lin() {
    let lin = initialise(
        "diag-lin",
        64,
        0,
        &SpectrumOptions::default(),
        &mut systems::rng(0),
    );
    let worst = lin
        .expect("parameters")
        .eigenvalues()
        .iter()
        .map(|&z| {
            Discretisation::FORWARD_EULER
                .mode(z, 0.1)
                .expect("a mode")
                .transition
                .norm()
        })
        .fold(0.0, f64::max);
    assert!((worst - 9.8).abs() < 0.1, "{worst}");
}

#[test]
fn the_bilinear_rule_bends_frequencies() {
    let (turn, step) = (30.0, 0.05);
    let mode = Discretisation::BILINEAR.mode(Complex64::new(0.0, turn), step);
    let heard = mode.expect("a mode").transition.arg() / step;
    assert!((heard - 2.0 * (turn * step / 2.0).atan() / step).abs() < 1e-12);
}

#[test]
fn an_untied_step_is_one_for_each_mode() {
    let mut rng = systems::rng(2);
    let system = systems::diagonal(3, Modes::ConjugatePairs, &mut rng);
    let steps = [0.1, 0.02, 0.3];
    let together = system
        .discretise_untied(Discretisation::BILINEAR, &steps)
        .and_then(|d| d.kernel(20))
        .expect("a kernel");
    let mut apart = vec![0.0; 20];
    for (n, &step) in steps.iter().enumerate() {
        let one = Diagonal::new(
            vec![system.eigenvalues()[n]],
            vec![system.input()[n]],
            vec![system.output()[n]],
            0.0,
            Modes::ConjugatePairs,
        );
        let discrete = one.and_then(|s| s.discretise(Discretisation::BILINEAR, step));
        let kernel = discrete.and_then(|d| d.kernel(20)).expect("a kernel");
        for (sum, k) in apart.iter_mut().zip(kernel) {
            *sum += k;
        }
    }
    assert_near(&together, &apart, 1e-14, "modes apart");
}
