//! A delay line by least squares: which eigenvalues can remember, with nothing trained but C.

use crate::systems;
use spillway_ssm_core::state_space::delay::Delay;
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};

/// The relative error of u_{t − lag} from the states at t, of noise below 0.05 cycles a sample.
fn error(name: &str, state_size: usize, lag: usize, step: f64) -> f64 {
    let mut rng = systems::rng(0);
    let initial = initialise(name, state_size, 0, &SpectrumOptions::default(), &mut rng);
    let delay = Delay {
        length: 1024,
        limit: 0.05,
        lag,
    };
    delay
        .error(&initial.expect("parameters"), step, &mut rng)
        .expect("an error")
}

#[test]
fn imaginary_parts_remember_and_real_ones_do_not() {
    let lag = 64;
    let error = |name| error(name, 64, lag, 2.0 / lag as f64);
    let (inv, legs, lin, real) = (
        error("diag-inv"),
        error("diag-legs"),
        error("diag-lin"),
        error("diag-real"),
    );
    assert!(inv < 0.1, "Inv {inv}");
    assert!(legs < 0.1, "LegS {legs}");
    assert!(real > 0.7, "Real {real}");
    // An echo of e^{−1} after 2/Δ samples is all that Lin gets wrong.
    assert!((0.3..0.4).contains(&lin), "Lin {lin}");
}

#[test]
fn a_longer_delay_needs_more_states() {
    let lag = 256;
    for name in ["diag-inv", "diag-legs"] {
        let error = error(name, 256, lag, 2.0 / lag as f64);
        assert!(error < 0.1, "{name} {error}");
    }
    let real = error("diag-real", 256, lag, 2.0 / lag as f64);
    assert!(real > 0.7, "Real {real}");
}

#[test]
fn sinusoids_remember_all_of_their_window() {
    let lag = 256;
    let lin = error("diag-lin", 128, lag, 0.5 / lag as f64);
    assert!(lin < 0.02, "Lin {lin}");
}

#[test]
fn a_signal_that_cannot_be_delayed_is_refused() {
    let initial = initialise(
        "diag-lin",
        8,
        0,
        &SpectrumOptions::default(),
        &mut systems::rng(0),
    )
    .expect("parameters");
    for (length, limit, lag) in [(16, 0.05, 4), (64, 0.25, 64), (0, 0.5, 0), (64, f64::NAN, 3)] {
        let delay = Delay { length, limit, lag };
        assert!(
            delay.error(&initial, 0.1, &mut systems::rng(0)).is_err(),
            "{delay:?}"
        );
    }
    let delay = Delay {
        length: 64,
        limit: 0.25,
        lag: 3,
    };
    for step in [0.0, -1.0, f64::NAN] {
        assert!(
            delay.error(&initial, step, &mut systems::rng(0)).is_err(),
            "{step}"
        );
    }
}
