//! Cotangents and gradients of a recurrence that do not fit are named, and those that may be left out are.

use spillway_kernel_dsl::recurrence::{
    Cotangents, GradientBuffers, Inputs, Problem, RecurrenceError, backward,
};
use spillway_kernel_dsl::shape::{Extent, Role};
use spillway_kernel_dsl::{LogDecay, Rows};

use super::misfit::{ZEROS, rows};
use super::recurrence_errors::{PROBLEM, SHAPE, inputs};

/// What a backward pass says when `spoil` has changed its cotangents or gradients.
fn backward_error(spoil: impl FnOnce(&mut Cotangents<'static>, &mut GradientBuffers)) -> RecurrenceError {
    let mut cotangents = Cotangents {
        out: rows(2, 4),
        state: None,
    };
    let mut gradients = GradientBuffers::zeros(&PROBLEM, &inputs()).expect("valid");
    spoil(&mut cotangents, &mut gradients);
    let before = gradients.clone();
    let error = backward(
        &PROBLEM,
        &inputs(),
        4,
        &[0.0; 12],
        &cotangents,
        &mut gradients.as_written(),
    )
    .expect_err("the backward pass takes it");
    assert_eq!(gradients, before, "an error leaves gradients as they were");
    error
}

#[test]
fn cotangents_and_gradients_have_the_shapes_of_what_they_belong_to() {
    let extent = |cols| Extent::Rows { rows: 2, cols };
    let columns = SHAPE.misfit(Role::Cotangent, "out", extent(4), extent(3));
    assert_eq!(
        backward_error(|cotangents, _| cotangents.out = rows(2, 3)),
        columns
    );
    let state = SHAPE.misfit(Role::Cotangent, "state", Extent::Values(12), Extent::Values(11));
    assert_eq!(
        backward_error(|cotangents, _| cotangents.state = Some(&ZEROS[..11])),
        state
    );
    assert_eq!(
        backward_error(|_, gradients| gradients.query.truncate(5)),
        SHAPE.gradient_length("query", 6, 5)
    );
    assert_eq!(
        backward_error(|_, gradients| gradients.value.truncate(7)),
        SHAPE.gradient_length("value", 8, 7)
    );
    assert_eq!(
        backward_error(|_, gradients| gradients.log_decay = LogDecay::Token(vec![0.0; 3])),
        SHAPE.gradient_length("log_decay", 4, 3)
    );
    assert_eq!(
        backward_error(|_, gradients| gradients.state.clear()),
        SHAPE.gradient_length("state", 12, 0)
    );
    let unused = SHAPE.misfit(Role::Gradient, "skip", Extent::None, Extent::Values(2));
    assert_eq!(
        backward_error(|_, gradients| gradients.skip = Some(vec![0.0; 2])),
        unused
    );
}

/// A gradient that nobody asks for is left out.
#[test]
fn optional_gradients_may_be_left_out() {
    let cotangents = Cotangents {
        out: rows(2, 4),
        state: Some(&ZEROS[..12]),
    };
    let mut gradients: GradientBuffers = GradientBuffers::zeros(&PROBLEM, &inputs()).expect("valid");
    gradients.log_decay = LogDecay::None;
    backward(
        &PROBLEM,
        &inputs(),
        4,
        &[1.0; 12],
        &cotangents,
        &mut gradients.as_written(),
    )
    .expect("valid");
    let empty = backward(
        &PROBLEM,
        &inputs(),
        0,
        &[1.0; 12],
        &cotangents,
        &mut gradients.as_written(),
    );
    assert_eq!(empty, Err(RecurrenceError::EmptyChunk));
}

/// Without keys or values only the skip has gradients.
#[test]
fn gradients_of_heads_without_keys_or_values_are_those_of_the_skip() {
    for (key_dim, value_dim) in [(0, 2), (3, 0), (0, 0)] {
        let problem = Problem {
            key_dim,
            value_dim,
            ..PROBLEM
        };
        let ones = [1.0; 8];
        let value = Rows::contiguous(&ones, 2, 2 * value_dim).expect("short enough");
        let inputs = Inputs {
            query: rows(2, key_dim),
            key: rows(2, key_dim),
            value,
            skip: Some(&[3.0, 4.0]),
            ..inputs()
        };
        let cotangents = Cotangents {
            out: value,
            state: None,
        };
        let mut gradients: GradientBuffers = GradientBuffers::zeros(&problem, &inputs).expect("valid");
        gradients.query.fill(f32::NAN);
        backward(
            &problem,
            &inputs,
            4,
            &[],
            &cotangents,
            &mut gradients.as_written(),
        )
        .expect("valid");
        let expected: Vec<f32> = [3.0, 4.0, 3.0, 4.0]
            .iter()
            .flat_map(|d| vec![*d; value_dim])
            .collect();
        assert_eq!(gradients.value, expected);
        assert_eq!(gradients.skip, Some(vec![2.0 * value_dim as f32; 2]));
        assert!(gradients.query.iter().all(|x| *x == 0.0));
        assert_eq!(gradients.log_decay, LogDecay::Token(vec![0.0; 4]));
    }
}
