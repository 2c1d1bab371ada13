//! Systems, steps and names that are wrong are errors that say what, where and what would have been right.

use crate::systems;
use spillway_ssm_core::state_space::hippo::{
    LegsScan, Measure, NormalPlusLowRank, OrthonormalPolynomials, basis, rank_correction,
};
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};
use spillway_ssm_core::state_space::{
    Complex64, Dense, Diagonal, DiscreteStateSpace, Discretisation, Dplr, Gap, Modes, StateSpace,
    StateSpaceError, band_limit, length_at_rate, step_at_rate,
};

fn one(eigenvalue: Complex64) -> Diagonal {
    let one = vec![Complex64::ONE];
    Diagonal::new(vec![eigenvalue], one.clone(), one, 0.0, Modes::ConjugatePairs).expect("a system")
}

#[test]
fn a_step_that_is_not_positive() {
    let mut rng = systems::rng(0);
    let (dense, diagonal, dplr) = (
        systems::dense(3, &mut rng),
        systems::diagonal(3, Modes::All, &mut rng),
        systems::dplr(3, 1, &mut rng),
    );
    for step in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        let rule = Discretisation::BILINEAR;
        assert!(matches!(
            dense.discretise(rule, step),
            Err(StateSpaceError::Value { .. })
        ));
        assert!(matches!(
            diagonal.discretise(rule, step),
            Err(StateSpaceError::Value { .. })
        ));
        assert!(matches!(
            dplr.discretise(rule, step),
            Err(StateSpaceError::Value { .. })
        ));
        assert!(step_at_rate(step, 1.0).is_err() && step_at_rate(0.1, step).is_err());
        assert!(length_at_rate(10, step).is_err());
        let sampled = diagonal.respond_sampled(
            rule,
            &[0.1, step],
            &[Some(1.0), None],
            Gap::Silence,
            &mut diagonal.sampled_zero(),
        );
        let message = sampled.expect_err("a step").to_string();
        assert!(message.contains("sample 1") && message.contains('Δ'), "{message}");
    }
}

#[test]
fn a_mode_that_grows() {
    let growing = one(Complex64::new(0.5, 1.0)).discretise(Discretisation::ZeroOrderHold, 0.1);
    assert!(matches!(growing, Err(StateSpaceError::Unstable { mode: 0, magnitude, .. }) if magnitude > 1.0));
    // Stable as it is, and not under this rule.
    let fast = one(Complex64::new(-0.5, 100.0));
    assert!(matches!(
        fast.discretise(Discretisation::FORWARD_EULER, 0.1),
        Err(StateSpaceError::Unstable { .. })
    ));
    assert!(fast.discretise(Discretisation::BILINEAR, 0.1).is_ok());
    // A mode that neither grows nor decays is none of the two.
    assert!(
        one(Complex64::new(0.0, 3.0))
            .discretise(Discretisation::ZeroOrderHold, 0.1)
            .is_ok()
    );
    let low_rank = Dplr::new(
        vec![Complex64::new(0.1, 0.0)],
        vec![],
        vec![Complex64::ONE],
        vec![Complex64::ONE],
        0.0,
    );
    assert!(matches!(
        low_rank.and_then(|s| s.discretise(Discretisation::BILINEAR, 0.1)),
        Err(StateSpaceError::Unstable { .. })
    ));
    let exploding = Dense::from_rows(&[50.0], &[1.0], &[1.0], 0.0).expect("a system");
    let discrete = exploding
        .discretise(Discretisation::ZeroOrderHold, 1.0)
        .expect("a recurrence");
    assert!(matches!(
        discrete.kernel(100),
        Err(StateSpaceError::Overflow { .. })
    ));
    assert!(matches!(
        discrete.respond(&mut [0.0], &[1.0; 100]),
        Err(StateSpaceError::Overflow { .. })
    ));
}

#[test]
fn numbers_that_are_none() {
    let nan = Complex64::new(f64::NAN, 0.0);
    let one = vec![Complex64::ONE];
    for system in [
        Diagonal::new(vec![nan], one.clone(), one.clone(), 0.0, Modes::All),
        Diagonal::new(one.clone(), vec![nan], one.clone(), 0.0, Modes::All),
        Diagonal::new(one.clone(), one.clone(), vec![nan], 0.0, Modes::All),
        Diagonal::new(one.clone(), one.clone(), one.clone(), f64::NAN, Modes::All),
    ] {
        assert!(matches!(system, Err(StateSpaceError::Value { .. })));
    }
    assert!(Dplr::new(one.clone(), vec![vec![nan]], one.clone(), one.clone(), 0.0).is_err());
    assert!(Dense::from_rows(&[f64::INFINITY], &[1.0], &[1.0], 0.0).is_err());
    let system = Dense::from_rows(&[-1.0], &[1.0], &[1.0], 0.0).expect("a system");
    let discrete = system
        .discretise(Discretisation::BILINEAR, 0.1)
        .expect("a recurrence");
    let message = discrete
        .respond(&mut [0.0], &[1.0, f64::NAN])
        .expect_err("an input")
        .to_string();
    assert!(message.contains("index 1"), "{message}");
    assert!(system.impulse_response(&[-1.0]).is_err());
    assert!(band_limit(&[nan], 0.1, 0.5).is_err());
    assert!(basis(Measure::Legs, 4, f64::NAN).is_err());
}

#[test]
fn a_system_without_states() {
    for error in [
        Diagonal::new(vec![], vec![], vec![], 0.0, Modes::All).err(),
        Dplr::new(vec![], vec![], vec![], vec![], 0.0).err(),
        Dense::from_rows(&[], &[], &[], 0.0).err(),
        LegsScan::new(0, Discretisation::BILINEAR).err(),
    ] {
        assert!(matches!(error, Some(StateSpaceError::Empty { .. })), "{error:?}");
    }
}

#[test]
fn lengths_that_differ() {
    let one = vec![Complex64::ONE];
    assert!(matches!(
        Diagonal::new(one.clone(), vec![], one.clone(), 0.0, Modes::All),
        Err(StateSpaceError::Length {
            what: "B",
            expected: 1,
            found: 0
        })
    ));
    assert!(Dplr::new(one.clone(), vec![vec![]], one.clone(), one, 0.0).is_err());
    assert!(Dense::from_rows(&[1.0, 2.0], &[1.0], &[1.0], 0.0).is_err());
    let system = Dense::from_rows(&[-1.0], &[1.0], &[1.0], 0.0).expect("a system");
    let discrete = system
        .discretise(Discretisation::BILINEAR, 0.1)
        .expect("a recurrence");
    assert!(discrete.respond(&mut [0.0, 0.0], &[1.0]).is_err());
    assert!(discrete.state_kernel(&[], 3).is_err());
    assert!(system.respond_held(&[0.1, 0.1], &[1.0, 1.0], &[0.1]).is_err());
    assert!(system.respond_held(&[0.1], &[1.0, 1.0], &[0.1]).is_err());
}

#[test]
fn rules_ranks_and_names_that_do_not_fit() {
    let dplr = systems::dplr(2, 1, &mut systems::rng(0));
    assert!(matches!(
        dplr.discretise(Discretisation::ZeroOrderHold, 0.1),
        Err(StateSpaceError::Rule { .. })
    ));
    assert!(matches!(
        LegsScan::new(4, Discretisation::Mixed),
        Err(StateSpaceError::Rule { .. })
    ));
    assert!(matches!(
        rank_correction(Measure::Legt, 8, 1),
        Err(StateSpaceError::Rank {
            needed: 2,
            found: 1,
            ..
        })
    ));
    assert!(matches!(
        NormalPlusLowRank::of_measure(Measure::Lmu, 8, 1),
        Err(StateSpaceError::Form { .. })
    ));
    assert!(matches!(
        NormalPlusLowRank::of_measure(Measure::Legs, 7, 1),
        Err(StateSpaceError::Odd { found: 7, .. })
    ));
    assert!(Measure::Fourier.transition(5).is_err());
    assert!(Measure::TiltedLagt { beta: 0.0 }.transition(4).is_err());
    assert!(OrthonormalPolynomials::laguerre(4, -0.5).is_err());
    assert!(OrthonormalPolynomials::of_weight(4, 1.0, |_| f64::NAN).is_err());
    assert!(OrthonormalPolynomials::of_weight(4, 1.0, |_| 0.0).is_err());
    let message = Measure::from_name("legz").expect_err("a name").to_string();
    assert!(message.contains("legz") && message.contains("legs"), "{message}");
    assert!(Discretisation::from_name("exact").is_err());
    let options = SpectrumOptions::default();
    for name in ["lin", "diag-line", "diag-", "dplr-x"] {
        let found = initialise(name, 8, 1, &options, &mut systems::rng(0));
        assert!(matches!(found, Err(StateSpaceError::Name { .. })), "{name}");
    }
    let alpha = Discretisation::GeneralisedBilinear { alpha: 1.5 };
    assert!(alpha.mode(Complex64::ZERO, 0.1).is_err());
    // −0 has no inverse: a mode of S4D-Real that is 0 cannot be normalised.
    let zero = SpectrumOptions {
        real_scale: 0.0,
        normalise: true,
        ..options
    };
    assert!(initialise("diag-lin", 8, 1, &zero, &mut systems::rng(0)).is_err());
}
