//! The recurrence with a normaliser: linear attention whose weights sum to one.
//!
//! ```text
//! z_t = a_t ∘ z_{t-1} + δ_t k_t                             key sum  z ∈ R^K, one per (batch, head)
//! d_t = scale · q_t·z_t                                     inclusive read-out
//! d_t = scale · q_t·(z_{t-1} + δ_t u∘k_t)                   bonus read-out
//! y_t = (scale · q_tᵀ h_t) / (d_t + ε) + D∘v_t              numerator by the read-out of the recurrence
//! ```
//!
//! It is the recurrence with one more column of values that are all 1 (Katharopoulos et al., "Transformers are RNNs", 2020,
//! equations 9 to 12), but the column is kept apart, as a state of its own: it costs one pass over z per token.
//!
//! The backward pass takes the quotient apart, ṅ_t = ẏ_t / (d_t + ε) and ḋ_t = −ẏ_t·n_t / (d_t + ε)², gives ṅ to the gradients of
//! the recurrence, and runs ż backwards: ż_t = scale ḋ_t q_t + a_{t+1} ∘ ż_{t+1}, q̇_t += scale ḋ_t z_t, k̇_t += δ_t ż_t,
//! δ̇_t += k_t·ż_t, (ln a_t)˙ += a_t ∘ z_{t-1} ∘ ż_t.

use super::host::{self, check_one_token, key_sum, key_sum_backward, skip_backward};
use super::problem::{Cotangents, Gradients, Inputs, OPERATOR, Problem, RecurrenceError};
use crate::rows::Rows;

/// The two states of a normalised recurrence, read and updated.
#[derive(Debug)]
pub struct NormalizedState<'a, T = f32> {
    /// h `[batch, heads, key_dim, value_dim]`.
    pub state: &'a mut [T],
    /// z `[batch, heads, key_dim]`.
    pub key_sum: &'a mut [T],
}

/// The two states that a normalised recurrence began from.
#[derive(Clone, Copy, Debug)]
pub struct InitialState<'a, T = f32> {
    /// h `[batch, heads, key_dim, value_dim]`.
    pub state: &'a [T],
    /// z `[batch, heads, key_dim]`.
    pub key_sum: &'a [T],
}

/// Cotangents of what a normalised recurrence computes.
#[derive(Clone, Copy, Debug)]
pub struct NormalizedCotangents<'a> {
    /// Cotangent of the output, `heads·value_dim` columns.
    pub out: Rows<'a>,
    /// Cotangent of the final state; `None` is zero.
    pub state: Option<&'a [f32]>,
    /// Cotangent of the final key sum; `None` is zero.
    pub key_sum: Option<&'a [f32]>,
}

/// Where the gradients of a normalised recurrence's inputs go.
#[derive(Debug)]
pub struct NormalizedGradients<'a, T = f32> {
    /// Gradients by the inputs and by the initial state.
    pub inputs: Gradients<'a, T>,
    /// Gradient by the initial key sum, `[batch, heads, key_dim]`.
    pub key_sum: &'a mut [T],
}

/// The normalised recurrence over one token, as decoding calls it. Padded or packed sequences may have one token or none.
///
/// # Shapes
/// `out` `[rows, heads, value_dim]`; `eps` is ε.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or a sequence does not have one token; then nothing has changed.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    state: NormalizedState,
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    validate(problem, inputs, &state, out)?;
    check_one_token(problem, inputs)?;
    sequential(problem, inputs, eps, state, out)
}

/// Token by token.
///
/// # Shapes
/// As for [`step`].
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong; then nothing has changed.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    state: NormalizedState,
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    validate(problem, inputs, &state, out)?;
    host::sequential(problem, &numerator(inputs), state.state, out)?;
    key_sum::divide(problem, inputs, eps, state.key_sum, out);
    Ok(())
}

/// The normalised recurrence by chunks of `chunk_size` tokens; the key sum goes token by token.
///
/// # Shapes
/// As for [`step`].
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `chunk_size` is 0; then nothing has changed.
pub fn chunked(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    chunk_size: usize,
    state: NormalizedState,
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    validate(problem, inputs, &state, out)?;
    host::chunked(problem, &numerator(inputs), chunk_size, state.state, out)?;
    key_sum::divide(problem, inputs, eps, state.key_sum, out);
    Ok(())
}

/// The gradients, by chunks of `chunk_size` tokens. The numerators are computed again, into a buffer as large as the output.
///
/// # Shapes
/// As [`InitialState`], [`NormalizedCotangents`] and [`NormalizedGradients`] say.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `chunk_size` is 0; then no gradient has changed.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    chunk_size: usize,
    initial: InitialState,
    cotangents: &NormalizedCotangents,
    gradients: &mut NormalizedGradients,
) -> Result<(), RecurrenceError> {
    validate_backward(problem, inputs, initial, cotangents, gradients)?;
    let mut out = vec![0.0; problem.out_len(inputs.sequences)];
    let mut state = initial.state.to_vec();
    let numerator = numerator(inputs);
    host::chunked(problem, &numerator, chunk_size, &mut state, &mut out)?;
    drop(state);
    let denominators =
        key_sum::differentiate_quotient(problem, inputs, eps, initial.key_sum, cotangents.out, &mut out);
    let of_numerator = Cotangents {
        out: Rows::contiguous(&out, inputs.value.rows(), inputs.value.cols())
            .unwrap_or_else(|_| unreachable!("the buffer has been made for these rows")),
        state: cotangents.state,
    };
    let skip = gradients.inputs.skip.take();
    let result = host::backward(
        problem,
        &numerator,
        chunk_size,
        initial.state,
        &of_numerator,
        &mut gradients.inputs,
    );
    gradients.inputs.skip = skip;
    result?;
    match cotangents.key_sum {
        Some(cotangent) => gradients.key_sum.copy_from_slice(cotangent),
        None => gradients.key_sum.fill(0.0),
    }
    skip_backward(problem, inputs, cotangents.out, &mut gradients.inputs);
    key_sum_backward(
        problem,
        inputs,
        initial.key_sum,
        &denominators,
        &mut gradients.inputs,
        gradients.key_sum,
    );
    Ok(())
}

/// The inputs of the numerator, which the skip is no part of.
fn numerator<'a>(inputs: &Inputs<'a>) -> Inputs<'a> {
    Inputs {
        skip: None,
        ..*inputs
    }
}

/// Checks every shape of a forward pass.
pub(super) fn validate<T>(
    problem: &Problem,
    inputs: &Inputs,
    state: &NormalizedState<T>,
    out: &[T],
) -> Result<(), RecurrenceError> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values("state", problem.state_len(), state.state.len())?;
    OPERATOR.values("key_sum", key_sum_len(problem), state.key_sum.len())?;
    Ok(OPERATOR.values("out", problem.out_len(inputs.sequences), out.len())?)
}

/// Checks every shape of a backward pass.
pub(super) fn validate_backward<T, G>(
    problem: &Problem,
    inputs: &Inputs,
    initial: InitialState<T>,
    cotangents: &NormalizedCotangents,
    gradients: &NormalizedGradients<G>,
) -> Result<(), RecurrenceError> {
    problem.validate_inputs(inputs)?;
    let of_numerator = Cotangents {
        out: cotangents.out,
        state: cotangents.state,
    };
    problem.validate_backward(inputs, initial.state.len(), &of_numerator, &gradients.inputs)?;
    let expected = key_sum_len(problem);
    OPERATOR.values("key_sum", expected, initial.key_sum.len())?;
    OPERATOR.cotangent("key_sum", expected, cotangents.key_sum)?;
    Ok(OPERATOR.gradient("key_sum", expected, gradients.key_sum)?)
}

fn key_sum_len(problem: &Problem) -> usize {
    problem.batch * problem.heads * problem.key_dim
}
