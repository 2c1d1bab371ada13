//! Declarations with one of everything, held in every way.

#![allow(dead_code, reason = "a declaration makes more than one test needs")]

use super::{Declared, List, Named};
use crate::shape::{Role, ShapeError};
use crate::{LogDecay, Rows, Sequences};

/// An operator with options, a log decay, settings and a state.
mod decaying {
    use crate::Sequences;
    use crate::operands::operator;

    pub struct Problem {
        pub batch: usize,
        pub channels: usize,
    }

    operator! {
        "decaying", Problem as problem, rows;
        /// What the decaying operator reads.
        inputs<R, V> {
            /// Inputs x, `[rows, channels]`.
            input: Rows[rows, problem.channels],
            /// Log decays ln a, one per token.
            log_decay: LogDecay[rows, 1],
            /// Bias, `[channels]`, where there is one.
            bias: Option<Values>[problem.channels],
            /// Gates, `[rows, 2]`, where there are any.
            gate: Option<Gates>[rows, 2],
        }
        settings<'a> {
            /// Which rows belong to which sequence.
            sequences: Sequences<'a>,
            /// A scalar factor.
            scale: f32,
        }
        /// What the decaying operator gives.
        output<R> {
            /// Outputs y, `[rows, channels]`.
            out: Rows[rows, problem.channels],
        }
        /// State that the decaying operator carries, `[batch, channels]`.
        state[problem.batch * problem.channels]
    }
}

/// An operator without state, all of whose operands have rows.
mod doubling {
    use crate::operands::operator;

    pub struct Problem {
        pub rows: usize,
    }

    operator! {
        "doubling", Problem as problem;
        /// What the doubling operator reads.
        inputs<R> {
            /// Inputs x, `[rows, 3]`.
            input: Rows[problem.rows, 3],
        }
        /// What the doubling operator gives.
        outputs<R> {
            /// Twice the input, 2 x, `[rows, 3]`.
            twice: Rows[problem.rows, 3],
            /// The negated input, −x, `[rows, 3]`.
            negative: Rows[problem.rows, 3],
        }
    }
}

/// An operator of one output, without rows, over sequences.
mod summing {
    use crate::operands::operator;

    pub struct Problem {
        pub channels: usize,
    }

    operator! {
        "summing", Problem as problem, rows;
        /// What the summing operator reads.
        inputs<R> {
            /// Inputs x, `[rows, channels]`.
            input: Rows[rows, problem.channels],
        }
        /// What the summing operator gives.
        output<V> {
            /// Sums Σ x over the rows, `[channels]`.
            sums: Values[problem.channels],
        }
    }
}

const VALUES: [f32; 12] = [0.0; 12];

fn rows(rows: usize, cols: usize) -> Rows<'static> {
    Rows::contiguous(&VALUES, rows, cols).expect("there are as many")
}

fn problem() -> decaying::Problem {
    decaying::Problem {
        batch: 2,
        channels: 3,
    }
}

/// Inputs of the decaying operator for four rows, without optional ones.
fn inputs() -> decaying::Inputs<'static> {
    decaying::Inputs {
        input: rows(4, 3),
        log_decay: LogDecay::None,
        bias: None,
        gate: None,
        sequences: Sequences::Equal,
        scale: 0.5,
    }
}

fn refusal(inputs: &decaying::Inputs) -> String {
    problem()
        .expect_inputs(inputs, 4)
        .expect_err("a shape is wrong")
        .to_string()
}

#[test]
fn what_is_left_out_fits() {
    assert_eq!(problem().expect_inputs(&inputs(), 4), Ok(()));
}

#[test]
fn every_operand_is_compared_by_name() {
    let fits = decaying::Inputs {
        log_decay: LogDecay::Token(rows(4, 1)),
        bias: Some(&VALUES[..3]),
        gate: Some(rows(4, 2)),
        ..inputs()
    };
    assert_eq!(problem().expect_inputs(&fits, 4), Ok(()));
    let wrong = |input| decaying::Inputs { input, ..fits };
    assert_eq!(
        refusal(&wrong(rows(4, 2))),
        "decaying: input needs 4 rows of 3 values, found 4 rows of 2 values"
    );
    let bias = Some(&VALUES[..4]);
    assert_eq!(
        refusal(&decaying::Inputs { bias, ..fits }),
        "decaying: bias needs 3 values, found 4 values"
    );
    let gate = Some(rows(3, 2));
    assert_eq!(
        refusal(&decaying::Inputs { gate, ..fits }),
        "decaying: gate needs 4 rows of 2 values, found 3 rows of 2 values"
    );
}

#[test]
fn a_constant_decay_is_as_long_as_a_row_of_one_per_token() {
    let with = |log_decay| decaying::Inputs {
        log_decay,
        ..inputs()
    };
    assert_eq!(
        problem().expect_inputs(&with(LogDecay::Constant(&VALUES[..1])), 4),
        Ok(())
    );
    assert_eq!(
        refusal(&with(LogDecay::Constant(&VALUES[..2]))),
        "decaying: log_decay needs 1 values, found 2 values"
    );
    assert_eq!(
        refusal(&with(LogDecay::Token(rows(4, 2)))),
        "decaying: log_decay needs 4 rows of 1 values, found 4 rows of 2 values"
    );
}

#[test]
fn no_rows_may_have_any_columns() {
    let empty = decaying::Inputs {
        input: rows(0, 7),
        ..inputs()
    };
    assert_eq!(problem().expect_inputs(&empty, 0), Ok(()));
    assert!(problem().expect_inputs(&empty, 1).is_err());
}

#[test]
fn zeros_have_the_shapes_of_what_is_given() {
    let given = decaying::Inputs {
        log_decay: LogDecay::Constant(&VALUES[..1]),
        gate: Some(rows(4, 2)),
        ..inputs()
    };
    let zeros: decaying::GradientBuffers = given.extents(&problem(), 4).with_state(6).zeros();
    assert_eq!(zeros.input, [0.0; 12]);
    assert_eq!(zeros.log_decay, LogDecay::Constant(vec![0.0]));
    assert_eq!(zeros.bias, None);
    assert_eq!(zeros.gate, Some(vec![0.0; 8]));
    assert_eq!(zeros.state, [0.0; 6]);
}

/// What a backward pass says to gradients that `change` has changed.
fn backward(
    inputs: &decaying::Inputs,
    state_len: usize,
    cotangents: &decaying::Cotangents,
    change: impl FnOnce(&mut decaying::GradientBuffers),
) -> Result<(), ShapeError> {
    let mut buffers = inputs.extents(&problem(), 4).with_state(6).zeros();
    change(&mut buffers);
    problem().expect_backward(inputs, state_len, cotangents, &buffers.as_written(), 4)
}

#[test]
fn a_backward_pass_knows_the_state() {
    let cotangents = decaying::Cotangents {
        out: rows(4, 3),
        state: None,
    };
    let seen = decaying::Cotangents {
        state: Some(&VALUES[..6]),
        ..cotangents
    };
    assert_eq!(backward(&inputs(), 6, &cotangents, |_| {}), Ok(()));
    assert_eq!(backward(&inputs(), 6, &seen, |_| {}), Ok(()));
    let text = |result: Result<(), ShapeError>| result.expect_err("a shape is wrong").to_string();
    assert_eq!(
        text(backward(&inputs(), 5, &cotangents, |_| {})),
        "decaying: state needs 6 values, found 5 values"
    );
    let longer = decaying::Cotangents {
        state: Some(&VALUES[..7]),
        ..cotangents
    };
    assert_eq!(
        text(backward(&inputs(), 6, &longer, |_| {})),
        "decaying: the cotangent of state needs 6 values, found 7 values"
    );
    assert_eq!(
        text(backward(&inputs(), 6, &cotangents, |found| found.state.clear())),
        "decaying: the gradient of state needs 6 values, found 0 values"
    );
}

#[test]
fn a_gradient_may_be_left_out_but_not_made_up() {
    let cotangents = decaying::Cotangents {
        out: rows(4, 3),
        state: None,
    };
    let given = decaying::Inputs {
        bias: Some(&VALUES[..3]),
        ..inputs()
    };
    assert_eq!(
        backward(&given, 6, &cotangents, |found| found.bias = None),
        Ok(())
    );
    let made_up = backward(&inputs(), 6, &cotangents, |found| found.bias = Some(vec![0.0; 3]));
    assert_eq!(
        made_up.expect_err("there is no bias").to_string(),
        "decaying: the gradient of bias needs none, found 3 values"
    );
}

#[test]
fn map_names_every_operand_once_and_keeps_the_settings() {
    let given = decaying::Inputs {
        log_decay: LogDecay::Token(rows(4, 1)),
        bias: Some(&VALUES[..3]),
        ..inputs()
    };
    let names = given.map(|operand, _| operand.name, |operand, _| operand.name);
    assert_eq!(names.input, "input");
    assert_eq!(names.log_decay, LogDecay::Token("log_decay"));
    assert_eq!(names.bias, Some("bias"));
    assert_eq!(names.gate, None);
    assert_eq!((names.scale, names.sequences), (0.5, Sequences::Equal));
}

#[test]
fn the_first_error_of_a_map_is_the_result() {
    let result = inputs().try_map(|operand, _| Err::<(), _>(operand.name), |_, _| Ok(()));
    assert_eq!(result.map(|_| ()), Err("input"));
}

#[test]
fn operands_meet_a_state_and_part_from_it() {
    let lengths = inputs().map(|_, rows| rows.rows(), |_, values| values.len());
    let (back, state) = lengths.with_state(6).without_state(Sequences::Equal, 0.5);
    assert_eq!((back, state), (lengths, 6));
}

type Places = decaying::OperandsAndState<u8, u8>;

#[test]
fn a_list_and_names_are_one_order() {
    assert_eq!(
        Places::names(),
        ["input", "log_decay", "log_decay", "bias", "gate", "state"]
    );
    let lists: [List<u8>; 3] = [
        vec![Some(1), None, None, None, Some(5), Some(6)],
        vec![Some(1), Some(2), None, Some(4), None, Some(6)],
        vec![Some(1), None, Some(3), None, None, Some(6)],
    ];
    for list in lists {
        let named = Places::from_list(list.clone()).expect("nothing needed is missing");
        assert_eq!(named.into_list(), list);
    }
    let decays = |list| Places::from_list(list).map(|named| named.log_decay);
    assert_eq!(
        decays(vec![Some(1), Some(2), None, None, None, Some(6)]),
        Some(LogDecay::Constant(2))
    );
    assert_eq!(
        decays(vec![Some(1), None, Some(3), None, None, Some(6)]),
        Some(LogDecay::Token(3))
    );
    assert_eq!(decays(vec![Some(1), None, None, None, None]), None);
}

#[test]
fn several_outputs_may_be_unseen() {
    let problem = doubling::Problem { rows: 2 };
    let cotangents = doubling::Cotangents {
        twice: None,
        negative: Some(rows(2, 3)),
    };
    let inputs = doubling::Inputs { input: rows(2, 3) };
    let mut gradients: doubling::GradientBuffers = inputs.extents(&problem).zeros();
    let check = |cotangents, gradients: &mut doubling::GradientBuffers| {
        problem.expect_backward(&inputs, cotangents, &gradients.as_written())
    };
    assert_eq!(check(&cotangents, &mut gradients), Ok(()));
    let wrong = doubling::Cotangents {
        twice: Some(rows(2, 4)),
        ..cotangents
    };
    let error = check(&wrong, &mut gradients).expect_err("a column too many");
    assert_eq!((error.operand, error.role), ("twice", Role::Cotangent));
    type Named = <doubling::Results<()> as Declared>::As<u8>;
    assert_eq!(Named::names(), ["twice", "negative"]);
}

#[test]
fn one_output_always_has_a_cotangent() {
    let problem = summing::Problem { channels: 3 };
    let inputs = summing::Inputs { input: rows(4, 3) };
    assert_eq!(problem.expect_inputs(&inputs, 4), Ok(()));
    assert!(problem.expect_inputs(&inputs, 3).is_err());
    let mut gradients: summing::GradientBuffers = inputs.extents(&problem, 4).zeros();
    let cotangents = summing::Cotangents { sums: &VALUES[..2] };
    let error = problem.expect_backward(&inputs, &cotangents, &gradients.as_written(), 4);
    assert_eq!(
        error.expect_err("a sum is missing").to_string(),
        "summing: the cotangent of sums needs 3 values, found 2 values"
    );
}
