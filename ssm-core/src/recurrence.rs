//! The recurrence in four forms that agree.
//!
//! | form | what it is | for |
//! |---|---|---|
//! | step | one token, the definition | decode |
//! | sequential | the definition, token by token | truth, and short segments |
//! | chunked | matrix products inside chunks, the state between them | prefill, training |
//! | scan | monoid elements of chunks, combined, then applied | what several machines do |

pub use crate::chunking::Chunking;
use crate::dispatch::run_gates;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gates::{Gates, Rule, expect_shape};
use crate::operators::bounded;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;

/// y_t for every token of `gates`, `[batch, time, heads, value_dim]`; `state` is left after the last token.
///
/// Runs where the tensors live, and is differentiable in all of them, the state included.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Groups`] when shapes do not fit, [`Error::Value`] for a chunk of 0 tokens,
/// [`Error::Device`] and [`Error::DType`] for tensors of different devices or of element types that do not go together.
pub fn recurrence(gates: Gates, state: &mut State, chunking: Chunking) -> Result<Tensor<4>> {
    recurrence_of_sequences(gates, &Sequences::Equal, state, chunking)
}

/// As [`recurrence`], for sequences of different lengths: left-padded, or packed end to end in one row of the batch.
///
/// `state` has one entry per sequence, and its position moves on by the longest of them.
///
/// # Errors
/// As [`recurrence`]; [`Error::Sequences`] when paddings or offsets do not fit the tokens, [`Error::Value`] for
/// [`Chunking::Scan`], which takes equally long sequences only.
pub fn recurrence_of_sequences(
    gates: Gates,
    sequences: &Sequences,
    state: &mut State,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let dims = gates.validate()?;
    let count = sequences.count(dims.batch, dims.time)?;
    state.validate(&gates.state_shape(count))?;
    if let Chunking::Chunked { chunk_size: 0 } | Chunking::Scan { chunk_size: 0 } = chunking {
        return Err(Error::Value {
            what: "chunk_size",
            expected: "at least 1 token",
            found: "0".into(),
        });
    }
    let output = match chunking {
        Chunking::Scan { chunk_size } if *sequences == Sequences::Equal => scan(&gates, state, chunk_size)?,
        Chunking::Scan { .. } => {
            return Err(Error::Value {
                what: "chunking of a recurrence over padded or packed sequences",
                expected: "the fastest, sequential or chunked",
                found: "scan".into(),
            });
        }
        Chunking::Fastest | Chunking::Sequential | Chunking::Chunked { .. } => {
            run_gates(gates, sequences, state, chunking)?
        }
    };
    state.position = state.position.saturating_add(sequences.longest(dims.time) as u64);
    Ok(output)
}

/// As [`recurrence`] token by token, with h_t ← h_t · min(1, p_h / ‖h_t‖_F) after every token's update; `bound` is p,
/// `[heads]`, +∞ where a head is free. The read-out of a token sees its clipped state. Returns the read-out and how many
/// (token, head) pairs were clipped.
///
/// # Errors
/// As [`recurrence`]; [`Error::Unsupported`] anywhere but on the CPU without autodiff.
pub fn recurrence_bounded(gates: Gates, state: &mut State, bound: &Tensor<1>) -> Result<(Tensor<4>, u64)> {
    let dims = gates.validate()?;
    state.validate(&gates.state_shape(dims.batch))?;
    if gates.rule() != Rule::WeightedSum {
        return Err(Error::Value {
            what: "gates of a recurrence with bounded states",
            expected: "those of a weighted sum; clip between calls of one token otherwise",
            found: format!("{:?}", gates.rule()),
        });
    }
    let gates = gates.with_stored_decay();
    expect_shape("bound", &[dims.heads], &bound.dims())?;
    let result = bounded::recurrence_bounded(gates, state, bound)?;
    state.position = state.position.saturating_add(dims.time as u64);
    Ok(result)
}

/// Up-sweep: the element of every chunk. Down-sweep: each chunk read out from the state that the elements before it give.
fn scan(gates: &Gates, state: &mut State, chunk_size: usize) -> Result<Tensor<4>> {
    let dims = gates.dims();
    if dims.time == 0 {
        return run_gates(gates.clone(), &Sequences::Equal, state, Chunking::Sequential);
    }
    let start = state.clone();
    let mut before = Element::identity_of(gates);
    let mut outputs = Vec::new();
    for first in (0..dims.time).step_by(chunk_size) {
        let chunk = gates.slice(first..(first + chunk_size).min(dims.time))?;
        let mut incoming = start.clone();
        before.apply(&mut incoming)?;
        before = before.compose(&Element::of(&chunk, chunk_size)?)?;
        outputs.push(run_gates(
            chunk,
            &Sequences::Equal,
            &mut incoming,
            Chunking::Chunked { chunk_size },
        )?);
    }
    before.apply(state)?;
    Ok(Tensor::cat(outputs, 1))
}
