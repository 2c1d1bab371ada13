//! Chunks of tokens as matrix products (Dao and Gu, "Transformers are SSMs", 2024, section 6).
//!
//! With S_i = Σ_{t≤i} ln a_t inside of a chunk of n tokens, h₀ the state that enters it, and one decay for all keys:
//!
//! ```text
//! y_i = scale·( Σ_{j≤i} exp(S_i − S_j) δ_j (q_i·k_j) v_j  +  exp(S_i) q_i h₀ ) + D∘v_i
//! h_n = exp(S_n) h₀ + Σ_j k_j (exp(S_n − S_j) δ_j v_j)ᵀ
//! ```
//!
//! The bonus read-out takes S_{i-1} for S_i, leaves the term j = i out of the sum and puts the bonus in its place. All
//! exponents are differences of sums and at most 0 for decays at most 1. The sums are kept in f64: after a decay of e⁻⁶⁰
//! an f32 sum would have lost the digits of the milder ones that follow.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::chunked_per_key::PerKeyChunk;
use super::lanes::dot_of_three;
use super::{Head, SharedOutput, clear_padding, finish_read_out, worth_threads};
use crate::decay::DecayScope;
use crate::math;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::recurrence::monoid::check_element;
use crate::recurrence::problem::{Inputs, Problem, ReadOut, RecurrenceError};
use crate::simd::dispatch;

/// A chunk size that is near the fastest for the usual heads.
pub const DEFAULT_CHUNK_SIZE: usize = 32;

/// Log decays are raised to this before they are summed: e⁻¹⁰⁰⁰ is 0 in f32 all the same, and sums stay finite.
const LOWEST_LOG_DECAY: f64 = -1000.0;

/// The recurrence by chunks of `chunk_size` tokens: a few matrix products per chunk instead of a pass per token.
///
/// Equals [`sequential`](crate::recurrence::sequential) up to rounding for every chunk size. Decays per key are taken in
/// blocks of at most 16 tokens, whatever the chunk size.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `chunk_size` is 0; then neither `state` nor `out` has changed.
pub fn chunked(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    problem.validate(inputs, state, out)?;
    check_chunk_size(chunk_size)?;
    clear_padding(problem, inputs, problem.heads * problem.value_dim, out);
    let out = SharedOutput::new(problem, out);
    run(problem, inputs, chunk_size, state, Some(out));
    Ok(())
}

/// The monoid element (A, G) of all tokens: ln A into `log_decay_sum`, G into `update`. No query is read.
///
/// # Shapes
/// `log_decay_sum` `[batch, heads]`, or `[batch, heads, key_dim]` for decays per key; `update`
/// `[batch, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `chunk_size` is 0; then nothing has changed.
pub fn element(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    log_decay_sum: &mut [f32],
    update: &mut [f32],
) -> Result<(), RecurrenceError> {
    problem.validate_inputs(inputs)?;
    check_element(problem, log_decay_sum, update)?;
    check_chunk_size(chunk_size)?;
    update.fill(0.0);
    run(problem, inputs, chunk_size, update, None);
    sum_log_decays(problem, inputs, log_decay_sum);
    Ok(())
}

pub(super) fn check_chunk_size(chunk_size: usize) -> Result<(), RecurrenceError> {
    if chunk_size == 0 {
        Err(RecurrenceError::EmptyChunk)
    } else {
        Ok(())
    }
}

/// ln A = Σ_t ln a_t, per head or per head and key.
fn sum_log_decays(problem: &Problem, inputs: &Inputs, sums: &mut [f32]) {
    let per_head = problem.decay_sums_per_head();
    if per_head == 0 {
        return;
    }
    let mut totals = vec![0.0_f64; per_head];
    for (index, sums) in sums.chunks_exact_mut(per_head).enumerate() {
        let head = Head::at(problem, inputs, index);
        totals.fill(0.0);
        for t in 0..head.time {
            for (total, g) in totals.iter_mut().zip(head.log_decay(t)) {
                *total += f64::from(*g);
            }
        }
        sums.iter_mut()
            .zip(&totals)
            .for_each(|(sum, total)| *sum = *total as f32);
    }
}

/// Neighbouring heads of one group, whose states one thread takes through all chunks.
struct Span<'a> {
    first: Head<'a>,
    states: &'a mut [f32],
}

/// Runs all chunks; without `out`, only the states are computed.
fn run(problem: &Problem, inputs: &Inputs, chunk_size: usize, state: &mut [f32], out: Option<SharedOutput>) {
    let len = problem.head_state_len();
    if problem.time == 0 || problem.batch * problem.heads == 0 || problem.value_dim == 0 {
        return;
    }
    if len == 0 {
        // Without keys nothing is stored: only the skip is left.
        return read_skip_only(problem, inputs, out);
    }
    let threads = if worth_threads(problem, inputs) {
        rayon::current_num_threads()
    } else {
        1
    };
    let mut spans = spans(problem, inputs, state, threads);
    let work = |span: &mut Span| match problem.decay.scope() {
        DecayScope::None | DecayScope::Head => {
            span_of_scalar_decays(span, chunk_size, out);
        }
        DecayScope::Key => {
            for (i, state) in span.states.chunks_exact_mut(len).enumerate() {
                let head = span.first.later(i);
                PerKeyChunk::new(problem, chunk_size).run(head, state, out);
            }
        }
    };
    if threads > 1 {
        spans.par_iter_mut().for_each(work);
    } else {
        spans.iter_mut().for_each(work);
    }
}

/// Divides the heads among threads. Heads of one group stay together as far as that leaves every thread some work,
/// because they share the product of queries and keys.
fn spans<'a>(
    problem: &'a Problem,
    inputs: &'a Inputs,
    state: &'a mut [f32],
    threads: usize,
) -> Vec<Span<'a>> {
    let heads_per_group = problem.heads / problem.groups;
    let spans_per_group = threads
        .div_ceil(problem.batch * problem.groups)
        .min(heads_per_group);
    let heads_per_span = heads_per_group.div_ceil(spans_per_group);
    let mut spans = Vec::with_capacity(problem.batch * problem.groups * spans_per_group);
    for (index, states) in state
        .chunks_exact_mut(heads_per_group * problem.head_state_len())
        .enumerate()
    {
        let (batch, first_of_group) = (index / problem.groups, index % problem.groups * heads_per_group);
        for (i, states) in states
            .chunks_mut(heads_per_span * problem.head_state_len())
            .enumerate()
        {
            let head = first_of_group + i * heads_per_span;
            spans.push(Span {
                first: Head::new(problem, inputs, batch, head),
                states,
            });
        }
    }
    spans
}

/// y = D∘v for a problem without keys.
fn read_skip_only(problem: &Problem, inputs: &Inputs, out: Option<SharedOutput>) {
    let Some(out) = out else { return };
    for index in 0..problem.batch * problem.heads {
        let head = Head::at(problem, inputs, index);
        for t in 0..head.time {
            // SAFETY: this is the only thread, and the row is let go before the next is taken.
            let y = unsafe { out.row(&head, t) };
            y.fill(0.0);
            finish_read_out(pulp::Scalar, y, 0.0, head.skip(), 0.0, head.value(t));
        }
    }
}

/// All chunks of a span whose decays are one number per head and token.
fn span_of_scalar_decays(span: &mut Span, chunk_size: usize, out: Option<SharedOutput>) {
    let (problem, time) = (span.first.problem, span.first.time);
    let largest = chunk_size.min(time);
    let mut scores = vec![0.0; if out.is_some() { largest * largest } else { 0 }];
    let mut scratch = ScalarScratch::new(largest, problem.value_dim, out.is_some());
    for start in (0..time).step_by(chunk_size) {
        let tokens = (start, chunk_size.min(time - start));
        if out.is_some() {
            let (queries, keys) = (
                span.first.queries(tokens.0, tokens.1),
                span.first.keys(tokens.0, tokens.1),
            );
            let mut product = MatrixMut::new(&mut scores, tokens.1, tokens.1, tokens.1);
            multiply(&mut product, Destination::Overwrite, queries, keys.transposed());
        }
        for (i, state) in span.states.chunks_exact_mut(problem.head_state_len()).enumerate() {
            let head = span.first.later(i);
            scratch.chunk(head, tokens, &scores, state, out);
        }
    }
}

/// Fills S_1, …, S_n behind S_0 = 0, and δ_1, …, δ_n.
pub(super) fn sum_chunk(head: Head, (start, n): (usize, usize), sums: &mut [f64], steps: &mut [f32]) {
    for i in 0..n {
        let log_decay = head.log_decay(start + i).first().map_or(0.0, |g| f64::from(*g));
        // A comparison rather than `max`: that would drop a NaN.
        let log_decay = if log_decay < LOWEST_LOG_DECAY {
            LOWEST_LOG_DECAY
        } else {
            log_decay
        };
        sums[i + 1] = sums[i] + log_decay;
        steps[i] = head.step_size(start + i);
    }
}

/// Buffers for one chunk of one head.
pub(super) struct ScalarScratch {
    /// S_0 = 0, S_1, …, S_n: the sums of log decays before and after each token.
    sums: Vec<f64>,
    /// Step sizes δ_1, …, δ_n of the chunk's tokens.
    steps: Vec<f32>,
    /// Weights of the values in each read-out, `[n, n]`, zero above the diagonal.
    weights: Vec<f32>,
    /// exp(S_n − S_j) δ_j v_j, `[n, value_dim]`.
    decayed_values: Vec<f32>,
}

impl ScalarScratch {
    pub(super) fn new(largest: usize, value_dim: usize, reads: bool) -> Self {
        Self {
            sums: vec![0.0; largest + 1],
            steps: vec![1.0; largest],
            weights: vec![0.0; if reads { largest * largest } else { 0 }],
            decayed_values: vec![0.0; largest * value_dim],
        }
    }

    /// Runs one chunk of one head: `tokens` is its first token and its length n, `scores` is q_i·k_j, `[n, n]`.
    pub(super) fn chunk(
        &mut self,
        head: Head,
        tokens: (usize, usize),
        scores: &[f32],
        state: &mut [f32],
        out: Option<SharedOutput>,
    ) {
        let (start, n) = tokens;
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        sum_chunk(head, tokens, &mut self.sums, &mut self.steps);
        if let Some(out) = out {
            // SAFETY: this head of this sequence belongs to one span, which one thread takes through its chunks, and the
            // matrix is the only access while it lives.
            let y = || unsafe { out.matrix(&head, start, n) };
            let h = Matrix::new(state, key_dim, value_dim, value_dim);
            multiply(&mut y(), Destination::Overwrite, head.queries(start, n), h);
            dispatch(ReadOutOfChunk {
                head,
                tokens,
                scores,
                scratch: self,
                out,
            });
            let weights = Matrix::new(&self.weights, n, n, n);
            multiply(&mut y(), Destination::Scale(1.0), weights, head.values(start, n));
        }
        dispatch(DecayValues {
            head,
            tokens,
            scratch: self,
        });
        let decayed_values = Matrix::new(&self.decayed_values, n, value_dim, value_dim);
        let mut h = MatrixMut::new(state, key_dim, value_dim, value_dim);
        let decay = Destination::Scale(math::exp_once(self.sums[n] as f32));
        multiply(&mut h, decay, head.keys(start, n).transposed(), decayed_values);
    }
}

/// Scales the rows q_i h₀ of the output by their decay, adds the skip, and fills the weights of the values.
struct ReadOutOfChunk<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scores: &'a [f32],
    scratch: &'a mut ScalarScratch,
    out: SharedOutput<'a>,
}

impl WithSimd for ReadOutOfChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scores,
            scratch,
            out,
        } = self;
        let (scale, skip) = (head.inputs.scale, head.skip());
        let bonus = head.problem.read_out == ReadOut::Bonus;
        for i in 0..n {
            // With a bonus the state is read before the token decays it, and the token itself comes in by the bonus.
            let (sum, reach) = if bonus {
                (scratch.sums[i], i)
            } else {
                (scratch.sums[i + 1], i + 1)
            };
            // SAFETY: as for the matrix over the same rows, which is not alive now.
            let y = unsafe { out.row(&head, start + i) };
            finish_read_out(
                simd,
                y,
                scale * math::exp(simd, sum as f32),
                skip,
                0.0,
                head.value(start + i),
            );
            let (weights, beyond) = scratch.weights[i * n..][..n].split_at_mut(reach);
            let sums = &scratch.sums[1..=reach];
            let terms = scores[i * n..].iter().zip(&scratch.steps).zip(sums);
            for (weight, ((score, step), s)) in weights.iter_mut().zip(terms) {
                *weight = scale * score * step * math::exp(simd, (sum - s) as f32);
            }
            beyond.fill(0.0);
            if bonus {
                let t = start + i;
                beyond[0] =
                    scale * scratch.steps[i] * dot_of_three(simd, head.query(t), head.bonus(), head.key(t));
            }
        }
    }
}

/// Fills the values that enter the state, decayed to the end of the chunk.
struct DecayValues<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut ScalarScratch,
}

impl WithSimd for DecayValues<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scratch,
        } = self;
        let value_dim = head.problem.value_dim;
        let last = scratch.sums[n];
        for (j, decayed) in scratch
            .decayed_values
            .chunks_exact_mut(value_dim)
            .take(n)
            .enumerate()
        {
            let factor = scratch.steps[j] * math::exp(simd, (last - scratch.sums[j + 1]) as f32);
            decayed
                .iter_mut()
                .zip(head.value(start + j))
                .for_each(|(x, v)| *x = factor * v);
        }
    }
}
