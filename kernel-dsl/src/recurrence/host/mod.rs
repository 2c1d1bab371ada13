//! The recurrence on the CPU: SIMD by run-time dispatch, threads over (batch, head).

mod backward;
mod chunked;
mod chunked_per_key;
pub(super) mod key_sum;
pub(crate) mod lanes;
mod sequential;

pub use backward::{BACKWARD_CHUNK_SIZE, backward};
pub(super) use backward::{key_sum_backward, skip_backward};
pub use chunked::{DEFAULT_CHUNK_SIZE, chunked, element};
pub(super) use sequential::check_one_token;
pub use sequential::{sequential, sequential_bounded, step};

use std::marker::PhantomData;

use pulp::Simd;

use super::problem::{Cotangents, Inputs, Problem};
use crate::decay::LogDecay;
use crate::matrix::{Matrix, MatrixMut};
use crate::rows::Rows;
use crate::sequences::Sequences;
use crate::simd::mul_add_one;

/// State values touched (state size times tokens) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 17;

/// State values of a head, key_dim × value_dim, that fit the first cache (32 KiB) and so are cheap to pass over every token.
const CACHED_STATE: usize = 1 << 13;
/// Heads of one query/key group from which the chunks' shared products Q Kᵀ pay for themselves whatever the state's size.
const SHARING_HEADS: usize = 8;

/// Tokens in a chunk with which [`chunked`] is the faster form of a problem, `None` where [`sequential`] is: for one token, and
/// for small states whose heads share little. `cargo bench kernels/recurrence` shows both sides of the line.
pub fn preferred_chunk_size(problem: &Problem) -> Option<usize> {
    let small = problem.head_state_len() <= CACHED_STATE && problem.heads < SHARING_HEADS * problem.groups;
    (problem.time > 1 && !small).then_some(DEFAULT_CHUNK_SIZE)
}

/// Whether a call is large enough to be shared among threads.
fn worth_threads(problem: &Problem, inputs: &Inputs) -> bool {
    let rows = inputs.sequences.rows(problem.batch, problem.time);
    let touched = problem
        .head_state_len()
        .saturating_mul(problem.heads)
        .saturating_mul(rows);
    touched >= WORTH_THREADS && rayon::current_num_threads() > 1
}

/// What one head of one sequence reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    /// The row of its first token in all views.
    first_row: usize,
    /// Number of tokens of the sequence.
    time: usize,
    head: usize,
    /// Kept, because finding it takes two divisions and every token asks for it.
    group: usize,
}

impl<'a> Head<'a> {
    fn new(problem: &'a Problem, inputs: &'a Inputs<'a>, batch: usize, head: usize) -> Self {
        let span = inputs.sequences.span(batch, problem.time);
        Self {
            problem,
            inputs,
            first_row: span.start,
            time: span.len(),
            head,
            group: problem.group_of(head),
        }
    }

    /// Head `index` in the order of the states, `[batch, heads]`.
    fn at(problem: &'a Problem, inputs: &'a Inputs<'a>, index: usize) -> Self {
        Self::new(problem, inputs, index / problem.heads, index % problem.heads)
    }

    /// The row of token `t` in the input views.
    #[inline(always)]
    fn row(&self, t: usize) -> usize {
        self.first_row + t
    }

    /// Query q_t of token `t`, `[key_dim]`.
    #[inline(always)]
    fn query(&self, t: usize) -> &'a [f32] {
        let key_dim = self.problem.key_dim;
        &self.inputs.query.row(self.row(t))[self.group * key_dim..][..key_dim]
    }

    /// Key k_t of token `t`, `[key_dim]`.
    #[inline(always)]
    fn key(&self, t: usize) -> &'a [f32] {
        let key_dim = self.problem.key_dim;
        &self.inputs.key.row(self.row(t))[self.group * key_dim..][..key_dim]
    }

    /// Value v_t of token `t`, `[value_dim]`.
    #[inline(always)]
    fn value(&self, t: usize) -> &'a [f32] {
        let value_dim = self.problem.value_dim;
        &self.inputs.value.row(self.row(t))[self.head * value_dim..][..value_dim]
    }

    /// The head that lies `index` behind this one in the same group.
    fn later(self, index: usize) -> Self {
        Self {
            head: self.head + index,
            ..self
        }
    }

    /// Cotangent ẏ_t of the output of token `t`, `[value_dim]`.
    #[inline(always)]
    fn cotangent(&self, cotangents: &Cotangents<'a>, t: usize) -> &'a [f32] {
        let value_dim = self.problem.value_dim;
        &cotangents.out.row(self.row(t))[self.head * value_dim..][..value_dim]
    }

    /// ẏ of `count` tokens from `first` on, `[count, value_dim]`.
    fn cotangents(&self, cotangents: &Cotangents<'a>, first: usize, count: usize) -> Matrix<'a> {
        let value_dim = self.problem.value_dim;
        self.matrix(&cotangents.out, self.head * value_dim, value_dim, (first, count))
    }

    /// q of `count` tokens from `first` on, `[count, key_dim]`.
    fn queries(&self, first: usize, count: usize) -> Matrix<'a> {
        let key_dim = self.problem.key_dim;
        self.matrix(&self.inputs.query, self.group * key_dim, key_dim, (first, count))
    }

    /// k of `count` tokens from `first` on, `[count, key_dim]`.
    fn keys(&self, first: usize, count: usize) -> Matrix<'a> {
        let key_dim = self.problem.key_dim;
        self.matrix(&self.inputs.key, self.group * key_dim, key_dim, (first, count))
    }

    /// v of `count` tokens from `first` on, `[count, value_dim]`.
    fn values(&self, first: usize, count: usize) -> Matrix<'a> {
        let value_dim = self.problem.value_dim;
        self.matrix(
            &self.inputs.value,
            self.head * value_dim,
            value_dim,
            (first, count),
        )
    }

    /// `cols` columns from `column` on, of `count` tokens from `first` on.
    fn matrix(
        &self,
        rows: &Rows<'a>,
        column: usize,
        cols: usize,
        (first, count): (usize, usize),
    ) -> Matrix<'a> {
        let start = self.row(first) * rows.stride() + column;
        Matrix::new(&rows.data()[start..], count, cols, rows.stride())
    }

    /// Step size δ_t of token `t`; 1 where none are given.
    #[inline(always)]
    fn step_size(&self, t: usize) -> f32 {
        self.inputs
            .step_size
            .map_or(1.0, |steps| steps.row(self.row(t))[self.head])
    }

    /// ln a_t: no value, one, or `key_dim` values.
    #[inline(always)]
    fn log_decay(&self, t: usize) -> &'a [f32] {
        let count = self.problem.decay.values_per_head(self.problem.key_dim);
        match self.inputs.log_decay {
            LogDecay::None => &[],
            LogDecay::Constant(values) => &values[self.head * count..][..count],
            LogDecay::Token(rows) => &rows.row(self.row(t))[self.head * count..][..count],
        }
    }

    /// Whether the log decays are the same at every token.
    #[inline(always)]
    fn decay_is_constant(&self) -> bool {
        self.inputs.log_decay.token().is_none()
    }

    /// u `[key_dim]`, empty without a bonus.
    #[inline(always)]
    fn bonus(&self) -> &'a [f32] {
        let key_dim = self.problem.key_dim;
        self.inputs
            .bonus
            .map_or(&[], |bonus| &bonus[self.head * key_dim..][..key_dim])
    }

    /// D: nothing, one value, or `value_dim` values.
    #[inline(always)]
    fn skip(&self) -> Skip<'a> {
        match self.inputs.skip {
            None => Skip::Scalar(0.0),
            Some(skip) if skip.len() == self.problem.heads => Skip::Scalar(skip[self.head]),
            Some(skip) => {
                let value_dim = self.problem.value_dim;
                Skip::PerValue(&skip[self.head * value_dim..][..value_dim])
            }
        }
    }
}

/// D of one head.
#[derive(Clone, Copy)]
enum Skip<'a> {
    Scalar(f32),
    PerValue(&'a [f32]),
}

/// y ← gain·y + (D + weight)∘v: what every read-out ends with.
#[inline(always)]
fn finish_read_out<S: Simd>(simd: S, y: &mut [f32], gain: f32, skip: Skip, weight: f32, value: &[f32]) {
    match skip {
        Skip::Scalar(d) => {
            let weight = d + weight;
            y.iter_mut()
                .zip(value)
                .for_each(|(y, v)| *y = mul_add_one(simd, *y, gain, weight * v));
        }
        Skip::PerValue(d) => {
            for ((y, v), d) in y.iter_mut().zip(value).zip(d) {
                *y = mul_add_one(simd, *y, gain, (d + weight) * v);
            }
        }
    }
}

/// Fills the rows that belong to no sequence with zeros.
fn clear_padding(problem: &Problem, inputs: &Inputs, width: usize, values: &mut [f32]) {
    if let Sequences::LeftPadded(padding) = inputs.sequences {
        for (b, padding) in padding.iter().enumerate() {
            values[b * problem.time * width..][..padding * width].fill(0.0);
        }
    }
}

/// The output `[rows, heads, value_dim]`, or a gradient of another width, whose heads are written by different threads.
///
/// The rows of one head lie between those of the others, so that no split into slices exists that gives each thread
/// its own; the accessor is unsafe instead.
#[derive(Clone, Copy)]
struct SharedOutput<'a> {
    start: *mut f32,
    heads: usize,
    width: usize,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as this value, and every access goes through
// `row`, whose callers promise that no two threads touch the same head of the same sequence.
unsafe impl Send for SharedOutput<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    fn new(problem: &Problem, out: &'a mut [f32]) -> Self {
        Self::of(out, problem.heads, problem.value_dim)
    }

    /// Rows of `heads` parts of `width` values.
    fn of(values: &'a mut [f32], heads: usize, width: usize) -> Self {
        Self {
            start: values.as_mut_ptr(),
            heads,
            width,
            len: values.len(),
            borrow: PhantomData,
        }
    }

    /// Distance between the outputs of one head at two successive tokens.
    fn token_stride(&self) -> usize {
        self.heads * self.width
    }

    /// Where the output of `head` in a row begins.
    #[inline(always)]
    fn offset(&self, row: usize, head: usize) -> usize {
        let offset = (row * self.heads + head) * self.width;
        assert!(head < self.heads && offset + self.width <= self.len);
        offset
    }

    /// The output of `head` at its token `t`.
    ///
    /// # Safety
    /// While the slice lives, nothing else may access the same head of the same sequence.
    #[inline(always)]
    unsafe fn row(&self, head: &Head, t: usize) -> &'a mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { self.row_at(head.row(t), head.head) }
    }

    /// Part `index` of a row.
    ///
    /// # Safety
    /// While the slice lives, nothing else may access it.
    #[inline(always)]
    unsafe fn row_at(&self, row: usize, index: usize) -> &'a mut [f32] {
        let offset = self.offset(row, index);
        // SAFETY: `offset` keeps the row inside of the buffer, and the caller keeps others away from it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), self.width) }
    }

    /// The outputs of `head` at `count` tokens from `first` on.
    ///
    /// # Safety
    /// While the matrix lives, nothing else may access the same head of the same sequence.
    unsafe fn matrix(&self, head: &Head, first: usize, count: usize) -> MatrixMut<'a> {
        // SAFETY: as the caller promises.
        unsafe { self.matrix_at(head.row(first), count, head.head) }
    }

    /// Part `index` of `count` rows from `row` on.
    ///
    /// # Safety
    /// While the matrix lives, nothing else may access the same part of the same rows.
    unsafe fn matrix_at(&self, row: usize, count: usize, index: usize) -> MatrixMut<'a> {
        let start = self.offset(row, index);
        self.offset(row + count - 1, index);
        // SAFETY: the first and the last row lie inside of the buffer; the caller keeps others away from all of them.
        unsafe { MatrixMut::from_start(self.start.add(start), count, self.width, self.token_stride()) }
    }
}
