//! The delta rule on the CPU: SIMD by run-time dispatch, threads over (batch, head).

mod backward;
mod block;
mod by_head;
mod by_key;
mod chunked;
mod gates;
mod input_gradients;
mod lanes;
mod parts;
mod sequential;

pub use backward::backward;
pub use chunked::{DEFAULT_CHUNK_SIZE, chunked, element};
pub use sequential::{sequential, step};

use std::marker::PhantomData;

use rayon::prelude::*;

use super::problem::{DeltaRuleError, Inputs, Problem, Transition, TransitionKind};
use crate::matrix::{Matrix, MatrixMut};
use crate::rows::Rows;
use crate::sequences::Sequences;

/// State values touched (state size times tokens) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 17;

/// Tokens in a chunk with which the forward pass is fastest.
const FORWARD_CHUNK_SIZE: usize = 16;

/// State values of a head, key_dim × value_dim, that fit the first cache (32 KiB) and so are cheap to pass over every token.
const CACHED_STATE: usize = 1 << 13;

/// Tokens in a chunk with which [`chunked`](chunked::chunked) is the faster form of a problem, `None` where
/// [`sequential`](sequential::sequential) is: for one token, for small states, and for low-rank transitions, whose chunks
/// have twice the products.
///
/// Chunks gain little on the CPU (1.1 to 1.3 times for 128×128 states): token by token, the delta rule computes as much per
/// value of the state that it loads as matrix products over short chunks do.
pub fn preferred_chunk_size(problem: &Problem) -> Option<usize> {
    let large = problem.head_state_len() > CACHED_STATE;
    (problem.time > 1 && large && problem.transition == TransitionKind::Delta).then_some(FORWARD_CHUNK_SIZE)
}

fn check_chunk_size(chunk_size: usize) -> Result<(), DeltaRuleError> {
    if chunk_size == 0 {
        Err(DeltaRuleError::EmptyChunk)
    } else {
        Ok(())
    }
}

/// Calls `work` with every part of `states` of `len` values and its number, on all threads where that pays.
fn for_each_part(problem: &Problem, states: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let touched = problem.state_len().saturating_mul(problem.time);
    if touched >= WORTH_THREADS && rayon::current_num_threads() > 1 {
        states
            .par_chunks_exact_mut(len)
            .enumerate()
            .for_each(|(index, part)| work(index, part));
    } else {
        states
            .chunks_exact_mut(len)
            .enumerate()
            .for_each(|(index, part)| work(index, part));
    }
}

/// Writes 0 into the rows of `buffer` that belong to no sequence.
fn clear_padding(problem: &Problem, sequences: &Sequences, buffer: &mut [f32], width: usize) {
    if let Sequences::LeftPadded(padding) = sequences {
        for (b, rows) in padding.iter().enumerate() {
            buffer[b * problem.time * width..][..rows * width].fill(0.0);
        }
    }
}

/// What one head of one sequence reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    head: usize,
    group: usize,
    /// Row of its first token in the input views.
    first_row: usize,
    /// Number of tokens of the sequence.
    time: usize,
}

impl<'a> Head<'a> {
    /// Head `index` in the order of the states, `[batch, heads]`.
    fn at(problem: &'a Problem, inputs: &'a Inputs<'a>, index: usize) -> Self {
        let head = index % problem.heads;
        let span = inputs.sequences.span(index / problem.heads, problem.time);
        Self {
            problem,
            inputs,
            head,
            group: problem.group_of(head),
            first_row: span.start,
            time: span.len(),
        }
    }

    /// The row of token `t` in the input views.
    #[inline(always)]
    fn row(&self, t: usize) -> usize {
        self.first_row + t
    }

    /// The first column of this head's group in a view of `groups·key_dim` columns.
    #[inline(always)]
    fn key_column(&self) -> usize {
        self.group * self.problem.key_dim
    }

    /// The first column of this head in a view of `heads·value_dim` columns.
    #[inline(always)]
    fn value_column(&self) -> usize {
        self.head * self.problem.value_dim
    }

    #[inline(always)]
    fn on_keys(&self, rows: &Rows<'a>, t: usize) -> &'a [f32] {
        &rows.row(self.row(t))[self.key_column()..][..self.problem.key_dim]
    }

    /// Query q_t of token `t`, `[key_dim]`.
    #[inline(always)]
    fn query(&self, t: usize) -> &'a [f32] {
        self.on_keys(&self.inputs.query, t)
    }

    /// Key k_t of token `t`, `[key_dim]`.
    #[inline(always)]
    fn key(&self, t: usize) -> &'a [f32] {
        self.on_keys(&self.inputs.key, t)
    }

    /// Value v_t of token `t`, `[value_dim]`.
    #[inline(always)]
    fn value(&self, t: usize) -> &'a [f32] {
        &self.inputs.value.row(self.row(t))[self.value_column()..][..self.problem.value_dim]
    }

    /// ln a_t: no value, one, or `key_dim` values.
    #[inline(always)]
    fn log_decay(&self, t: usize) -> &'a [f32] {
        let count = self.problem.decay.values_per_head(self.problem.key_dim);
        match self.inputs.log_decay.token() {
            None => &[],
            Some(rows) => &rows.row(self.row(t))[self.head * count..][..count],
        }
    }

    fn is_low_rank(&self) -> bool {
        self.problem.transition == TransitionKind::LowRank
    }

    /// β_t, or p_t and b_t.
    #[inline(always)]
    fn transition(&self, t: usize) -> TokenTransition<'a> {
        match &self.inputs.transition {
            Transition::Delta { beta } => TokenTransition::Delta {
                beta: beta.row(self.row(t))[self.head],
            },
            Transition::LowRank { p, b } => TokenTransition::LowRank {
                p: self.on_keys(p, t),
                b: self.on_keys(b, t),
            },
        }
    }

    /// k of `count` tokens from `first` on, `[count, key_dim]`.
    fn keys(&self, (first, count): (usize, usize)) -> Matrix<'a> {
        let (column, cols) = (self.key_column(), self.problem.key_dim);
        rows_as_matrix(&self.inputs.key, (self.row(first), count), column, cols)
    }

    /// v of `count` tokens from `first` on, `[count, value_dim]`.
    fn values(&self, (first, count): (usize, usize)) -> Matrix<'a> {
        let (column, cols) = (self.value_column(), self.problem.value_dim);
        rows_as_matrix(&self.inputs.value, (self.row(first), count), column, cols)
    }
}

/// What a transition reads at one token.
enum TokenTransition<'a> {
    Delta { beta: f32 },
    LowRank { p: &'a [f32], b: &'a [f32] },
}

/// `cols` columns from `column` on, of `count` rows from `first` on.
fn rows_as_matrix<'a>(
    rows: &Rows<'a>,
    (first, count): (usize, usize),
    column: usize,
    cols: usize,
) -> Matrix<'a> {
    Matrix::new(
        &rows.data()[first * rows.stride() + column..],
        count,
        cols,
        rows.stride(),
    )
}

/// A buffer `[rows, width]` of which several threads write different columns or rows.
///
/// The columns of one head lie between those of the others, so that no split into slices exists that gives each thread
/// its own; the accessors are unsafe instead.
#[derive(Clone, Copy)]
struct SharedRows<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as this value, and every access goes through
// `part` and `matrix`, whose callers promise that no two threads touch the same values.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    fn new(buffer: &'a mut [f32], width: usize) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            width,
            borrow: PhantomData,
        }
    }

    /// Where `cols` values from column `column` of row `row` on begin.
    #[inline(always)]
    fn offset(&self, row: usize, column: usize, cols: usize) -> usize {
        let offset = row * self.width + column;
        assert!(column + cols <= self.width && offset + cols <= self.len);
        offset
    }

    /// `cols` values of row `row` from column `column` on.
    ///
    /// # Safety
    /// While the slice lives, nothing else may access these values.
    #[inline(always)]
    unsafe fn part(&self, row: usize, column: usize, cols: usize) -> &'a mut [f32] {
        let offset = self.offset(row, column, cols);
        // SAFETY: `offset` keeps the values inside of the buffer, and the caller keeps others away from them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), cols) }
    }

    /// `cols` columns from `column` on, of `count` rows from `first` on.
    ///
    /// # Safety
    /// While the matrix lives, nothing else may access its values.
    unsafe fn matrix(&self, (first, count): (usize, usize), column: usize, cols: usize) -> MatrixMut<'a> {
        let start = self.offset(first, column, cols);
        self.offset(first + count - 1, column, cols);
        // SAFETY: the first and the last row lie inside of the buffer; the caller keeps others away from all of them.
        unsafe { MatrixMut::from_start(self.start.add(start), count, cols, self.width) }
    }
}
