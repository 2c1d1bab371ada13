//! The gradients of the recurrence, chunk by chunk from the end.
//!
//! A sweep forward keeps the state that enters each chunk; a sweep backward takes ḣ, the derivative of the loss by the state
//! at the end of a chunk, to the one at its beginning, and everything inside of a chunk is computed again. Memory is one
//! state per chunk.
//!
//! Log decays need care. The formula ln a_t ↦ Σ_{s≥t} (q_s·q̇_s − k_s·k̇_s) is cheap, but where decays are strong it takes
//! small differences of large sums (after e⁻⁸ per token three digits are left in f32). Here the gradient is summed from
//! what actually passes through a_t, which never cancels: pairs (i, j) with j < t ≤ i, the reads of the entering state by
//! i ≥ t, what j < t adds to the leaving state, and what goes through the chunk whole.

mod blocks;
mod key_sum;
mod per_key;
mod scalar;
mod values;

pub(in crate::recurrence) use key_sum::{key_sum_backward, skip_backward};

use rayon::prelude::*;

use self::blocks::{Block, Constants, ExtraKeys};
use self::values::skip_only;
use super::chunked::check_chunk_size;
use super::{SharedOutput, clear_padding, worth_threads};
use crate::decay::DecayScope;
use crate::decay::LogDecay;
use crate::recurrence::problem::{Cotangents, Gradients, Inputs, Problem, RecurrenceError};

/// A chunk size that is near the fastest for the usual heads: the products with transposed states pay only from here on.
pub const BACKWARD_CHUNK_SIZE: usize = 64;

/// The gradients of [`chunked`](crate::recurrence::chunked), by chunks of `chunk_size` tokens (see
/// [`reference::backward`](crate::recurrence::reference::backward) for the formulas); [`BACKWARD_CHUNK_SIZE`] is a good one.
///
/// Decays per key are taken in blocks of at most 16 tokens, whatever the chunk size. The same call gives the same bits,
/// whatever the number of threads.
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]`; the others as [`Cotangents`] and [`Gradients`] say.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `chunk_size` is 0; then no gradient has changed.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), RecurrenceError> {
    problem.validate_inputs(inputs)?;
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    check_chunk_size(chunk_size)?;
    match cotangents.state {
        Some(cotangent) => gradients.state.copy_from_slice(cotangent),
        None => gradients.state.fill(0.0),
    }
    clear(problem, inputs, gradients);
    let constants = run(problem, inputs, chunk_size, initial_state, cotangents, gradients);
    sum_constants(problem, &constants, gradients);
    Ok(())
}

/// Zeros in the rows that belong to no sequence.
fn clear(problem: &Problem, inputs: &Inputs, gradients: &mut Gradients) {
    let key_width = problem.groups * problem.key_dim;
    clear_padding(problem, inputs, key_width, gradients.query);
    clear_padding(problem, inputs, key_width, gradients.key);
    clear_padding(
        problem,
        inputs,
        problem.heads * problem.value_dim,
        gradients.value,
    );
    if let Some(step_size) = &mut gradients.step_size {
        clear_padding(problem, inputs, problem.heads, step_size);
    }
    if let LogDecay::Token(log_decay) = &mut gradients.log_decay {
        let width = problem.heads * problem.decay.values_per_head(problem.key_dim);
        clear_padding(problem, inputs, width, log_decay);
    }
}

/// Where gradients per token go, shared by all threads.
#[derive(Clone, Copy)]
struct Sinks<'a> {
    cotangents: &'a Cotangents<'a>,
    value: SharedOutput<'a>,
    step_size: Option<SharedOutput<'a>>,
    log_decay: Option<SharedOutput<'a>>,
    /// Whether the gradient of the log decays is asked for, per token or not.
    wants_log_decay: bool,
}

/// Runs all blocks of heads; returns the constants of every head of every sequence, `[batch, heads]`.
fn run(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Vec<Constants> {
    let Problem {
        heads,
        key_dim,
        value_dim,
        decay,
        ..
    } = *problem;
    let wants_log_decay = !gradients.log_decay.is_none();
    let log_decay = gradients.log_decay.as_mut().into_token();
    let step_size = gradients.step_size.as_deref_mut();
    let sinks = Sinks {
        cotangents,
        value: SharedOutput::of(gradients.value, heads, value_dim),
        step_size: step_size.map(|values| SharedOutput::of(values, heads, 1)),
        log_decay: log_decay.map(|values| SharedOutput::of(values, heads, decay.values_per_head(key_dim))),
        wants_log_decay,
    };
    if problem.head_state_len() == 0 {
        gradients.query.fill(0.0);
        gradients.key.fill(0.0);
        return skip_only(problem, inputs, &sinks);
    }
    let mut extra = ExtraKeys::new(problem, inputs);
    let keys = (
        SharedOutput::of(gradients.query, problem.groups, key_dim),
        SharedOutput::of(gradients.key, problem.groups, key_dim),
    );
    let mut blocks = extra.blocks(problem, inputs, initial_state, gradients.state, keys);
    let work = |block: &mut Block| match decay.scope() {
        DecayScope::None | DecayScope::Head => {
            scalar::block(block, chunk_size, &sinks);
        }
        DecayScope::Key => per_key::block(block, chunk_size, &sinks),
    };
    if worth_threads(problem, inputs) {
        blocks.par_iter_mut().for_each(work);
    } else {
        blocks.iter_mut().for_each(work);
    }
    let constants = blocks.into_iter().flat_map(|block| block.constants).collect();
    extra.add_to(problem, inputs, gradients.query, gradients.key);
    constants
}

/// Adds the constants of all sequences, in their order.
fn sum_constants(problem: &Problem, constants: &[Constants], gradients: &mut Gradients) {
    let Problem {
        heads,
        key_dim,
        value_dim,
        ..
    } = *problem;
    let per_head = problem.decay.values_per_head(key_dim);
    let of_head = |head: usize| constants.iter().skip(head).step_by(heads);
    let sum = |head: usize, part: &dyn Fn(&Constants) -> f64| of_head(head).map(part).sum::<f64>() as f32;
    if let LogDecay::Constant(log_decay) = &mut gradients.log_decay {
        for (i, g) in log_decay.iter_mut().enumerate() {
            *g = sum(i / per_head, &|constants| constants.log_decay[i % per_head]);
        }
    }
    if let Some(bonus) = &mut gradients.bonus {
        for (i, g) in bonus.iter_mut().enumerate() {
            *g = sum(i / key_dim, &|constants| constants.bonus[i % key_dim]);
        }
    }
    if let Some(skip) = &mut gradients.skip {
        let per_value = skip.len() != heads;
        for (i, g) in skip.iter_mut().enumerate() {
            *g = if per_value {
                sum(i / value_dim, &|constants| constants.skip[i % value_dim])
            } else {
                sum(i, &|constants| constants.skip.iter().sum())
            };
        }
    }
}
