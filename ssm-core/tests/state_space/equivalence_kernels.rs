//! S4's kernel by its generating function is the kernel by recurrence, at every length and rank.

use crate::differences::{assert_close, assert_near};
use crate::systems;
use proptest::prelude::*;
use spillway_ssm_core::state_space::hippo::{Measure, NormalPlusLowRank};
use spillway_ssm_core::state_space::init::{SpectrumOptions, complex_normal, initialise};
use spillway_ssm_core::state_space::{
    Complex64, DiscreteDplr, DiscreteStateSpace, Discretisation, Dplr, StateSpace, StateSpaceError,
};

fn of_measure(measure: Measure, n: usize, rank: usize, step: f64) -> DiscreteDplr {
    let form = NormalPlusLowRank::of_measure(measure, n, rank).expect("a form");
    let output = complex_normal(n / 2, &mut systems::rng(7));
    form.system(output, 0.0)
        .and_then(|system| system.discretise(Discretisation::BILINEAR, step))
        .expect("a recurrence")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_random_systems(seed in 0_u64..1 << 40, n in 1_usize..9, rank in 0_usize..4, length in 0_usize..70, alpha in 0_usize..3, step in 0.001_f64..0.3) {
        let rule = Discretisation::GeneralisedBilinear { alpha: systems::BILINEAR_RULES[alpha] };
        let discrete = systems::dplr(n, rank, &mut systems::rng(seed)).discretise(rule, step).expect("a recurrence");
        let expected = discrete.kernel(length).expect("a kernel");
        let found = discrete.kernel_by_generating_function(length).expect("a kernel");
        assert_near(&found, &expected, 1e-12, "the generating function");
    }

    #[test]
    fn of_outputs_that_were_truncated_and_extended(seed in 0_u64..1 << 40, n in 1_usize..7, rank in 0_usize..3, length in 1_usize..20, longer in 1_usize..60) {
        let discrete = systems::dplr(n, rank, &mut systems::rng(seed)).discretise(Discretisation::BILINEAR, 0.1).expect("a recurrence");
        let expected = discrete.kernel(longer).expect("a kernel");
        let truncated = discrete.truncate(length).expect("an output");
        let extended = discrete.extend(&truncated, longer).expect("an output");
        prop_assert!(extended.length >= longer && extended.length.is_multiple_of(length));
        let mut found = discrete.kernel_of_truncated(&extended.output, extended.length).expect("a kernel");
        found.truncate(longer);
        assert_near(&found, &expected, 1e-11, "an extended output");
        let parts = |z: &[Complex64]| z.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>();
        let plain = discrete.untruncate(&truncated).expect("an output");
        assert_near(&parts(&plain), &parts(discrete.continuous().output()), 1e-9, "an output that was had back");
    }
}

#[test]
fn an_output_that_is_truncated_to_nothing_is_what_it_was() {
    let discrete = of_measure(Measure::Legs, 8, 1, 0.01);
    let truncated = discrete.truncate(0).expect("an output");
    assert_eq!(
        (truncated.output.as_slice(), truncated.length),
        (discrete.continuous().output(), 0)
    );
    assert_eq!(
        discrete.untruncate(&truncated).expect("an output"),
        truncated.output
    );
    assert_eq!(discrete.kernel_by_generating_function(0), Ok(vec![]));
}

#[test]
fn of_legs_at_even_odd_and_prime_lengths() {
    for length in [1, 2, 3, 255, 256, 257, 1024, 4096] {
        let discrete = of_measure(Measure::Legs, 64, 1, 0.01);
        let expected = discrete.kernel(length).expect("a kernel");
        let found = discrete.kernel_by_generating_function(length).expect("a kernel");
        assert_near(&found, &expected, 1e-13, &format!("length {length}"));
    }
}

#[test]
fn of_every_measure_that_has_a_normal_form() {
    for (measure, rank) in [
        (Measure::Legt, 2),
        (Measure::Lagt { beta: 1.0 }, 1),
        (Measure::Legs, 3),
        (Measure::LegsDiagonal, 0),
    ] {
        let discrete = of_measure(measure, 32, rank, 0.01);
        let expected = discrete.kernel(200).expect("a kernel");
        let found = discrete.kernel_by_generating_function(200).expect("a kernel");
        assert_close(&found, &expected, 1e-12, measure.name());
    }
}

#[test]
fn a_dead_state_is_an_error_of_the_generating_function_and_not_of_the_recurrence() {
    let discrete = of_measure(Measure::Fourier, 16, 1, 0.01);
    assert!(discrete.kernel(100).is_ok());
    let found = discrete.kernel_by_generating_function(100);
    assert!(
        matches!(found, Err(StateSpaceError::Singular { .. })),
        "{found:?}"
    );
}

#[test]
fn a_mode_that_hardly_decays_keeps_its_digits() {
    // Published code keeps Re λ at −1e-4 or below where a Fourier measure has a mode 0.
    let form = NormalPlusLowRank::of_measure(Measure::Fourier, 16, 1).expect("a form");
    let eigenvalues = form
        .eigenvalues
        .iter()
        .map(|z| Complex64::new(-1e-4, z.im))
        .collect();
    let output = complex_normal(8, &mut systems::rng(1));
    let system = Dplr::new(eigenvalues, form.low_rank, form.input, output, 0.0).expect("a system");
    for length in [24, 25, 512] {
        let discrete = system
            .discretise(Discretisation::BILINEAR, 0.01)
            .expect("a recurrence");
        let expected = discrete.kernel(length).expect("a kernel");
        let found = discrete.kernel_by_generating_function(length).expect("a kernel");
        assert_near(&found, &expected, 1e-9, &format!("length {length}"));
    }
}

#[test]
fn the_untruncated_output_folds_later_laps_back() {
    // 9e-3 at 256 taps of a random output with Δ = 0.01, and hardly anything where everything has decayed.
    let discrete = of_measure(Measure::Legs, 64, 1, 0.01);
    let folded = |length: usize| {
        let plain = discrete.continuous().output().to_vec();
        let found = discrete.kernel_of_truncated(&plain, length).expect("a kernel");
        let expected = discrete.kernel(length).expect("a kernel");
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f64::max)
    };
    assert!(folded(256) > 1e-3 && folded(1024) < 1e-4);
}

#[test]
fn of_every_initialisation() {
    for (name, rank) in [
        ("legs", 1),
        ("legt", 2),
        ("lagt", 1),
        ("dplr-lin", 2),
        ("dplr-inv", 3),
        ("diag-lin", 1),
    ] {
        let mut rng = systems::rng(9);
        let options = SpectrumOptions::default();
        let initial = initialise(name, 16, rank, &options, &mut rng).expect("parameters");
        let system = initial.dplr(complex_normal(8, &mut rng), 0.0).expect("a system");
        let discrete = system
            .discretise(Discretisation::BILINEAR, 0.02)
            .expect("a recurrence");
        let expected = discrete.kernel(75).expect("a kernel");
        let found = discrete.kernel_by_generating_function(75).expect("a kernel");
        assert_near(&found, &expected, 1e-12, name);
    }
}
