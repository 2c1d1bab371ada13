//! Every way to call a delta rule wrongly is an error that says what was expected and what came.

use spillway_kernel_dsl::decay::DecayFormError;
use spillway_kernel_dsl::delta_rule::{
    Cotangents, DeltaRuleError, Element, ElementMut, Gradients, Inputs, Problem, Transition,
    TransitionGradients, TransitionKind, apply, backward, chunked, compose, element, reference, sequential,
    step,
};
use spillway_kernel_dsl::shape::{Extent, Role};
use spillway_kernel_dsl::{DecayKind, LogDecay};
use spillway_kernel_dsl::{Rows, Sequences};

use super::misfit::{Misfit, ZEROS, rows};

/// Two tokens, two heads in one group, 3×2 states.
const PROBLEM: Problem = Problem {
    batch: 1,
    time: 2,
    heads: 2,
    groups: 1,
    key_dim: 3,
    value_dim: 2,
    transition: TransitionKind::Delta,
    decay: DecayKind::PerHeadToken,
};

const LOW_RANK: Problem = Problem {
    transition: TransitionKind::LowRank,
    ..PROBLEM
};

fn inputs() -> Inputs<'static> {
    Inputs {
        query: rows(2, 3),
        key: rows(2, 3),
        value: rows(2, 4),
        transition: Transition::Delta { beta: rows(2, 2) },
        log_decay: LogDecay::Token(rows(2, 2)),
        scale: 1.0,
        sequences: Sequences::Equal,
    }
}

fn low_rank() -> Inputs<'static> {
    Inputs {
        transition: Transition::LowRank {
            p: rows(2, 3),
            b: rows(2, 3),
        },
        ..inputs()
    }
}

/// Errors of shape.
const SHAPE: Misfit<DeltaRuleError> = Misfit::of("delta rule");

/// Gradients of the right shapes, apart from what `change` does.
fn by_backward(
    problem: Problem,
    inputs: Inputs,
    change: impl FnOnce(&mut Sizes),
) -> Result<(), DeltaRuleError> {
    let mut sizes = Sizes::default();
    change(&mut sizes);
    let buffer = |len: usize| vec![3.0_f32; len];
    let (mut query, mut key, mut value) = (buffer(sizes.query), buffer(sizes.key), buffer(sizes.value));
    let (mut beta, mut p, mut b) = (buffer(sizes.beta), buffer(sizes.p), buffer(sizes.b));
    let (mut log_decay, mut state) = (buffer(sizes.log_decay), buffer(sizes.state));
    let mut gradients = Gradients {
        query: &mut query,
        key: &mut key,
        value: &mut value,
        transition: match sizes.transition {
            TransitionKind::Delta => TransitionGradients::Delta { beta: &mut beta },
            TransitionKind::LowRank => TransitionGradients::LowRank { p: &mut p, b: &mut b },
        },
        log_decay: sizes.wants_log_decay.then_some(&mut log_decay[..]).into(),
        state: &mut state,
    };
    let cotangents = Cotangents {
        out: sizes.out,
        state: sizes.state_cotangent.map(|len| &ZEROS[..len]),
    };
    let initial = vec![0.0; sizes.initial];
    let result = backward(
        &problem,
        &inputs,
        sizes.chunk_size,
        &initial,
        &cotangents,
        &mut gradients,
    );
    if result.is_err() {
        assert!(
            query.iter().chain(&key).chain(&state).all(|x| *x == 3.0),
            "an error leaves gradients as they were"
        );
    }
    result
}

/// Lengths of all that a backward pass takes.
struct Sizes {
    chunk_size: usize,
    initial: usize,
    out: Rows<'static>,
    state_cotangent: Option<usize>,
    transition: TransitionKind,
    wants_log_decay: bool,
    query: usize,
    key: usize,
    value: usize,
    beta: usize,
    p: usize,
    b: usize,
    log_decay: usize,
    state: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            chunk_size: 4,
            initial: 12,
            out: rows(2, 4),
            state_cotangent: Some(12),
            transition: TransitionKind::Delta,
            wants_log_decay: true,
            query: 6,
            key: 6,
            value: 8,
            beta: 4,
            p: 6,
            b: 6,
            log_decay: 4,
            state: 12,
        }
    }
}

/// What every form says about the problem and the inputs.
fn error_of(problem: Problem, inputs: Inputs) -> DeltaRuleError {
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    let by_sequential = sequential(&problem, &inputs, &mut state, &mut out).expect_err("sequential takes it");
    let by_step = step(&problem, &inputs, &mut state, &mut out).expect_err("step takes it");
    let by_chunks = chunked(&problem, &inputs, 4, &mut state, &mut out).expect_err("chunked takes it");
    let by_element = element(&problem, &inputs, 4, &mut [0.0; 18], &mut state).expect_err("element takes it");
    let by_gradients = by_backward(problem, inputs, |sizes| sizes.transition = problem.transition);
    let by_reference = reference::delta_rule(&problem, &inputs, &mut [0.0; 12], &mut [0.0; 8]);
    assert!(
        [by_step, by_chunks, by_element]
            .iter()
            .all(|error| *error == by_sequential)
    );
    assert_eq!(by_gradients, Err(by_sequential));
    assert_eq!(by_reference, Err(by_sequential));
    assert!(
        state == [1.0; 12] && out == [2.0; 8],
        "an error leaves state and output as they were"
    );
    by_sequential
}

#[test]
fn right_shapes_are_taken() {
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    assert_eq!(sequential(&PROBLEM, &inputs(), &mut state, &mut out), Ok(()));
    assert_eq!((state, out), ([1.0; 12], [0.0; 8]));
    assert_eq!(chunked(&PROBLEM, &inputs(), 4, &mut state, &mut out), Ok(()));
    assert_eq!(chunked(&LOW_RANK, &low_rank(), 4, &mut state, &mut out), Ok(()));
    assert_eq!(by_backward(PROBLEM, inputs(), |_| ()), Ok(()));
    let low_rank = by_backward(LOW_RANK, low_rank(), |sizes| {
        sizes.transition = TransitionKind::LowRank
    });
    assert_eq!(low_rank, Ok(()));
}

#[test]
fn heads_must_divide_into_groups() {
    for groups in [0, 3] {
        let error = error_of(Problem { groups, ..PROBLEM }, inputs());
        assert_eq!(error, DeltaRuleError::Groups { heads: 2, groups });
    }
}

#[test]
fn sizes_must_fit_the_machine() {
    let problem = Problem {
        batch: usize::MAX / 2,
        ..PROBLEM
    };
    assert_eq!(error_of(problem, inputs()), DeltaRuleError::TooLarge(problem));
}

#[test]
fn sequences_must_lie_in_the_rows() {
    let inputs = Inputs {
        sequences: Sequences::Packed(&[0, 3]),
        ..inputs()
    };
    let error = error_of(PROBLEM, inputs);
    assert!(matches!(error, DeltaRuleError::Sequences(_)));
    assert_eq!(error.to_string(), "offset 1 needs to be 2, found 3");
}

#[test]
fn views_need_a_row_per_token() {
    let cases = [
        (
            "query",
            3,
            Inputs {
                query: rows(3, 3),
                ..inputs()
            },
        ),
        (
            "key",
            3,
            Inputs {
                key: rows(3, 3),
                ..inputs()
            },
        ),
        (
            "value",
            4,
            Inputs {
                value: rows(3, 4),
                ..inputs()
            },
        ),
        (
            "beta",
            2,
            Inputs {
                transition: Transition::Delta { beta: rows(3, 2) },
                ..inputs()
            },
        ),
        (
            "log_decay",
            2,
            Inputs {
                log_decay: LogDecay::Token(rows(3, 2)),
                ..inputs()
            },
        ),
    ];
    for (operand, columns, inputs) in cases {
        let expected = SHAPE.view(operand, (2, columns), (3, columns));
        assert_eq!(error_of(PROBLEM, inputs), expected);
        let message = format!(
            "delta rule: {operand} needs 2 rows of {columns} values, found 3 rows of {columns} values"
        );
        assert_eq!(expected.to_string(), message);
    }
}

#[test]
fn views_need_the_columns_of_their_heads() {
    let column = |operand, expected| SHAPE.view(operand, (2, expected), (2, 5));
    let delta = [
        (
            column("query", 3),
            Inputs {
                query: rows(2, 5),
                ..inputs()
            },
        ),
        (
            column("key", 3),
            Inputs {
                key: rows(2, 5),
                ..inputs()
            },
        ),
        (
            column("value", 4),
            Inputs {
                value: rows(2, 5),
                ..inputs()
            },
        ),
        (
            column("beta", 2),
            Inputs {
                transition: Transition::Delta { beta: rows(2, 5) },
                ..inputs()
            },
        ),
        (
            column("log_decay", 2),
            Inputs {
                log_decay: LogDecay::Token(rows(2, 5)),
                ..inputs()
            },
        ),
    ];
    for (expected, inputs) in delta {
        assert_eq!(error_of(PROBLEM, inputs), expected);
    }
    let (right, wrong) = (rows(2, 3), rows(2, 5));
    for (operand, p, b) in [("p", wrong, right), ("b", right, wrong)] {
        let inputs = Inputs {
            transition: Transition::LowRank { p, b },
            ..inputs()
        };
        assert_eq!(error_of(LOW_RANK, inputs), column(operand, 3));
    }
    let per_key = Problem {
        decay: DecayKind::PerKeyToken,
        ..PROBLEM
    };
    assert_eq!(
        error_of(per_key, inputs()),
        SHAPE.view("log_decay", (2, 6), (2, 2))
    );
}

#[test]
fn inputs_and_gradients_must_be_those_of_the_transition() {
    let form = |expected, found| DeltaRuleError::TransitionForm { expected, found };
    let (delta, low) = (TransitionKind::Delta, TransitionKind::LowRank);
    assert_eq!(error_of(LOW_RANK, inputs()), form(low, delta));
    assert_eq!(error_of(PROBLEM, low_rank()), form(delta, low));
    assert_eq!(
        form(delta, low).to_string(),
        "the problem says TransitionKind::Delta, found what TransitionKind::LowRank takes"
    );
    let gradients = by_backward(PROBLEM, inputs(), |sizes| sizes.transition = low);
    assert_eq!(gradients, Err(form(delta, low)));
}

#[test]
fn log_decays_must_come_where_the_kind_has_them_and_nowhere_else() {
    let without = Inputs {
        log_decay: LogDecay::None,
        ..inputs()
    };
    let of_form = |decay, expected, found| {
        DeltaRuleError::DecayForm(DecayFormError {
            operator: "delta rule",
            decay,
            expected,
            found,
        })
    };
    let missing = of_form(DecayKind::PerHeadToken, "Token", "None");
    assert_eq!(error_of(PROBLEM, without), missing);
    assert_eq!(
        missing.to_string(),
        "delta rule: decay kind PerHeadToken needs log decays as LogDecay::Token, found LogDecay::None"
    );
    let undecayed = Problem {
        decay: DecayKind::None,
        ..PROBLEM
    };
    assert_eq!(
        error_of(undecayed, inputs()),
        of_form(DecayKind::None, "None", "Token")
    );
    for decay in [DecayKind::PerHead, DecayKind::PerKey] {
        let constant = Problem { decay, ..PROBLEM };
        assert_eq!(error_of(constant, inputs()), DeltaRuleError::ConstantDecay(decay));
    }
    assert_eq!(
        by_backward(undecayed, without, |_| ()),
        Err(SHAPE.misfit(Role::Gradient, "log_decay", Extent::None, Extent::Values(4)))
    );
    assert_eq!(
        by_backward(undecayed, without, |sizes| sizes.wants_log_decay = false),
        Ok(())
    );
    assert_eq!(
        by_backward(PROBLEM, inputs(), |sizes| sizes.wants_log_decay = false),
        Ok(())
    );
}

#[test]
fn state_and_output_need_their_lengths() {
    let (mut state, mut out) = ([1.0; 13], [2.0; 9]);
    let wrong_state = SHAPE.length("state", 12, 13);
    assert_eq!(
        sequential(&PROBLEM, &inputs(), &mut state, &mut out[..8]),
        Err(wrong_state)
    );
    assert_eq!(
        chunked(&PROBLEM, &inputs(), 4, &mut state, &mut out[..8]),
        Err(wrong_state)
    );
    let wrong_out = SHAPE.length("out", 8, 9);
    assert_eq!(
        sequential(&PROBLEM, &inputs(), &mut state[..12], &mut out),
        Err(wrong_out)
    );
    assert_eq!(
        chunked(&PROBLEM, &inputs(), 4, &mut state[..12], &mut out),
        Err(wrong_out)
    );
    assert_eq!(
        wrong_out.to_string(),
        "delta rule: out needs 8 values, found 9 values"
    );
    assert_eq!((state, out), ([1.0; 13], [2.0; 9]));
}

#[test]
fn cotangents_and_gradients_need_their_shapes() {
    type Change = fn(&mut Sizes);
    let cotangent_length = SHAPE.misfit(Role::Cotangent, "state", Extent::Values(12), Extent::Values(1));
    let cases: [(DeltaRuleError, Change); 8] = [
        (SHAPE.length("state", 12, 1), |sizes| sizes.initial = 1),
        (cotangent_length, |sizes| sizes.state_cotangent = Some(1)),
        (SHAPE.gradient_length("query", 6, 1), |sizes| sizes.query = 1),
        (SHAPE.gradient_length("key", 6, 1), |sizes| sizes.key = 1),
        (SHAPE.gradient_length("value", 8, 1), |sizes| sizes.value = 1),
        (SHAPE.gradient_length("beta", 4, 1), |sizes| sizes.beta = 1),
        (SHAPE.gradient_length("log_decay", 4, 1), |sizes| {
            sizes.log_decay = 1
        }),
        (SHAPE.gradient_length("state", 12, 1), |sizes| sizes.state = 1),
    ];
    for (expected, change) in cases {
        assert_eq!(by_backward(PROBLEM, inputs(), change), Err(expected));
    }
    let low_rank_cases: [(DeltaRuleError, Change); 2] = [
        (SHAPE.gradient_length("p", 6, 1), |sizes| sizes.p = 1),
        (SHAPE.gradient_length("b", 6, 1), |sizes| sizes.b = 1),
    ];
    for (expected, change) in low_rank_cases {
        let result = by_backward(LOW_RANK, low_rank(), |sizes| {
            sizes.transition = TransitionKind::LowRank;
            change(sizes);
        });
        assert_eq!(result, Err(expected));
    }
    let out = |rows, cols| {
        let expected = Extent::Rows { rows: 2, cols: 4 };
        Err(SHAPE.misfit(Role::Cotangent, "out", expected, Extent::Rows { rows, cols }))
    };
    assert_eq!(
        by_backward(PROBLEM, inputs(), |sizes| sizes.out = rows(3, 4)),
        out(3, 4)
    );
    assert_eq!(
        by_backward(PROBLEM, inputs(), |sizes| sizes.out = rows(2, 3)),
        out(2, 3)
    );
    assert_eq!(
        by_backward(PROBLEM, inputs(), |sizes| sizes.state_cotangent = None),
        Ok(())
    );
}

#[test]
fn a_step_takes_one_token_of_every_sequence() {
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    let error = step(&PROBLEM, &inputs(), &mut state, &mut out).expect_err("two tokens are no step");
    assert_eq!(
        error,
        DeltaRuleError::NotOneToken {
            sequence: 0,
            found: 2
        }
    );
    assert_eq!(error.to_string(), "a step takes 1 token of sequence 0, found 2");
    assert_eq!((state, out), ([1.0; 12], [2.0; 8]));
}

#[test]
fn a_chunk_holds_at_least_one_token() {
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    let empty = Err(DeltaRuleError::EmptyChunk);
    assert_eq!(chunked(&PROBLEM, &inputs(), 0, &mut state, &mut out), empty);
    assert_eq!(element(&PROBLEM, &inputs(), 0, &mut [0.0; 18], &mut state), empty);
    assert_eq!(
        by_backward(PROBLEM, inputs(), |sizes| sizes.chunk_size = 0),
        empty
    );
    assert_eq!((state, out), ([1.0; 12], [2.0; 8]));
}

#[test]
fn elements_need_their_lengths() {
    let (matrix, update) = (&ZEROS[..18], &ZEROS[..12]);
    let right = Element { matrix, update };
    let wrong_matrix = Element {
        matrix: update,
        update,
    };
    let wrong_update = Element {
        matrix,
        update: matrix,
    };
    let (mut m, mut u) = ([0.0; 18], [0.0; 12]);
    for (wrong, expected) in [
        (wrong_matrix, SHAPE.length("matrix", 18, 12)),
        (wrong_update, SHAPE.length("update", 12, 18)),
    ] {
        let second = ElementMut {
            matrix: &mut m,
            update: &mut u,
        };
        assert_eq!(compose(&PROBLEM, wrong, second), Err(expected));
        assert_eq!(apply(&PROBLEM, wrong, &mut [0.0; 12]), Err(expected));
    }
    assert_eq!(
        apply(&PROBLEM, right, &mut [0.0; 11]),
        Err(SHAPE.length("state", 12, 11))
    );
    let short = element(&PROBLEM, &inputs(), 4, &mut m[..9], &mut u);
    assert_eq!(short, Err(SHAPE.length("matrix", 18, 9)));
}
