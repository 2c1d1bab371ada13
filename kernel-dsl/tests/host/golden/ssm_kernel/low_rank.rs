//! S4 by its generating function, with its truncation to a number of taps.

use spillway_kernel_dsl::cauchy::{self, truncation};

use super::system::{Sizes, System, rows, sum};
use crate::support::{Case, cases};

fn low_rank_problem(case: &Case, system: &System, nodes: usize) -> cauchy::Problem {
    let Sizes {
        channels,
        readouts,
        batch,
        length,
    } = Sizes::new(case);
    cauchy::Problem {
        channels,
        modes: system.modes,
        rank: case.input("P").len() / (2 * system.copies * system.modes),
        copies: system.copies,
        readouts,
        batch,
        nodes,
        length,
    }
}

/// A system whose readout is truncated for so many positions at rate 1.
pub(super) fn check_low_rank(case: &Case, attuned: usize) {
    let (system, sizes) = (System::new(case), Sizes::new(case));
    let nodes = (attuned as f64 / system.rate).round() as usize;
    let problem = low_rank_problem(case, &system, nodes);
    let (step, a) = (system.step(), system.a());
    let signal = case.input_if_any("u").unwrap_or_default();
    let state = case.input_if_any("state").unwrap_or_default();
    let inputs = cauchy::Inputs {
        step: &step,
        a: &a,
        b: &system.b,
        p: case.input("P"),
        c: rows(&system.c, 2 * system.modes),
        state: rows(state, 2 * system.modes),
    };
    let responses = problem.batch * problem.readouts * problem.channels * problem.length;
    let mut results = cauchy::Results {
        kernel: vec![f32::NAN; case.output("K").len()],
        state_kernel: vec![f32::NAN; responses],
    };
    cauchy::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
    case.check("Cauchy", "K", &results.kernel);
    if case.has_output("K_state") {
        case.check("Cauchy", "K_state", &results.state_kernel);
        let y = sizes.outputs(&results.kernel, &results.state_kernel, signal);
        case.check("Cauchy", "y", &y);
    }
    if case.cotangent_if_any("K").is_none() {
        return;
    }

    let nothing = vec![0.0; responses];
    let by_y = case.cotangent_if_any("y").unwrap_or(&nothing);
    let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, by_y);
    let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
    let by_response = sum(by_y, case.cotangent_if_any("K_state"));
    let cotangents = cauchy::Cotangents {
        kernel: Some(rows(&by_kernel, problem.length)),
        state_kernel: Some(rows(&by_response, problem.length)),
    };
    let mut gradients = cauchy::GradientBuffers {
        step: vec![f32::NAN; step.len()],
        a: vec![f32::NAN; a.len()],
        b: vec![f32::NAN; system.b.len()],
        p: vec![f32::NAN; case.input("P").len()],
        c: vec![f32::NAN; system.c.len()],
        state: vec![f32::NAN; state.len()],
    };
    cauchy::backward(&problem, &inputs, &cotangents, &mut gradients.as_written()).expect("valid");
    let cauchy::GradientBuffers { step, a, b, c, .. } = &gradients;
    system.check_gradients(case, "Cauchy", step, a, b, c);
    case.check_gradient("Cauchy", "P", &gradients.p);
    if case.input_if_any("state").is_some() {
        case.check_gradient("Cauchy", "state", &gradients.state);
        case.check_gradient("Cauchy", "u", &by_signal);
    }
}

#[test]
fn kernels_of_s4_agree() {
    for case in cases("s4_dplr_kernel") {
        if case.text("C_is") == Some("C_tilde") {
            check_low_rank(&case, case.dim("L"));
            continue;
        }
        let system = System::new(&case);
        let problem = low_rank_problem(&case, &system, case.dim("L"));
        let found = kernel_of(
            &case,
            &system,
            &problem,
            &system.step(),
            &system.c,
            truncation::truncate,
        );
        case.check("Cauchy", "C_tilde", &found.0);
        case.check("Cauchy", "K", &found.1);
    }
}

type Change = fn(&cauchy::Problem, &cauchy::Inputs, &mut [f32]) -> Result<(), cauchy::CauchyError>;

/// The readout that a change gives, and the kernel of it.
fn kernel_of(
    case: &Case,
    system: &System,
    problem: &cauchy::Problem,
    step: &[f32],
    c: &[f32],
    change: Change,
) -> (Vec<f32>, Vec<f32>) {
    // Signals are not a part of it.
    let problem = cauchy::Problem { batch: 0, ..*problem };
    let a = system.a();
    let mut changed = vec![f32::NAN; c.len()];
    let mut inputs = cauchy::Inputs {
        step,
        a: &a,
        b: &system.b,
        p: case.input("P"),
        c: rows(c, 2 * system.modes),
        state: rows(&[], 2 * system.modes),
    };
    change(&problem, &inputs, &mut changed).expect("valid");
    inputs.c = rows(&changed, 2 * system.modes);
    let mut results = cauchy::Results {
        kernel: vec![f32::NAN; problem.readouts * problem.channels * problem.length],
        state_kernel: Vec::new(),
    };
    cauchy::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
    (changed, results.kernel)
}

/// The kernel at another rate of the C that C̃ stands for.
pub(super) fn check_exact_rate(case: &Case) {
    let system = System::new(case);
    let attuned = case.scalar("l_kernel") as usize;
    let trained: Vec<f32> = system.step.values.iter().map(|&x| x as f32).collect();
    let problem = cauchy::Problem {
        length: 0,
        ..low_rank_problem(case, &system, attuned)
    };
    let (c, _) = kernel_of(case, &system, &problem, &trained, &system.c, truncation::restore);
    let problem = low_rank_problem(case, &system, case.dim("L"));
    let (_, kernel) = kernel_of(case, &system, &problem, &system.step(), &c, truncation::truncate);
    case.check("C restored and truncated", "K_exact", &kernel);
}

#[test]
fn lengths_agree() {
    for case in cases("s4_length") {
        let system = System::new(&case);
        let length = case.dim("L");
        let mut nodes = case.scalar("l_kernel") as usize;
        let (mut c, step) = (system.c.clone(), system.step());
        let mut run = |nodes: usize, after: usize, change: Change| {
            let mut problem = low_rank_problem(&case, &system, nodes);
            problem.length = 0;
            c = kernel_of(&case, &system, &problem, &step, &c, change).0;
            after
        };
        if nodes == 0 {
            nodes = run(length, length, truncation::truncate);
        }
        while nodes < length {
            nodes = run(nodes, 2 * nodes, truncation::extend);
        }
        assert_eq!(case.output("l_kernel_after"), [nodes as f32], "{}", case.name);
        case.check("extended", "C_after", &c);
        let problem = low_rank_problem(&case, &system, nodes);
        let same: Change = |_, inputs, out| {
            let rows = (0..inputs.c.rows()).flat_map(|row| inputs.c.row(row));
            out.iter_mut().zip(rows).for_each(|(out, &c)| *out = c);
            Ok(())
        };
        let (_, kernel) = kernel_of(&case, &system, &problem, &step, &c, same);
        case.check("extended", "K", &kernel);
    }
}
