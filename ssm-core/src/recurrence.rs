//! The recurrence in four forms that agree.
//!
//! | form | what it is | for |
//! |---|---|---|
//! | step | one token, the definition | decode |
//! | sequential | the definition, token by token | truth, and short stretches |
//! | chunked | matrix products inside chunks, the state between them | prefill, training |
//! | scan | monoid elements of chunks, combined, then applied | what several machines do |

use crate::backend::{self, Chunks};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gates::{Gates, expect_shape};
use crate::state::State;
use burn::tensor::Tensor;

/// How the recurrence is computed. All forms give the same result up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Chunked or token by token, whichever is faster for the shape; one token is a step.
    #[default]
    Auto,
    /// Token by token.
    Sequential,
    /// Matrix products inside chunks of this many tokens.
    Chunked {
        /// Tokens in a chunk.
        chunk_size: usize,
    },
    /// Elements of chunks of this many tokens, combined by the monoid law.
    Scan {
        /// Tokens in a chunk.
        chunk_size: usize,
    },
}

/// y_t for every token of `gates`, `[batch, time, heads, value_dim]`; `state` is left after the last token.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Groups`] when shapes do not fit, [`Error::Value`] for a chunk of 0 tokens.
pub fn recurrence(gates: Gates, state: &mut State, form: Form) -> Result<Tensor<4>> {
    let dims = gates.validate()?;
    state.validate(&dims)?;
    let output = match form {
        Form::Auto => backend::recurrence(gates, state, Chunks::Fastest),
        Form::Sequential => backend::recurrence(gates, state, Chunks::None),
        Form::Chunked { chunk_size } => backend::recurrence(gates, state, Chunks::Of(positive(chunk_size)?)),
        Form::Scan { chunk_size } => scan(&gates, state, positive(chunk_size)?)?,
    };
    state.position += dims.time as u64;
    Ok(output)
}

/// As [`recurrence`] token by token, with h_t ← h_t · min(1, p_h / ‖h_t‖_F) after every token's update; `bound` is p,
/// `[heads]`, +∞ where a head is free. The read-out of a token sees its clipped state. Returns the read-out and how many
/// (token, head) pairs were clipped.
///
/// # Errors
/// As [`recurrence`].
pub fn recurrence_bounded(gates: Gates, state: &mut State, bound: &Tensor<1>) -> Result<(Tensor<4>, u64)> {
    let dims = gates.validate()?;
    state.validate(&dims)?;
    expect_shape("bound", &[dims.heads], &bound.dims())?;
    let result = backend::recurrence_bounded(gates, state, bound);
    state.position += dims.time as u64;
    Ok(result)
}

fn positive(chunk_size: usize) -> Result<usize> {
    match chunk_size {
        0 => Err(Error::Value {
            what: "chunk_size",
            expected: "at least 1 token",
            found: "0".into(),
        }),
        some => Ok(some),
    }
}

/// Up-sweep: the element of every chunk. Down-sweep: each chunk read out from the state that the elements before it give.
fn scan(gates: &Gates, state: &mut State, chunk_size: usize) -> Result<Tensor<4>> {
    let dims = gates.dims();
    if dims.time == 0 {
        return Ok(backend::recurrence(gates.clone(), state, Chunks::None));
    }
    let start = state.clone();
    let mut before = Element::identity(&dims, gates.log_decay.is_per_key(), &gates.query.device());
    let mut outputs = Vec::new();
    for first in (0..dims.time).step_by(chunk_size) {
        let chunk = gates.slice(first..(first + chunk_size).min(dims.time))?;
        let mut incoming = start.clone();
        before.apply(&mut incoming)?;
        before = before.compose(&Element::of(&chunk, chunk_size)?)?;
        outputs.push(backend::recurrence(chunk, &mut incoming, Chunks::Of(chunk_size)));
    }
    before.apply(state)?;
    Ok(Tensor::cat(outputs, 1))
}
