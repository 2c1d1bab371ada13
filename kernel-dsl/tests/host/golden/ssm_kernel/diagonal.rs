//! S4D, DSS and moving averages by their roots.

use spillway_kernel_dsl::vandermonde::{self, Discretization, ModeSet, Steps};

use super::system::{Sizes, System, rows, sum, transformed};
use crate::support::{Case, cases};

/// The names of the states before and after in a case.
const STATES: [(&str, &str); 2] = [("state", "next_state"), ("state0", "state")];

pub(super) fn check_diagonal(case: &Case, rule: Discretization) {
    let (system, sizes) = (System::new(case), Sizes::new(case));
    let Sizes {
        channels,
        readouts,
        batch,
        length,
    } = sizes;
    let problem = vandermonde::Problem {
        channels,
        modes: system.modes,
        copies: system.copies,
        readouts,
        batch,
        length,
        discretization: rule,
        mode_set: match rule {
            Discretization::Softmax => ModeSet::All,
            _ => ModeSet::ConjugatePairs,
        },
        steps: match system.step.values.len() == channels {
            true => Steps::PerChannel,
            false => Steps::PerMode,
        },
    };
    let names = STATES
        .iter()
        .find(|(before, _)| case.input_if_any(before).is_some());
    let (step, a) = (system.step(), system.a());
    let signal = case.input_if_any("u").unwrap_or_default();
    let inputs = vandermonde::Inputs {
        step: &step,
        a: &a,
        b: &system.b,
        c: &system.c,
        state: names.map(|(before, _)| case.input(before)).unwrap_or_default(),
        signal: rows(signal, length),
    };
    let mut results = vandermonde::Results {
        kernel: vec![f32::NAN; readouts * channels * length],
        state_kernel: vec![f32::NAN; batch * readouts * channels * length],
        next_state: vec![f32::NAN; inputs.state.len()],
    };
    vandermonde::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
    case.check("Vandermonde", "K", &results.kernel);
    if case.has_output("K_state") {
        case.check("Vandermonde", "K_state", &results.state_kernel);
    }
    if let Some((_, after)) = names {
        let y = sizes.outputs(&results.kernel, &results.state_kernel, signal);
        case.check("Vandermonde", "y", &y);
        case.check("Vandermonde", after, &results.next_state);
    }
    if case.cotangent_if_any("K").is_none() {
        return;
    }

    let by_y = case.cotangent_if_any("y");
    let nothing = vec![0.0; results.state_kernel.len()];
    let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, by_y.unwrap_or(&nothing));
    let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
    let by_response = sum(by_y.unwrap_or(&nothing), case.cotangent_if_any("K_state"));
    let cotangents = vandermonde::Cotangents {
        kernel: Some(rows(&by_kernel, length)),
        state_kernel: Some(rows(&by_response, length)),
        next_state: names.and_then(|(_, after)| case.cotangent_if_any(after)),
    };
    let mut gradients = vandermonde::GradientBuffers {
        step: vec![f32::NAN; step.len()],
        a: vec![f32::NAN; a.len()],
        b: vec![f32::NAN; system.b.len()],
        c: vec![f32::NAN; system.c.len()],
        state: vec![f32::NAN; inputs.state.len()],
        signal: vec![f32::NAN; signal.len()],
    };
    vandermonde::backward(&problem, &inputs, &cotangents, &mut gradients.as_written()).expect("valid");
    let vandermonde::GradientBuffers { step, a, b, c, .. } = &gradients;
    system.check_gradients(case, "Vandermonde", step, a, b, c);
    if let Some((before, _)) = names {
        case.check_gradient("Vandermonde", before, &gradients.state);
        let by_signal = sum(&by_signal, Some(&gradients.signal));
        case.check_gradient("Vandermonde", "u", &by_signal);
    }
}

pub(super) fn rule(case: &Case) -> Discretization {
    match case.text("disc") {
        None | Some("zoh") => Discretization::ZeroOrderHold,
        Some("bilinear") => Discretization::Bilinear,
        other => panic!("{} has the rule {other:?}", case.name),
    }
}

#[test]
fn kernels_of_s4d_agree() {
    for op in ["s4d_kernel", "s4d_variants"] {
        for case in cases(op) {
            check_diagonal(&case, rule(&case));
        }
    }
}

#[test]
fn kernels_of_dss_agree() {
    for case in cases("dss_kernel") {
        check_diagonal(&case, Discretization::Softmax);
    }
}

#[test]
fn kernels_of_moving_averages_agree() {
    for case in cases("ema_kernel") {
        check_moving_average(&case);
    }
}

/// p = σ(δ), q = 1 − p σ(α): λ = ln q at Δ = 1, B = p β, C = γ/√N.
fn check_moving_average(case: &Case) {
    let (modes, length, channels) = (case.dim("N"), case.dim("L"), case.dim("H") * case.dim("channels"));
    let [p, alpha] = ["delta", "alpha"].map(|name| transformed("sigmoid", case.input(name)));
    let (beta, gamma) = (case.input("beta"), case.input("gamma"));
    let copies = beta.len() / modes;
    // A tied δ belongs to all modes of a copy.
    let p_index = |index: usize| index / (copies * modes / p.values.len());
    let decay = |index: usize| -p.values[p_index(index)] * alpha.values[index];
    let real = |values: Vec<f64>| -> Vec<f32> { values.iter().flat_map(|&x| [x as f32, 0.0]).collect() };
    let a = real((0..copies * modes).map(|i| decay(i).ln_1p()).collect());
    let b = (0..copies * modes).map(|i| p.values[p_index(i)] * f64::from(beta[i]));
    let b = real(b.collect());
    let scale = (modes as f64).sqrt().recip();
    let c = real(gamma.iter().map(|&x| f64::from(x) * scale).collect());
    let problem = vandermonde::Problem {
        channels,
        modes,
        copies,
        readouts: 1,
        batch: 0,
        length,
        discretization: Discretization::ExponentialEuler,
        mode_set: ModeSet::All,
        steps: Steps::PerChannel,
    };
    let step = vec![1.0; channels];
    let inputs = vandermonde::Inputs {
        step: &step,
        a: &a,
        b: &b,
        c: &c,
        state: &[],
        signal: rows(&[], length),
    };
    let mut results = vandermonde::Results {
        kernel: vec![f32::NAN; channels * length],
        state_kernel: Vec::new(),
        next_state: Vec::new(),
    };
    vandermonde::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
    case.check("Vandermonde", "K", &results.kernel);
    let sizes = Sizes {
        channels: case.dim("H"),
        readouts: case.dim("channels"),
        batch: case.dim("B"),
        length,
    };
    let signal = case.input("u");
    case.check("Vandermonde", "y", &sizes.outputs(&results.kernel, &[], signal));

    let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, case.cotangent("y"));
    case.check_gradient("Vandermonde", "u", &by_signal);
    let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
    let cotangents = vandermonde::Cotangents {
        kernel: Some(rows(&by_kernel, length)),
        state_kernel: None,
        next_state: None,
    };
    let mut by = vandermonde::GradientBuffers {
        step: vec![f32::NAN; channels],
        a: vec![f32::NAN; a.len()],
        b: vec![f32::NAN; b.len()],
        c: vec![f32::NAN; c.len()],
        state: Vec::new(),
        signal: Vec::new(),
    };
    vandermonde::backward(&problem, &inputs, &cotangents, &mut by.as_written()).expect("valid");
    let mut by_delta = vec![0.0_f64; p.values.len()];
    let (mut by_alpha, mut by_beta) = (Vec::new(), Vec::new());
    for (index, &beta) in beta.iter().enumerate() {
        let (by_a, by_b) = (f64::from(by.a[2 * index]), f64::from(by.b[2 * index]));
        let at = p_index(index);
        let by_q = by_a / (1.0 + decay(index));
        by_delta[at] += p.slopes[at] * (f64::from(beta) * by_b - alpha.values[index] * by_q);
        by_alpha.push((-p.values[at] * alpha.slopes[index] * by_q) as f32);
        by_beta.push((p.values[at] * by_b) as f32);
    }
    let by_gamma: Vec<f32> =
        by.c.iter()
            .step_by(2)
            .map(|&x| (f64::from(x) * scale) as f32)
            .collect();
    let by_delta: Vec<f32> = by_delta.into_iter().map(|x| x as f32).collect();
    for (name, found) in [
        ("delta", by_delta),
        ("alpha", by_alpha),
        ("beta", by_beta),
        ("gamma", by_gamma),
    ] {
        case.check_gradient("Vandermonde", name, &found);
    }
}
