//! Every way to call a recurrence wrongly is an error that says what was expected and what came.

use spillway_kernel_dsl::decay::DecayFormError;
use spillway_kernel_dsl::recurrence::normalized::{self, NormalizedState};
use spillway_kernel_dsl::recurrence::{
    DecayIndex, Element, ElementMut, Inputs, Problem, ReadOut, RecurrenceError, apply, chunked, compose,
    element, sequential, sequential_bounded, step,
};
use spillway_kernel_dsl::sequences::SequencesError;
use spillway_kernel_dsl::{DecayKind, LogDecay};
use spillway_kernel_dsl::{Rows, Sequences};

use super::misfit::{Misfit, ZEROS, rows};

/// Two tokens, two heads in one group, 3×2 states.
pub(super) const PROBLEM: Problem = Problem {
    batch: 1,
    time: 2,
    heads: 2,
    groups: 1,
    key_dim: 3,
    value_dim: 2,
    decay: DecayKind::PerHeadToken,
    read_out: ReadOut::Inclusive,
};

pub(super) fn inputs() -> Inputs<'static> {
    Inputs {
        query: rows(2, 3),
        key: rows(2, 3),
        value: rows(2, 4),
        log_decay: LogDecay::Token(rows(2, 2)),
        step_size: None,
        bonus: None,
        skip: None,
        scale: 1.0,
        sequences: Sequences::Equal,
    }
}

/// Errors of shape.
pub(super) const SHAPE: Misfit<RecurrenceError> = Misfit::of("recurrence");

/// What every form says about the problem and the inputs.
fn error_of(problem: Problem, inputs: Inputs) -> RecurrenceError {
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    let by_sequential = sequential(&problem, &inputs, &mut state, &mut out).expect_err("sequential takes it");
    let by_chunks = chunked(&problem, &inputs, 4, &mut state, &mut out).expect_err("chunked takes it");
    let by_bound =
        sequential_bounded(&problem, &inputs, &[1.0; 2], &mut state, &mut out).expect_err("bounded takes it");
    let by_element = element(&problem, &inputs, 4, &mut [0.0; 2], &mut state).expect_err("element takes it");
    assert!(by_sequential == by_chunks && by_sequential == by_bound && by_sequential == by_element);
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
}

#[test]
fn heads_must_divide_into_groups() {
    for groups in [0, 3] {
        let error = error_of(Problem { groups, ..PROBLEM }, inputs());
        assert_eq!(error, RecurrenceError::Groups { heads: 2, groups });
    }
}

#[test]
fn sizes_must_fit_the_machine() {
    let problem = Problem {
        batch: usize::MAX / 2,
        ..PROBLEM
    };
    assert_eq!(error_of(problem, inputs()), RecurrenceError::TooLarge(problem));
}

#[test]
fn views_need_a_row_per_token_and_the_right_columns() {
    let query = SHAPE.view("query", (2, 3), (1, 3));
    let short = Inputs {
        query: rows(1, 3),
        ..inputs()
    };
    assert_eq!(error_of(PROBLEM, short), query);
    assert_eq!(
        query.to_string(),
        "recurrence: query needs 2 rows of 3 values, found 1 rows of 3 values"
    );
    let key = Inputs {
        key: rows(2, 4),
        ..inputs()
    };
    assert_eq!(error_of(PROBLEM, key), SHAPE.view("key", (2, 3), (2, 4)));
    let value = Inputs {
        value: rows(2, 2),
        ..inputs()
    };
    assert_eq!(error_of(PROBLEM, value), SHAPE.view("value", (2, 4), (2, 2)));
    let log_decay = Inputs {
        log_decay: LogDecay::Token(rows(2, 6)),
        ..inputs()
    };
    assert_eq!(
        error_of(PROBLEM, log_decay),
        SHAPE.view("log_decay", (2, 2), (2, 6))
    );
    let step_size = Inputs {
        step_size: Some(rows(2, 1)),
        ..inputs()
    };
    assert_eq!(
        error_of(PROBLEM, step_size),
        SHAPE.view("step_size", (2, 2), (2, 1))
    );
}

#[test]
fn log_decays_come_in_the_form_of_their_kind() {
    let constant = Inputs {
        log_decay: LogDecay::Constant(&ZEROS[..2]),
        ..inputs()
    };
    let (decay, expected, found) = (DecayKind::PerHeadToken, "Token", "Constant");
    assert_eq!(
        error_of(PROBLEM, constant),
        RecurrenceError::DecayForm(DecayFormError {
            operator: "recurrence",
            decay,
            expected,
            found
        })
    );
    let per_head = Problem {
        decay: DecayKind::PerHead,
        ..PROBLEM
    };
    let long = Inputs {
        log_decay: LogDecay::Constant(&ZEROS[..6]),
        ..inputs()
    };
    let expected = SHAPE.length("log_decay", 2, 6);
    assert_eq!(error_of(per_head, long), expected);
}

#[test]
fn the_bonus_belongs_to_the_bonus_read_out() {
    let bonus = Problem {
        read_out: ReadOut::Bonus,
        ..PROBLEM
    };
    assert_eq!(
        error_of(bonus, inputs()),
        RecurrenceError::BonusMissing { expected: 6 }
    );
    let with_bonus = |len| Inputs {
        bonus: Some(&ZEROS[..len]),
        ..inputs()
    };
    assert_eq!(
        error_of(PROBLEM, with_bonus(6)),
        RecurrenceError::BonusUnused { found: 6 }
    );
    let expected = SHAPE.length("bonus", 6, 5);
    assert_eq!(error_of(bonus, with_bonus(5)), expected);
}

#[test]
fn the_skip_is_per_head_or_per_value() {
    let skip = Inputs {
        skip: Some(&ZEROS[..3]),
        ..inputs()
    };
    assert_eq!(
        error_of(PROBLEM, skip),
        RecurrenceError::SkipLength {
            per_head: 2,
            per_value: 4,
            found: 3
        }
    );
}

#[test]
fn state_and_output_have_their_lengths() {
    let (mut state, mut out) = ([0.0; 12], [0.0; 8]);
    let short_state = sequential(&PROBLEM, &inputs(), &mut state[..11], &mut out);
    assert_eq!(short_state, Err(SHAPE.length("state", 12, 11)));
    let short_out = chunked(&PROBLEM, &inputs(), 4, &mut state, &mut out[..7]);
    assert_eq!(short_out, Err(SHAPE.length("out", 8, 7)));
}

#[test]
fn a_step_takes_one_token() {
    let result = step(&PROBLEM, &inputs(), &mut [0.0; 12], &mut [0.0; 8]);
    assert_eq!(result, Err(RecurrenceError::NotOneToken { found: 2 }));
}

#[test]
fn a_chunk_holds_tokens() {
    let by_chunks = chunked(&PROBLEM, &inputs(), 0, &mut [0.0; 12], &mut [0.0; 8]);
    assert_eq!(by_chunks, Err(RecurrenceError::EmptyChunk));
    let by_element = element(&PROBLEM, &inputs(), 0, &mut [0.0; 2], &mut [0.0; 12]);
    assert_eq!(by_element, Err(RecurrenceError::EmptyChunk));
}

#[test]
fn bounds_are_norms() {
    let bounded =
        |bound: &[f32]| sequential_bounded(&PROBLEM, &inputs(), bound, &mut [0.0; 12], &mut [0.0; 8]);
    let expected = SHAPE.length("bound", 2, 1);
    assert_eq!(bounded(&[1.0]), Err(expected));
    assert_eq!(
        bounded(&[1.0, -2.0]),
        Err(RecurrenceError::BoundRange { head: 1, found: -2.0 })
    );
    assert!(matches!(
        bounded(&[f32::NAN, 1.0]),
        Err(RecurrenceError::BoundRange { head: 0, .. })
    ));
}

#[test]
fn elements_have_their_lengths() {
    let good = Element {
        log_decay_sum: &ZEROS[..2],
        update: &ZEROS[..12],
    };
    let short_sums = Element {
        log_decay_sum: &ZEROS[..1],
        ..good
    };
    let short_update = Element {
        update: &ZEROS[..11],
        ..good
    };
    let sums = Err(SHAPE.length("log_decay_sum", 2, 1));
    let update = Err(SHAPE.length("update", 12, 11));
    assert_eq!(apply(&PROBLEM, short_sums, &mut [0.0; 12]), sums);
    assert_eq!(apply(&PROBLEM, short_update, &mut [0.0; 12]), update);
    let mut state = [0.0; 13];
    let state_length = SHAPE.length("state", 12, 13);
    assert_eq!(apply(&PROBLEM, good, &mut state), Err(state_length));
    let second = ElementMut {
        log_decay_sum: &mut [0.0; 2],
        update: &mut [0.0; 11],
    };
    assert_eq!(compose(&PROBLEM, good, second), update);
    let composed_sums = compose(
        &PROBLEM,
        short_sums,
        ElementMut {
            log_decay_sum: &mut [0.0; 2],
            update: &mut [0.0; 12],
        },
    );
    assert_eq!(composed_sums, sums);
}

/// Without keys there is no state; only the skip is left.
#[test]
fn heads_without_keys_or_values_are_no_special_case() {
    for (key_dim, value_dim) in [(0, 2), (3, 0), (0, 0)] {
        let problem = Problem {
            key_dim,
            value_dim,
            ..PROBLEM
        };
        let ones = [1.0; 8];
        let value = Rows::contiguous(&ones, 2, 2 * value_dim).expect("short enough");
        let (query, skip) = (rows(2, key_dim), Some(&[3.0, 4.0][..]));
        let inputs = Inputs {
            query,
            key: query,
            value,
            skip,
            ..inputs()
        };
        let expected: Vec<f32> = [3.0, 4.0, 3.0, 4.0]
            .iter()
            .flat_map(|d| vec![*d; value_dim])
            .collect();
        let mut out = vec![f32::NAN; problem.out_len(Sequences::Equal)];
        sequential(&problem, &inputs, &mut [], &mut out).expect("valid");
        assert_eq!(out, expected);
        out.fill(f32::NAN);
        chunked(&problem, &inputs, 4, &mut [], &mut out).expect("valid");
        assert_eq!(out, expected);
    }
}

#[test]
fn sequences_must_fit_the_rows() {
    let sequences = |sequences| Inputs {
        sequences,
        ..inputs()
    };
    let padding = SequencesError::Padding {
        sequence: 0,
        time: 2,
        found: 3,
    };
    assert_eq!(
        error_of(PROBLEM, sequences(Sequences::LeftPadded(&[3]))),
        RecurrenceError::Sequences(padding)
    );
    assert!(matches!(
        error_of(PROBLEM, sequences(Sequences::Packed(&[0, 3]))),
        RecurrenceError::Sequences(SequencesError::Offset {
            index: 1,
            found: 3,
            ..
        })
    ));
}

/// The state passes padding unchanged, and its outputs are zeros.
#[test]
fn a_sequence_that_is_all_padding_keeps_its_state() {
    let padded = Inputs {
        sequences: Sequences::LeftPadded(&[2]),
        ..inputs()
    };
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    chunked(&PROBLEM, &padded, 4, &mut state, &mut out).expect("valid");
    assert_eq!((state, out), ([1.0; 12], [0.0; 8]));
    let (mut state, mut out) = ([1.0; 12], [2.0; 8]);
    sequential(&PROBLEM, &padded, &mut state, &mut out).expect("valid");
    assert_eq!((state, out), ([1.0; 12], [0.0; 8]));
}

#[test]
fn unequal_sequences_may_step_by_one_token_or_none() {
    let two = Problem { batch: 2, ..PROBLEM };
    let packed = |offsets| Inputs {
        sequences: Sequences::Packed(offsets),
        ..inputs()
    };
    let mut state = [1.0; 24];
    assert_eq!(step(&two, &packed(&[0, 1, 2]), &mut state, &mut [0.0; 8]), Ok(()));
    let error = step(&two, &packed(&[0, 0, 2]), &mut state, &mut [0.0; 8]);
    assert_eq!(error, Err(RecurrenceError::NotOneToken { found: 2 }));
    let one = Problem { time: 1, ..PROBLEM };
    let single = Inputs {
        query: rows(1, 3),
        key: rows(1, 3),
        value: rows(1, 4),
        log_decay: LogDecay::Token(rows(1, 2)),
        sequences: Sequences::Packed(&[0, 1]),
        ..inputs()
    };
    assert_eq!(step(&one, &single, &mut state[..12], &mut [0.0; 4]), Ok(()));
}

#[test]
fn log_decays_that_are_positive_or_nan_are_found() {
    assert_eq!(inputs().check_values(&PROBLEM), Ok(()));
    let with_decays = |values: &'static [f32]| Inputs {
        log_decay: LogDecay::Token(Rows::contiguous(values, 2, 2).expect("short enough")),
        ..inputs()
    };
    let good = with_decays(&[f32::NEG_INFINITY, -0.0, 0.0, -3.0]);
    assert_eq!(good.check_values(&PROBLEM), Ok(()));
    let at = DecayIndex {
        row: Some(1),
        head: 0,
        key: 0,
    };
    let positive = with_decays(&[0.0, 0.0, 0.5, f32::NAN]).check_values(&PROBLEM);
    let error = RecurrenceError::LogDecayRange { at, found: 0.5 };
    assert_eq!(positive, Err(error));
    assert_eq!(
        error.to_string(),
        "log_decay of row 1, head 0, key 0 needs to be at most 0, found 0.5"
    );
    let nan = with_decays(&[0.0, f32::NAN, 0.0, 0.0]).check_values(&PROBLEM);
    assert!(matches!(
        nan,
        Err(RecurrenceError::LogDecayRange { at: DecayIndex { row: Some(0), head: 1, key: 0 }, found }) if found.is_nan()
    ));
    let per_key = Problem {
        decay: DecayKind::PerKey,
        ..PROBLEM
    };
    let constant = Inputs {
        log_decay: LogDecay::Constant(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
        ..inputs()
    };
    let at = DecayIndex {
        row: None,
        head: 1,
        key: 1,
    };
    let error = RecurrenceError::LogDecayRange { at, found: 1.0 };
    assert_eq!(constant.check_values(&per_key), Err(error));
    // What lies in padding is no one's decay.
    let padded = Inputs {
        sequences: Sequences::LeftPadded(&[1]),
        ..with_decays(&[f32::NAN, 9.0, 0.0, 0.0])
    };
    assert_eq!(padded.check_values(&PROBLEM), Ok(()));
}

#[test]
fn a_key_sum_has_a_value_per_head_and_key() {
    let state = NormalizedState {
        state: &mut [0.0; 12],
        key_sum: &mut [0.0; 5],
    };
    let error = normalized::chunked(&PROBLEM, &inputs(), 1e-6, 4, state, &mut [0.0; 8]);
    let expected = SHAPE.length("key_sum", 6, 5);
    assert_eq!(error, Err(expected));
    let mut both = ([1.0; 12], [1.0; 6]);
    let state = NormalizedState {
        state: &mut both.0,
        key_sum: &mut both.1,
    };
    let error = normalized::step(&PROBLEM, &inputs(), 1e-6, state, &mut [0.0; 8]);
    assert_eq!(error, Err(RecurrenceError::NotOneToken { found: 2 }));
    assert_eq!(
        both,
        ([1.0; 12], [1.0; 6]),
        "an error leaves both states as they were"
    );
}
