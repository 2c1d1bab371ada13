//! What a linear state space refuses, and how it says so.

use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::linear_state_space::{
    Inputs, Outputs, Problem, Rule, Spectrum, StateSpaceError, System, backward, chunked, sequential,
};

use crate::linear_state_space::{Data, Spec};

fn data(rank: usize) -> Data {
    Data::new(Spec::of_model(rank, (3, 2, 4)))
}

/// What every entry says of a problem and its inputs.
fn refused(data: &Data, problem: Problem, inputs: Inputs) -> String {
    let (mut out, mut state) = (vec![f32::NAN; 12], vec![f32::NAN; 32]);
    let mut outputs = Outputs {
        out: &mut out,
        state: &mut state,
    };
    let text = |result: Result<(), StateSpaceError>| result.expect_err("it does not fit").to_string();
    let expected = text(sequential(&problem, &inputs, &mut outputs));
    assert_eq!(text(chunked(&problem, &inputs, 2, &mut outputs)), expected);
    let mut gradients = data.buffers(f32::NAN);
    let found = backward(
        &problem,
        &inputs,
        2,
        &data.cotangents(),
        &mut gradients.as_written(),
    );
    assert_eq!(text(found), expected);
    assert_eq!(text(System::new(&problem, &inputs).map(drop)), expected);
    assert!(
        out.iter().chain(&state).chain(&gradients.a).all(|x| x.is_nan()),
        "something was written"
    );
    expected
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let data = data(1);
    let (problem, inputs) = (data.problem(), data.inputs());
    assert_eq!(
        refused(
            &data,
            problem,
            Inputs {
                c: &data.c[1..],
                ..inputs
            }
        ),
        "linear state space: c needs 16 values, found 15 values"
    );
    assert_eq!(
        refused(&data, Problem { rank: 2, ..problem }, inputs),
        "linear state space: low_rank needs 32 values, found 16 values"
    );
    assert_eq!(
        refused(
            &data,
            problem,
            Inputs {
                low_rank: None,
                ..inputs
            }
        ),
        "linear state space: low_rank needs to be given where the rank is above 0 and nowhere else, found rank 1"
    );
    assert_eq!(
        refused(&data, Problem { rank: 0, ..problem }, inputs),
        "linear state space: low_rank needs to be given where the rank is above 0 and nowhere else, found rank 0"
    );
    assert_eq!(
        refused(&data, Problem { copies: 3, ..problem }, inputs),
        "linear state space: 2 channels do not divide into 3 copies of A and B"
    );
    assert_eq!(
        refused(
            &data,
            Problem {
                state_dim: usize::MAX / 4,
                ..problem
            },
            inputs
        ),
        "linear state space: the problem has more values than this machine can address"
    );
}

#[test]
fn what_a_low_rank_needs_is_said() {
    let data = data(1);
    let (problem, inputs) = (data.problem(), data.inputs());
    let expected =
        "linear state space: rank 1 needs the bilinear rule, conjugate pairs and a constant step size";
    for problem in [
        Problem {
            rule: Rule::ZeroOrderHold,
            ..problem
        },
        Problem {
            spectrum: Spectrum::Complete,
            ..problem
        },
    ] {
        assert_eq!(refused(&data, problem, inputs), expected);
    }
    let inputs = Inputs {
        step_size: None,
        token_step_size: Some(inputs.input),
        ..inputs
    };
    assert_eq!(refused(&data, problem, inputs), expected);
}

#[test]
fn step_sizes_are_asked_for_once() {
    let data = data(0);
    let (problem, inputs) = (data.problem(), data.inputs());
    assert_eq!(
        refused(
            &data,
            problem,
            Inputs {
                step_size: None,
                ..inputs
            }
        ),
        "linear state space: the rule ZeroOrderHold needs one step size per channel or one per token, found none"
    );
    assert_eq!(
        refused(
            &data,
            problem,
            Inputs {
                token_step_size: Some(inputs.input),
                ..inputs
            }
        ),
        "linear state space: the rule ZeroOrderHold needs one step size per channel or one per token, found both"
    );
    assert_eq!(
        refused(
            &data,
            Problem {
                rule: Rule::Given,
                ..problem
            },
            inputs
        ),
        "linear state space: the rule Given needs no step size, found one"
    );
}

#[test]
fn values_that_leave_no_number_are_refused() {
    let data = data(0);
    let (problem, inputs) = (data.problem(), data.inputs());
    for step in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let text = refused(
            &data,
            problem,
            Inputs {
                step_size: Some(&[0.1, step]),
                ..inputs
            },
        );
        let expected = format!(
            "linear state space: step_size of channel 1 needs to be positive and finite, found {step}"
        );
        assert_eq!(text, expected);
    }
    let with = |index: usize, value: f32| {
        let mut a = data.a.clone();
        a[index] = value;
        a
    };
    for (index, value) in [(10, 0.25), (10, f32::NAN), (11, f32::INFINITY)] {
        let a = with(index, value);
        let text = refused(&data, problem, Inputs { a: &a, ..inputs });
        let expected = format!(
            "linear state space: a of copy 1 and mode 1 needs a real part of at most 0, found {:?}",
            (a[10], a[11])
        );
        assert_eq!(text, expected);
    }
    let a = [0.6, 0.9].repeat(8);
    let given = Inputs {
        step_size: None,
        a: &a,
        ..inputs
    };
    assert_eq!(
        refused(
            &data,
            Problem {
                rule: Rule::Given,
                ..problem
            },
            given
        ),
        "linear state space: a of copy 0 and mode 0 needs a magnitude of at most 1, found (0.6, 0.9)"
    );
    let mut steps = vec![0.1; 12];
    steps[7] = -1.0;
    let view = Rows::contiguous(&steps, 6, 2).expect("whole rows");
    assert_eq!(
        refused(
            &data,
            problem,
            Inputs {
                step_size: None,
                token_step_size: Some(view),
                ..inputs
            }
        ),
        "linear state space: token_step_size of row 3 and channel 1 needs to be 0 or more and finite, found -1"
    );
}

#[test]
fn a_chunk_needs_a_token() {
    let data = data(1);
    let (mut out, mut state) = (vec![0.0; 12], vec![0.0; 32]);
    let mut outputs = Outputs {
        out: &mut out,
        state: &mut state,
    };
    let (problem, inputs) = (data.problem(), data.inputs());
    assert_eq!(
        chunked(&problem, &inputs, 0, &mut outputs),
        Err(StateSpaceError::EmptyChunk)
    );
    let mut gradients = data.buffers(f32::NAN);
    let found = backward(
        &problem,
        &inputs,
        0,
        &data.cotangents(),
        &mut gradients.as_written(),
    );
    assert_eq!(found, Err(StateSpaceError::EmptyChunk));
}

#[test]
fn a_step_takes_what_its_system_was_made_with() {
    let data = data(0);
    let system = System::new(&data.problem(), &data.inputs()).expect("valid");
    let (mut out, mut state) = ([f32::NAN; 2], [f32::NAN; 16]);
    let row = Rows::contiguous(&[0.5, 0.5], 1, 2).expect("a row");
    let text = |result: Result<(), StateSpaceError>| result.expect_err("it does not fit").to_string();
    assert_eq!(
        text(system.step(row, Some(row), &mut state, &mut out)),
        "linear state space: the rule ZeroOrderHold needs no step size per token, as the system was made without, found one"
    );
    assert_eq!(
        text(system.step(row, None, &mut state[1..], &mut out)),
        "linear state space: state needs 16 values, found 15 values"
    );
    assert!(
        out.iter().chain(&state).all(|x| x.is_nan()),
        "something was written"
    );
}
