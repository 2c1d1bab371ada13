//! The delta rule by chunks of tokens.

use super::block::Block;
use super::by_head::ByHead;
use super::by_key::ByKey;
use super::parts::Decays;
use super::{Head, SharedRows, check_chunk_size, clear_padding, for_each_part};
use crate::decay::DecayScope;
use crate::delta_rule::monoid::check_element;
use crate::delta_rule::problem::{DeltaRuleError, Inputs, Problem};

/// A chunk size that is near the fastest for gradients of the usual heads; forward, ask
/// [`preferred_chunk_size`](crate::delta_rule::preferred_chunk_size).
pub const DEFAULT_CHUNK_SIZE: usize = 32;

/// The delta rule by chunks of `chunk_size` tokens: a triangular system and a few matrix products per chunk instead of two
/// passes over the state per token.
///
/// Equals [`sequential`](crate::delta_rule::sequential) up to rounding for every chunk size. Decays per key are taken in
/// blocks of at most 16 tokens, whatever the chunk size.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`, 0 in rows that
/// belong to no sequence.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong or `chunk_size` is 0; then neither `state` nor `out` has changed.
pub fn chunked(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), DeltaRuleError> {
    problem.validate(inputs, state.len(), out.len())?;
    check_chunk_size(chunk_size)?;
    let len = problem.head_state_len();
    if len == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let width = problem.heads * problem.value_dim;
    clear_padding(problem, &inputs.sequences, out, width);
    let out = SharedRows::new(out, width);
    for_each_part(problem, state, len, |index, state| {
        all_blocks(
            Head::at(problem, inputs, index),
            chunk_size,
            state,
            Some(out),
            true,
        );
    });
    Ok(())
}

/// The monoid element (M, U) of all tokens. No query is read.
///
/// # Shapes
/// `matrix` `[batch, heads, key_dim, key_dim]`, `update` `[batch, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong or `chunk_size` is 0; then nothing has changed.
pub fn element(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    matrix: &mut [f32],
    update: &mut [f32],
) -> Result<(), DeltaRuleError> {
    problem.validate_inputs(inputs)?;
    check_element(problem, matrix, update)?;
    check_chunk_size(chunk_size)?;
    let key_dim = problem.key_dim;
    if key_dim == 0 {
        return Ok(());
    }
    // M is what becomes of the state I when nothing is written.
    for_each_part(problem, matrix, key_dim * key_dim, |index, matrix| {
        matrix.fill(0.0);
        matrix.iter_mut().step_by(key_dim + 1).for_each(|x| *x = 1.0);
        all_blocks(Head::at(problem, inputs, index), chunk_size, matrix, None, false);
    });
    if problem.value_dim > 0 {
        for_each_part(problem, update, problem.head_state_len(), |index, update| {
            update.fill(0.0);
            all_blocks(Head::at(problem, inputs, index), chunk_size, update, None, true);
        });
    }
    Ok(())
}

/// [`blocks`] with the decays that the problem has.
fn all_blocks(head: Head, chunk_size: usize, state: &mut [f32], out: Option<SharedRows>, values: bool) {
    match head.problem.decay.scope() {
        DecayScope::None | DecayScope::Head => blocks::<ByHead>(head, chunk_size, state, out, values),
        DecayScope::Key => blocks::<ByKey>(head, chunk_size, state, out, values),
    }
}

/// Takes a state through all blocks of a head; without `out`, nothing is read, and without `values`, all v are 0.
fn blocks<D: Decays>(
    head: Head,
    chunk_size: usize,
    state: &mut [f32],
    out: Option<SharedRows>,
    values: bool,
) {
    let size = D::block_size(chunk_size).min(head.time.max(1));
    let key_dim = head.problem.key_dim;
    let mut block = Block::<D>::new(size, key_dim, state.len() / key_dim, values);
    for first in (0..head.time).step_by(size) {
        let tokens = (first, size.min(head.time - first));
        block.solve(head, tokens, state, out.is_some());
        if let Some(out) = out {
            block.read_out(head, tokens, state, out);
        }
        block.advance(head, tokens, state);
    }
}
