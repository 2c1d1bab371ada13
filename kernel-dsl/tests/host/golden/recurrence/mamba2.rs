//! Mamba-2.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::recurrence::{Problem, ReadOut};

use super::prepared::{Prepared, transpose};
use crate::support::{Case, cases};

/// Mamba-2's projections to step size and gate are done here in f64: they are not the recurrence's.
#[test]
fn mamba2_agrees() {
    for case in cases("mamba2_ssd") {
        let (heads, key_dim, value_dim) = (case.dim("H"), case.dim("N"), case.dim("P"));
        let problem = Problem {
            batch: case.dim("B"),
            time: case.dim("T"),
            heads,
            groups: case.dim("G"),
            key_dim,
            value_dim,
            decay: DecayKind::PerHeadToken,
            read_out: ReadOut::Inclusive,
        };
        let zeros = vec![0.0; problem.state_len()];
        let state = case
            .input_if_any("h0")
            .map_or(zeros, |h0| transpose(h0, value_dim, key_dim));
        let step = |(i, raw): (usize, &f32)| mamba2_step_size(&case, *raw, i % heads);
        let steps: Vec<f64> = case.input("dt").iter().enumerate().map(step).collect();
        let a = case.input("A");
        let log_decay = |(i, step): (usize, &f64)| (step * f64::from(a[i % heads])) as f32;
        let prepared = Prepared {
            problem,
            query: case.input("C").to_vec(),
            key: case.input("B").to_vec(),
            value: case.input("x").to_vec(),
            log_decay: steps.iter().enumerate().map(log_decay).collect(),
            step_size: Some(steps.iter().map(|step| *step as f32).collect()),
            bonus: None,
            skip: case.input_if_any("D").map(<[f32]>::to_vec),
            scale: 1.0,
            state,
        };
        check_mamba2_gradients(&case, &prepared, &steps);
        for (form, mut out, state) in prepared.run() {
            if let Some(gate) = case.input_if_any("z") {
                for (y, z) in out.iter_mut().zip(gate) {
                    let z = f64::from(*z);
                    *y = (f64::from(*y) * z / (1.0 + (-z).exp())) as f32;
                }
            }
            case.check(&form, "out", &out);
            case.check(&form, "final_state", &transpose(&state, key_dim, value_dim));
        }
    }
}

/// Takes the recurrence's gradients on to what Mamba-2's layer is given: z, raw Δ and its bias, and A.
fn check_mamba2_gradients(case: &Case, prepared: &Prepared, steps: &[f64]) {
    let Problem {
        heads,
        key_dim,
        value_dim,
        ..
    } = prepared.problem;
    let (_, y, _) = prepared.run().swap_remove(0);
    let cotangent = case.cotangent("out");
    let mut by_y = cotangent.to_vec();
    if let Some(gate) = case.input_if_any("z") {
        let mut by_gate = Vec::new();
        for ((dy, y), z) in by_y.iter_mut().zip(&y).zip(gate) {
            let (z, sigmoid) = (f64::from(*z), 1.0 / (1.0 + f64::from(-*z).exp()));
            by_gate.push((f64::from(*dy) * f64::from(*y) * sigmoid * (1.0 + z * (1.0 - sigmoid))) as f32);
            *dy = (f64::from(*dy) * z * sigmoid) as f32;
        }
        case.check_gradient("sequential", "z", &by_gate);
    }
    let state = case
        .cotangent_if_any("final_state")
        .map(|state| transpose(state, value_dim, key_dim));
    for (form, gradients) in prepared.gradients(&by_y, state.as_deref()) {
        case.check_gradient(&form, "C", &gradients.query);
        case.check_gradient(&form, "B", &gradients.key);
        case.check_gradient(&form, "x", &gradients.value);
        if let Some(skip) = &gradients.skip {
            case.check_gradient(&form, "D", skip);
        }
        if case.gradient_if_any("h0").is_some() {
            case.check_gradient(&form, "h0", &transpose(&gradients.state, key_dim, value_dim));
        }
        let by_step = gradients.step_size.expect("Mamba-2 has step sizes");
        let by_log_decay = gradients.log_decay.either().expect("Mamba-2 decays");
        let mut by_raw = Vec::new();
        let [mut by_a, mut by_bias, mut sizes] = [(); 3].map(|()| vec![0.0_f64; heads]);
        for (i, raw) in case.input("dt").iter().enumerate() {
            let head = i % heads;
            let a = f64::from(case.input("A")[head]);
            by_a[head] += f64::from(by_log_decay[i]) * steps[i];
            let terms = [f64::from(by_step[i]), f64::from(by_log_decay[i]) * a];
            let slope = mamba2_step_size_slope(case, *raw, head);
            let derivative = (terms[0] + terms[1]) * slope;
            sizes[head] += (terms[0].abs() + terms[1].abs()) * slope;
            by_bias[head] += derivative;
            by_raw.push(derivative as f32);
        }
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
        case.check_gradient(&form, "dt", &by_raw);
        case.check_gradient(&form, "A", &narrow(&by_a));
        let expected = case.gradient_if_any("dt_bias").unwrap_or_default();
        for (head, expected) in expected.iter().enumerate() {
            // A sum of terms that cancel, each known to f32: the error is measured against their sizes.
            let size = sizes[head];
            let close = (by_bias[head] - f64::from(*expected)).abs() <= 1e-6 * size;
            assert!(
                close,
                "{} by {form}: dt_bias {head} is {}, expected {expected}, from terms of {size}",
                case.name, by_bias[head]
            );
        }
    }
}

/// dΔ / d raw.
fn mamba2_step_size_slope(case: &Case, raw: f32, head: usize) -> f64 {
    let bias = case
        .input_if_any("dt_bias")
        .map_or(0.0, |bias| f64::from(bias[head]));
    let sum = f64::from(raw) + bias;
    let (step, slope) = if case.scalar("dt_softplus") == 0.0 {
        (sum, 1.0)
    } else {
        (sum.exp().ln_1p(), 1.0 / (1.0 + (-sum).exp()))
    };
    let (lowest, highest) = case.scalar_pair("dt_limit");
    if (lowest..=highest).contains(&step) {
        slope
    } else {
        0.0
    }
}

/// Δ = clamp(softplus(raw + bias)), without softplus where the case says so.
fn mamba2_step_size(case: &Case, raw: f32, head: usize) -> f64 {
    let bias = case
        .input_if_any("dt_bias")
        .map_or(0.0, |bias| f64::from(bias[head]));
    let sum = f64::from(raw) + bias;
    let step = if case.scalar("dt_softplus") == 0.0 {
        sum
    } else {
        sum.exp().ln_1p()
    };
    let (lowest, highest) = case.scalar_pair("dt_limit");
    step.clamp(lowest, highest)
}
