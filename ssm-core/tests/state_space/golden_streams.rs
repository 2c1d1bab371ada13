//! Outputs from states, and the states after them, against state-spaces/s4.

use crate::differences::assert_close;
use crate::support::{Case, STORED_IN_F32, cases};
use spillway_ssm_core::state_space::{
    Complex64, DiscreteStateSpace, Discretisation, StateSpace, TruncatedOutput,
};

/// Row (`batch`, `channel`) of a tensor of states, or the state 0.
fn state(case: &Case, name: &str, batch: usize, channel: usize, modes: usize) -> Vec<Complex64> {
    match case.if_any(name) {
        Some(_) => case.modes(name, batch, channel),
        None => vec![Complex64::ZERO; modes],
    }
}

/// One channel and one output of a case, as a recurrence.
fn discrete(case: &Case, output: usize, channel: usize) -> Box<dyn DiscreteStateSpace<Scalar = Complex64>> {
    if !case.is_dplr() {
        let system = case.diagonal(output, channel);
        let discrete = system.discretise_untied(case.rule(), &case.steps(channel));
        return Box::new(discrete.expect("a recurrence"));
    }
    let (system, step) = (case.dplr(output, channel), case.steps(channel)[0]);
    let stored = TruncatedOutput {
        output: system.output().to_vec(),
        length: case.truncated_at(),
    };
    let made = system
        .discretise(Discretisation::BILINEAR, step)
        .and_then(|discrete| discrete.untruncate(&stored))
        .and_then(|plain| system.with_output(plain))
        .and_then(|system| system.discretise(Discretisation::BILINEAR, step));
    Box::new(made.expect("a recurrence"))
}

fn parts(z: &[Complex64]) -> Vec<f64> {
    z.iter().flat_map(|z| [z.re, z.im]).collect()
}

/// Outputs [batch, outputs, channels, time] and next states of every channel of a case.
fn check(case: &Case) {
    let (batches, channels, outputs) = (case.shape("in.u")[0], case.channels(), case.outputs());
    for output in 0..outputs {
        for channel in 0..channels {
            let discrete = discrete(case, output, channel);
            for batch in 0..batches {
                let input = case.series("in.u", batch, channel);
                let before = state(case, "in.state", batch, channel, discrete.state_len());
                let mut after = before.clone();
                let y = discrete.respond(&mut after, input).expect("outputs");
                let row = |name| case.series(name, batch * outputs + output, channel);
                assert_close(&y, row("out.y"), STORED_IN_F32, &case.name);
                if case.if_any("out.next_state").is_some() {
                    let expected = case.modes("out.next_state", batch, channel);
                    assert_close(&parts(&after), &parts(&expected), STORED_IN_F32, &case.name);
                }
                if case.if_any("out.K_state").is_some() {
                    let found = discrete.state_kernel(&before, input.len()).expect("a response");
                    assert_close(&found, row("out.K_state"), STORED_IN_F32, &case.name);
                    let found = discrete.kernel(input.len()).expect("a kernel");
                    let expected = case.series("out.K", output, channel);
                    assert_close(&found, expected, STORED_IN_F32, &case.name);
                    let y = discrete.convolve(&before, input).expect("outputs");
                    assert_close(&y, row("out.y"), STORED_IN_F32, &case.name);
                }
            }
        }
    }
}

#[test]
fn chunks_with_states() {
    cases("s4_state_kernel").iter().for_each(check);
}

#[test]
fn single_steps() {
    cases("s4_step").iter().for_each(check);
}
