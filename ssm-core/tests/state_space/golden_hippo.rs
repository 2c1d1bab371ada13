//! Matrices, normal forms and scans of HiPPO measures, against state-spaces/s4 and scipy.

use crate::differences::assert_close;
use crate::support::{Case, cases};
use spillway_ssm_core::state_space::hippo::{LegsScan, LegsStart, Measure, NormalPlusLowRank, Transition};
use spillway_ssm_core::state_space::{Complex64, DiscreteStateSpace, Discretisation, StateSpace};

/// The measure of a case, with its parameters.
fn measure(name: &str, parameters: &serde_json::Value) -> Measure {
    let number = |key: &str, usual: f64| parameters[key].as_f64().unwrap_or(usual);
    match Measure::from_name(name).expect("a known measure") {
        Measure::Lagt { beta } => Measure::Lagt {
            beta: number("beta", beta),
        },
        Measure::TiltedLagt { beta } => Measure::TiltedLagt {
            beta: number("beta", beta),
        },
        Measure::GeneralisedLagt { alpha, beta } => Measure::GeneralisedLagt {
            alpha: number("alpha", alpha),
            beta: number("beta", beta),
        },
        other => other,
    }
}

fn rows(matrix: &spillway_ssm_core::state_space::DMatrix<f64>) -> Vec<f64> {
    matrix.transpose().iter().copied().collect()
}

fn check_matrices(case: &Case, system: Transition) {
    assert_close(&rows(&system.a), case.tensor("A"), 1e-13, &case.name);
    assert_close(system.b.as_slice(), case.tensor("B"), 1e-13, &case.name);
    let dense = system.states_only().expect("a system");
    // The largest are there for their matrices alone.
    let Some(step) = case.json["dt"].as_f64() else {
        return;
    };
    for (name, rule) in [
        ("bilinear", Discretisation::BILINEAR),
        ("zoh", Discretisation::ZeroOrderHold),
        ("euler", Discretisation::FORWARD_EULER),
        ("backward_diff", Discretisation::BACKWARD_EULER),
    ] {
        let discrete = dense.discretise(rule, step).expect("a recurrence");
        let what = format!("{} {name}", case.name);
        assert_close(
            &rows(discrete.a()),
            case.tensor(&format!("{name}.dA")),
            1e-11,
            &what,
        );
        assert_close(
            discrete.b().as_slice(),
            case.tensor(&format!("{name}.dB")),
            1e-11,
            &what,
        );
    }
}

fn norms(values: &[Complex64]) -> Vec<f64> {
    values.iter().map(|z| z.norm()).collect()
}

/// Eigenvectors of other software have phases of its choice, so what does not depend on them is compared.
fn check_normal_form(case: &Case, measure: Measure, n: usize) {
    let rank = case.json["rank"].as_u64().expect("a rank") as usize;
    let form = NormalPlusLowRank::of_measure(measure, n, rank).expect("a form");
    let (w, b, p) = (case.complex("W"), case.complex("B"), case.complex("P"));
    let parts = |z: &[Complex64]| z.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>();
    assert_close(&parts(&form.eigenvalues), &parts(&w), 1e-12, &case.name);
    assert_close(&norms(&form.input), &norms(&b), 1e-10, &case.name);
    for (r, vector) in form.low_rank.iter().enumerate() {
        let theirs = &p[r * n / 2..(r + 1) * n / 2];
        assert_close(&norms(vector), &norms(theirs), 1e-10, &case.name);
        let products = |p: &[Complex64], b: &[Complex64]| -> Vec<Complex64> {
            p.iter().zip(b).map(|(p, b)| p * b.conj()).collect()
        };
        let (ours, theirs) = (products(vector, &form.input), products(theirs, &b));
        assert_close(&parts(&ours), &parts(&theirs), 1e-9, &case.name);
    }
}

#[test]
fn matrices_discretisations_and_normal_forms() {
    for case in cases("hippo") {
        let n = case.json["N"].as_u64().expect("a size") as usize;
        let name = case.json["measure"].as_str().expect("a measure");
        if matches!(name, "random" | "diagonal") {
            continue;
        }
        let measure = measure(name, &case.json["args"]);
        if case.if_any("W").is_some() {
            check_normal_form(&case, measure, n);
        } else {
            check_matrices(&case, measure.transition(n).expect("a system"));
        }
    }
}

#[test]
fn time_varying_scans() {
    for case in cases("hippo_legs_scan") {
        let rule = Discretisation::from_name(case.text("discretization", "")).expect("a known rule");
        let start = match case.number("init_t", 0.0) as u64 {
            0 => LegsStart::FirstSample,
            _ => LegsStart::Zero,
        };
        let shape = case.shape("out.c").to_vec();
        let scan = LegsScan::new(shape[2], rule)
            .expect("a scan")
            .with_start(start)
            .with_limit(case.number("l_max", 1e9) as u64)
            .expect("a limit");
        for batch in 0..shape[0] {
            let input = case.series("in.u", 0, batch);
            let found = scan
                .read(&mut scan.begin(), input)
                .expect("coefficients")
                .concat();
            let size = shape[1] * shape[2];
            let expected = &case.tensor("out.c")[batch * size..(batch + 1) * size];
            assert_close(&found, expected, 1e-12, &case.name);
        }
    }
}

#[test]
fn time_invariant_scans() {
    for case in cases("hippo_lti_scan") {
        let shape = case.shape("out.c").to_vec();
        let measure = measure(case.text("measure", ""), &case.json["scalars"]);
        let system = measure.transition(shape[2]).expect("a system");
        assert_close(&rows(&system.a), case.tensor("out.A"), 1e-13, &case.name);
        assert_close(system.b.as_slice(), case.tensor("out.B"), 1e-13, &case.name);
        let rule = Discretisation::from_name(case.text("discretization", "")).expect("a known rule");
        let dense = system.states_only().expect("a system");
        let discrete = dense
            .discretise(rule, case.number("dt", 0.0))
            .expect("a recurrence");
        for batch in 0..shape[0] {
            let input = case.series("in.u", 0, batch);
            let states = discrete.states(&mut discrete.zero_state(), input);
            let size = shape[1] * shape[2];
            let expected = &case.tensor("out.c")[batch * size..(batch + 1) * size];
            assert_close(&states.expect("states").concat(), expected, 1e-12, &case.name);
        }
    }
}
