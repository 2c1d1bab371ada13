//! The monoid of segments: what a run of tokens does to any state that comes in.
//!
//! Every token acts on the state by a matrix and adds to it, S ↦ T_t S + k_t w_tᵀ, so a segment maps S ↦ M S + U with
//! M = T_n ⋯ T_1 and U the state that it would leave behind from zero. Segments compose: (M₂, U₂) after (M₁, U₁) is
//! (M₂ M₁, M₂ U₁ + U₂), which is associative, with the identity (I, 0). M is kept dense, `[key_dim, key_dim]`: after
//! `key_dim` tokens it has no smaller form (Yang et al., "Parallelizing linear transformers with the delta rule", 2024,
//! section 3.1, on products of I − β k kᵀ).

use super::problem::{DeltaRuleError, OPERATOR, Problem};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};

/// The element (M, U) of a segment.
///
/// # Shapes
/// `matrix` `[batch, heads, key_dim, key_dim]`, `update` `[batch, heads, key_dim, value_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// M, the product of the transitions of all tokens, the last leftmost.
    pub matrix: &'a [f32],
    /// U, the state that the segment leaves behind when it begins from zero.
    pub update: &'a [f32],
}

/// An element that can be written, of the same shapes as [`Element`].
#[derive(Debug)]
pub struct ElementMut<'a> {
    /// M, the product of the transitions of all tokens, the last leftmost.
    pub matrix: &'a mut [f32],
    /// U, the state that the segment leaves behind when it begins from zero.
    pub update: &'a mut [f32],
}

/// Prepends a segment: `second` becomes the element of `first` followed by `second`, (M₂ M₁, M₂ U₁ + U₂).
///
/// Only the shape of the state matters of `problem`.
///
/// # Errors
/// [`DeltaRuleError`] when a buffer does not have the length that `problem` says.
pub fn compose(problem: &Problem, first: Element, second: ElementMut) -> Result<(), DeltaRuleError> {
    check_element(problem, first.matrix, first.update)?;
    check_element(problem, second.matrix, second.update)?;
    let (n, width) = (problem.key_dim, problem.value_dim);
    let mut product = vec![0.0; n * n];
    for index in 0..heads_with_keys(problem) {
        let (own, values) = parts(problem, index);
        let matrix = &mut second.matrix[own.clone()];
        let left = Matrix::new(matrix, n, n, n);
        if width > 0 {
            multiply(
                &mut MatrixMut::new(&mut second.update[values.clone()], n, width, width),
                Destination::Scale(1.0),
                left,
                Matrix::new(&first.update[values], n, width, width),
            );
        }
        multiply(
            &mut MatrixMut::new(&mut product, n, n, n),
            Destination::Overwrite,
            left,
            Matrix::new(&first.matrix[own], n, n, n),
        );
        matrix.copy_from_slice(&product);
    }
    Ok(())
}

/// Runs a state through a segment: S ← M S + U.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`DeltaRuleError`] when a buffer does not have the length that `problem` says.
pub fn apply(problem: &Problem, element: Element, state: &mut [f32]) -> Result<(), DeltaRuleError> {
    check_element(problem, element.matrix, element.update)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    let (n, width) = (problem.key_dim, problem.value_dim);
    if width == 0 {
        return Ok(());
    }
    let mut before = vec![0.0; problem.head_state_len()];
    for index in 0..heads_with_keys(problem) {
        let (own, values) = parts(problem, index);
        let state = &mut state[values.clone()];
        before.copy_from_slice(state);
        state.copy_from_slice(&element.update[values]);
        multiply(
            &mut MatrixMut::new(state, n, width, width),
            Destination::Scale(1.0),
            Matrix::new(&element.matrix[own], n, n, n),
            Matrix::new(&before, n, width, width),
        );
    }
    Ok(())
}

/// Checks the lengths of an element's buffers.
pub(super) fn check_element(problem: &Problem, matrix: &[f32], update: &[f32]) -> Result<(), DeltaRuleError> {
    problem.validate_sizes()?;
    let expected = problem.batch * problem.heads * problem.key_dim * problem.key_dim;
    OPERATOR.values("matrix", expected, matrix.len())?;
    Ok(OPERATOR.values("update", problem.state_len(), update.len())?)
}

/// States of all sequences that hold anything.
fn heads_with_keys(problem: &Problem) -> usize {
    if problem.key_dim == 0 {
        0
    } else {
        problem.batch * problem.heads
    }
}

/// Where M and U of state `index` lie.
fn parts(problem: &Problem, index: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let (square, len) = (problem.key_dim * problem.key_dim, problem.head_state_len());
    (
        index * square..(index + 1) * square,
        index * len..(index + 1) * len,
    )
}
