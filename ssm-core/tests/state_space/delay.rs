//! A delay line by least squares: which eigenvalues can remember, with nothing trained but C.

use crate::systems;
use rand::rngs::StdRng;
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise, real_normal};
use spillway_ssm_core::state_space::{DMatrix, DVector, DiscreteStateSpace, Discretisation, StateSpace};
use std::f64::consts::PI;

const LENGTH: usize = 1024;

/// White noise below 0.05 cycles a sample, with a period of `LENGTH`.
fn noise(rng: &mut StdRng) -> Vec<f64> {
    let bins = LENGTH / 20;
    let parts = real_normal(2 * bins, rng);
    let value = |t: usize| {
        (1..bins)
            .map(|k| {
                let phase = 2.0 * PI * (k * t) as f64 / LENGTH as f64;
                parts[2 * k] * phase.cos() + parts[2 * k + 1] * phase.sin()
            })
            .sum::<f64>()
    };
    (0..LENGTH).map(|t| value(t) / (bins as f64).sqrt()).collect()
}

/// The relative error of u_{t − lag} from the states at t, with C by ridge regression.
fn error(name: &str, state_size: usize, lag: usize, step: f64) -> f64 {
    let mut rng = systems::rng(0);
    let input = noise(&mut rng);
    let initial = initialise(name, state_size, 0, &SpectrumOptions::default(), &mut rng);
    let initial = initial.expect("parameters");
    let half = state_size / 2;
    let none = vec![0.0.into(); half];
    let system = initial.diagonal(none, 0.0);
    let discrete = system
        .and_then(|s| s.discretise(Discretisation::ZeroOrderHold, step))
        .expect("a recurrence");
    // The noise repeats, and is heard once before it counts: its start from nothing is a jump, which no signal of this band has.
    let mut state = discrete.zero_state();
    discrete.respond(&mut state, &input).expect("outputs");
    let states = discrete.states(&mut state, &input).expect("states");
    let rows = DMatrix::from_fn(LENGTH, state_size, |t, n| {
        let x = states[t][n % half];
        if n < half { x.re } else { x.im }
    });
    let target = DVector::from_fn(LENGTH, |t, _| input[(t + LENGTH - lag) % LENGTH]);
    // Columns of one size, so that the ridge means the same for each.
    let scale = DVector::from_fn(state_size, |n, _| rows.column(n).norm().max(1e-12));
    let rows = DMatrix::from_fn(LENGTH, state_size, |t, n| rows[(t, n)] / scale[n]);
    let gram = rows.tr_mul(&rows) + DMatrix::identity(state_size, state_size) * RIDGE;
    let weights = gram
        .cholesky()
        .expect("a positive matrix")
        .solve(&rows.tr_mul(&target));
    (rows * weights - &target).norm() / target.norm()
}

/// What is added to the squares of columns of size 1.
const RIDGE: f64 = 1e-3;

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
