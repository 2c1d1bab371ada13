//! Taylor attention on the CPU: heads over threads, matrix products inside of chunks.

mod backward;
mod chunked;
mod decay;
mod prefix;
mod sequential;

pub use backward::backward;
pub use chunked::chunked;
pub use sequential::{sequential, step};

use std::ops::Range;

use rayon::prelude::*;

use super::{Inputs, Problem};
use crate::Rows;
use crate::matrix::Matrix;

/// Tokens in a chunk: the weights inside of it then cost less than reading the state does, for K of 16 and more.
pub const DEFAULT_CHUNK_SIZE: usize = 64;

/// State values touched (state size times tokens) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 17;

/// One head of one sequence.
#[derive(Clone)]
struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    head: usize,
    rows: Range<usize>,
    /// Rows of its prefix.
    prefix: Range<usize>,
}

impl<'a> Head<'a> {
    /// Heads in the order of their states.
    fn all(problem: &'a Problem, inputs: &'a Inputs<'a>) -> Vec<Self> {
        let span = |b| inputs.sequences.span(b, problem.time);
        let prefix = |b| match inputs.prefix_key {
            Some(_) => Problem::prefix_sequences(inputs.prefix_padding).span(b, problem.prefix),
            None => 0..0,
        };
        (0..problem.batch * problem.heads)
            .map(|i| Self {
                problem,
                inputs,
                head: i % problem.heads,
                rows: span(i / problem.heads),
                prefix: prefix(i / problem.heads),
            })
            .collect()
    }

    /// The chunks of its rows.
    fn chunks(&self, chunk_size: usize) -> Vec<Range<usize>> {
        chunks(&self.rows, chunk_size)
    }

    /// ln γ of the head; `None` where nothing decays.
    fn log_decay(&self) -> Option<f32> {
        Some(self.inputs.log_decay?[self.head])
    }

    /// Query of the head in a row, `[key_dim]`.
    fn query(&self, row: usize) -> &'a [f32] {
        slice(&self.inputs.query, row, self.head, self.problem.key_dim)
    }

    /// Key of the head in a row, `[key_dim]`.
    fn key(&self, row: usize) -> &'a [f32] {
        slice(&self.inputs.key, row, self.head, self.problem.key_dim)
    }

    /// Value of the head in a row, `[value_dim]`.
    fn value(&self, row: usize) -> &'a [f32] {
        slice(&self.inputs.value, row, self.head, self.problem.value_dim)
    }

    /// Queries of the head in some rows, `[rows, key_dim]`.
    fn queries(&self, rows: &Range<usize>) -> Matrix<'a> {
        matrix(&self.inputs.query, rows, self.head, self.problem.key_dim)
    }

    /// Keys of the head in some rows, `[rows, key_dim]`.
    fn keys(&self, rows: &Range<usize>) -> Matrix<'a> {
        matrix(&self.inputs.key, rows, self.head, self.problem.key_dim)
    }

    /// ṽ of some rows, `[rows, columns]`.
    fn augmented_values(&self, rows: &Range<usize>, out: &mut Vec<f32>) {
        self.augmented(&self.inputs.value, rows, out);
    }

    /// The head's part of some rows of values, each with its 1 where there is a denominator.
    fn augmented(&self, values: &Rows, rows: &Range<usize>, out: &mut Vec<f32>) {
        out.clear();
        for row in rows.clone() {
            out.extend_from_slice(slice(values, row, self.head, self.problem.value_dim));
            if self.problem.normalizer.is_some() {
                out.push(1.0);
            }
        }
    }
}

fn chunks(rows: &Range<usize>, chunk_size: usize) -> Vec<Range<usize>> {
    let (size, end) = (chunk_size.max(1), rows.end);
    let starts = rows.clone().step_by(size);
    starts.map(|start| start..end.min(start + size)).collect()
}

fn slice<'a>(view: &Rows<'a>, row: usize, head: usize, dim: usize) -> &'a [f32] {
    &view.row(row)[head * dim..][..dim]
}

fn matrix<'a>(view: &Rows<'a>, rows: &Range<usize>, head: usize, dim: usize) -> Matrix<'a> {
    let start = rows.start * view.stride() + head * dim;
    Matrix::new(&view.data()[start..], rows.len(), dim, view.stride())
}

/// What `work` gives for every head, on one thread or several, in the order of the heads.
fn over_heads<T: Send, S: Send>(
    problem: &Problem,
    heads: Vec<Head>,
    states: Vec<S>,
    work: impl Fn(Head, S) -> T + Sync,
) -> Vec<T> {
    let tokens = problem.time.saturating_add(problem.prefix);
    let touched = problem.state_len().saturating_mul(tokens);
    if touched < WORTH_THREADS || rayon::current_num_threads() == 1 {
        let pairs = heads.into_iter().zip(states);
        pairs.map(|(head, state)| work(head, state)).collect()
    } else {
        let pairs = heads.into_par_iter().zip(states);
        pairs.map(|(head, state)| work(head, state)).collect()
    }
}

/// Moves the values of every head, `[rows of its sequence, dim]`, to `[rows, heads, dim]`; rows of padding become 0.
fn scatter(heads: &[Head], values: &[&[f32]], dim: usize, out: &mut [f32]) {
    scatter_rows(heads, |head| head.rows.clone(), values, dim, out);
}

/// As [`scatter`], where `rows` says which rows are the head's.
fn scatter_rows(
    heads: &[Head],
    rows: impl Fn(&Head) -> Range<usize>,
    values: &[&[f32]],
    dim: usize,
    out: &mut [f32],
) {
    out.fill(0.0);
    for (head, values) in heads.iter().zip(values) {
        for (row, values) in rows(head).zip(values.chunks_exact(dim)) {
            out[(row * head.problem.heads + head.head) * dim..][..dim].copy_from_slice(values);
        }
    }
}
