//! Gradients where all keys share one decay: a chunk backwards as matrix products.
//!
//! With S_i the sums of log decays inside of the chunk, r_i = S_i (S_{i-1} with a bonus), s_ij = q_i·k_j, h₀ the entering
//! state and ḣ the derivative by the leaving one:
//!
//! ```text
//! D_ij = scale exp(r_i − S_j)                 for j ≤ i (j < i with a bonus)
//! u_j  = Σ_i D_ij s_ij ẏ_i + exp(S_n − S_j) ḣᵀ k_j                              the derivative by δ_j v_j
//! ṡ_ij = D_ij δ_j ẏ_i·v_j                                                       summed over the heads of a group
//! q̇_i  = Σ_j ṡ_ij k_j + h₀ (scale exp(r_i) ẏ_i)
//! k̇_j  = Σ_i ṡ_ij q_i + ḣ (exp(S_n − S_j) δ_j v_j)
//! ḣ₀   = exp(S_n) ḣ + Σ_i q_i (scale exp(r_i) ẏ_i)ᵀ
//! ```
//!
//! What passes through a_t, and so is the derivative by ln a_t: the pairs s_ij ṡ_ij with j < t ≤ i (t < i with a bonus), the
//! reads q_i·h₀(…) of i ≥ t, the updates δ_j v_j·(…) of j < t, and exp(S_n) ⟨h₀, ḣ⟩.

use pulp::{Simd, WithSimd};

use super::Sinks;
use super::blocks::{Block, Constants};
use super::values::ValueGradients;
use crate::math;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::recurrence::host::Head;
use crate::recurrence::host::chunked::{ScalarScratch, sum_chunk};
use crate::recurrence::host::lanes::{dot, dot_of_three};
use crate::recurrence::problem::{Problem, ReadOut};
use crate::simd::dispatch;

/// All chunks of a block of heads, from the last to the first.
pub(super) fn block(block: &mut Block, chunk_size: usize, sinks: &Sinks) {
    let (problem, time, keys) = (block.first.problem, block.first.time, block.keys);
    if time == 0 {
        return;
    }
    let largest = chunk_size.min(time);
    let states = entering_states(block, chunk_size);
    let mut scratch = Scratch::new(problem, largest);
    for chunk in (0..time.div_ceil(chunk_size)).rev() {
        let start = chunk * chunk_size;
        let tokens = (start, chunk_size.min(time - start));
        scratch.begin(block.first, tokens);
        let count = block.constants.len();
        for (i, (head, _, gradient, constants)) in block.heads().enumerate() {
            let state = &states[(chunk * count + i) * problem.head_state_len()..][..problem.head_state_len()];
            scratch.chunk(head, tokens, state, gradient, sinks, constants);
        }
        // SAFETY: this block's rows of these buffers belong to this thread, and only these two matrices access them.
        let (mut query, mut key) = unsafe { keys.rows(tokens.0, tokens.1) };
        scratch.finish(block.first, tokens, &mut query, &mut key);
    }
}

/// The states that enter the chunks, `[chunks, heads, key_dim, value_dim]`.
fn entering_states(block: &mut Block, chunk_size: usize) -> Vec<f32> {
    let (problem, time) = (block.first.problem, block.first.time);
    let width = block.initial_states.len();
    let mut states = Vec::with_capacity(time.div_ceil(chunk_size) * width);
    states.extend_from_slice(block.initial_states);
    let mut scratch = ScalarScratch::new(chunk_size.min(time), problem.value_dim, false);
    for start in (0..time - chunk_size.min(time)).step_by(chunk_size) {
        let before = states.len() - width;
        states.extend_from_within(before..);
        let entering = &mut states[before + width..];
        for (i, state) in entering.chunks_exact_mut(problem.head_state_len()).enumerate() {
            scratch.chunk(block.first.later(i), (start, chunk_size), &[], state, None);
        }
    }
    states
}

/// Buffers for one chunk. Matrices over pairs of tokens are transposed: row j, column i.
struct Scratch {
    /// S_0 = 0, S_1, …, S_n.
    sums: Vec<f64>,
    /// Step sizes δ_1, …, δ_n of the chunk's tokens.
    steps: Vec<f32>,
    /// Scores s_ij = q_i·k_j.
    scores: Vec<f32>,
    /// ṡ_ij, summed over the heads of the block.
    score_gradients: Vec<f32>,
    /// ẏ_i·v_j, then what passes through the pair, s_ij ṡ_ij.
    products: Vec<f32>,
    /// Decayed scores D_ij s_ij.
    weights: Vec<f32>,
    /// Derivatives u_j by δ_j v_j, `[n, value_dim]`.
    derivatives: Vec<f32>,
    /// scale exp(r_i) ẏ_i, then exp(S_n − S_j) δ_j v_j, `[n, value_dim]`.
    decayed: Vec<f32>,
    /// h₀ (scale exp(r_i) ẏ_i), `[n, key_dim]`.
    reads: Vec<f32>,
    /// q̇ and k̇ of the block, `[n, key_dim]`.
    query: Vec<f32>,
    key: Vec<f32>,
    /// What passes from token j to the end of the chunk, and from its beginning to token i.
    to_end: Vec<f32>,
    from_start: Vec<f32>,
    /// Σ_{j<t} of what passes through pairs, for each i.
    through: Vec<f32>,
}

impl Scratch {
    fn new(problem: &Problem, largest: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        let (pairs, keys, values) = (
            largest * largest,
            largest * problem.key_dim,
            largest * problem.value_dim,
        );
        Self {
            sums: vec![0.0; largest + 1],
            steps: zeros(largest),
            scores: zeros(pairs),
            score_gradients: zeros(pairs),
            products: zeros(pairs),
            weights: zeros(pairs),
            derivatives: zeros(values),
            decayed: zeros(values),
            reads: zeros(keys),
            query: zeros(keys),
            key: zeros(keys),
            to_end: zeros(largest),
            from_start: zeros(largest),
            through: zeros(largest),
        }
    }

    /// What the heads share.
    fn begin(&mut self, first: Head, (start, n): (usize, usize)) {
        let key_dim = first.problem.key_dim;
        let (queries, keys) = (first.queries(start, n), first.keys(start, n));
        let mut scores = MatrixMut::new(&mut self.scores, n, n, n);
        multiply(&mut scores, Destination::Overwrite, keys, queries.transposed());
        self.score_gradients[..n * n].fill(0.0);
        self.query[..n * key_dim].fill(0.0);
        self.key[..n * key_dim].fill(0.0);
    }

    /// Goes back through the chunk for one head, whose `state` enters it; `gradient` is ḣ of its end before and of its beginning after.
    fn chunk(
        &mut self,
        head: Head,
        tokens: (usize, usize),
        state: &[f32],
        gradient: &mut [f32],
        sinks: &Sinks,
        constants: &mut Constants,
    ) {
        let (start, n) = tokens;
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        sum_chunk(head, tokens, &mut self.sums, &mut self.steps);
        let cotangents = head.cotangents(sinks.cotangents, start, n);
        let (queries, keys) = (head.queries(start, n), head.keys(start, n));
        let h = Matrix::new(state, key_dim, value_dim, value_dim);

        let mut products = MatrixMut::new(&mut self.products, n, n, n);
        multiply(
            &mut products,
            Destination::Overwrite,
            head.values(start, n),
            cotangents.transposed(),
        );
        dispatch(Pairs {
            head,
            tokens,
            scratch: self,
            constants,
        });
        {
            let dh = Matrix::new(gradient, key_dim, value_dim, value_dim);
            let mut derivatives = MatrixMut::new(&mut self.derivatives, n, value_dim, value_dim);
            multiply(&mut derivatives, Destination::Overwrite, keys, dh);
        }
        dispatch(DecayUpdates {
            head,
            tokens,
            scratch: self,
        });
        {
            let dh = Matrix::new(gradient, key_dim, value_dim, value_dim);
            let decayed = Matrix::new(&self.decayed, n, value_dim, value_dim);
            let mut key = MatrixMut::new(&mut self.key, n, key_dim, key_dim);
            multiply(&mut key, Destination::Scale(1.0), decayed, dh.transposed());
            let weights = Matrix::new(&self.weights, n, n, n);
            let mut derivatives = MatrixMut::new(&mut self.derivatives, n, value_dim, value_dim);
            multiply(&mut derivatives, Destination::Scale(1.0), weights, cotangents);
        }
        dispatch(ValueGradients {
            head,
            tokens,
            derivatives: &self.derivatives,
            sinks,
            constants,
        });
        dispatch(DecayReads {
            head,
            tokens,
            scratch: self,
            sinks,
        });
        let decayed = Matrix::new(&self.decayed, n, value_dim, value_dim);
        let mut reads = MatrixMut::new(&mut self.reads, n, key_dim, key_dim);
        multiply(&mut reads, Destination::Overwrite, decayed, h.transposed());
        dispatch(LogDecayGradients {
            head,
            tokens,
            scratch: self,
            states: (state, gradient),
            sinks,
            constants,
        });
        let decayed = Matrix::new(&self.decayed, n, value_dim, value_dim);
        let mut dh = MatrixMut::new(gradient, key_dim, value_dim, value_dim);
        let decay = Destination::Scale(math::exp_once(self.sums[n] as f32));
        multiply(&mut dh, decay, queries.transposed(), decayed);
    }

    /// Adds what goes through the scores and hands q̇ and k̇ over.
    fn finish(
        &mut self,
        first: Head,
        (start, n): (usize, usize),
        query: &mut MatrixMut,
        key: &mut MatrixMut,
    ) {
        let key_dim = first.problem.key_dim;
        let gradients = Matrix::new(&self.score_gradients, n, n, n);
        let mut sum = MatrixMut::new(&mut self.query, n, key_dim, key_dim);
        multiply(
            &mut sum,
            Destination::Scale(1.0),
            gradients.transposed(),
            first.keys(start, n),
        );
        let mut sum = MatrixMut::new(&mut self.key, n, key_dim, key_dim);
        multiply(
            &mut sum,
            Destination::Scale(1.0),
            gradients,
            first.queries(start, n),
        );
        query.copy_from(&self.query[..n * key_dim]);
        key.copy_from(&self.key[..n * key_dim]);
    }
}

/// Forms from ẏ_i·v_j the weights D_ij s_ij, what passes through each pair, and ṡ_ij; and all of the bonus.
struct Pairs<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
    constants: &'a mut Constants,
}

impl WithSimd for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scratch,
            constants,
        } = self;
        let scale = head.inputs.scale;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        let key_dim = head.problem.key_dim;
        for j in 0..n {
            let (row, first) = (j * n..(j + 1) * n, j + usize::from(bonus));
            let (weights, products) = (
                &mut scratch.weights[row.clone()],
                &mut scratch.products[row.clone()],
            );
            let (scores, gradients) = (&scratch.scores[row.clone()], &mut scratch.score_gradients[row]);
            let (sum, step) = (scratch.sums[j + 1], scratch.steps[j]);
            let present = products[j];
            weights[..first].fill(0.0);
            products[..first].fill(0.0);
            // r_i = S_i, or S_{i-1} with a bonus.
            let reach = &scratch.sums[first + 1 - usize::from(bonus)..];
            let pairs = weights[first..]
                .iter_mut()
                .zip(&mut products[first..])
                .zip(&scores[first..])
                .zip(&mut gradients[first..])
                .zip(reach);
            for ((((weight, product), score), gradient), r) in pairs {
                let decay = scale * math::exp(simd, (r - sum) as f32);
                let score_gradient = decay * step * *product;
                *weight = decay * score;
                *product = score * score_gradient;
                *gradient += score_gradient;
            }
            if bonus {
                let t = start + j;
                let (query, key, u) = (head.query(t), head.key(t), head.bonus());
                weights[j] = scale * dot_of_three(simd, query, u, key);
                let c = scale * step * present;
                let (dq, dk) = (
                    &mut scratch.query[j * key_dim..][..key_dim],
                    &mut scratch.key[j * key_dim..][..key_dim],
                );
                for n in 0..key_dim {
                    dq[n] += c * u[n] * key[n];
                    dk[n] += c * u[n] * query[n];
                    constants.bonus[n] += f64::from(c * query[n] * key[n]);
                }
            }
        }
    }
}

/// Decays ḣᵀ k_j and v_j to the end of the chunk; what passes from each token to there.
struct DecayUpdates<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
}

impl WithSimd for DecayUpdates<'_> {
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
        let rows = scratch
            .derivatives
            .chunks_exact_mut(value_dim)
            .zip(scratch.decayed.chunks_exact_mut(value_dim));
        for (j, (derivative, decayed)) in rows.take(n).enumerate() {
            let value = head.value(start + j);
            let decay = math::exp(simd, (last - scratch.sums[j + 1]) as f32);
            let factor = scratch.steps[j] * decay;
            scratch.to_end[j] = factor * dot(simd, value, derivative);
            for ((u, x), v) in derivative.iter_mut().zip(decayed).zip(value) {
                *u *= decay;
                *x = factor * v;
            }
        }
    }
}

/// Fills `decayed` with scale exp(r_i) ẏ_i, the cotangents as they reach the entering state.
struct DecayReads<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
    sinks: &'a Sinks<'a>,
}

impl WithSimd for DecayReads<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scratch,
            sinks,
        } = self;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        let rows = scratch.decayed.chunks_exact_mut(head.problem.value_dim);
        for (i, decayed) in rows.take(n).enumerate() {
            let sum = scratch.sums[i + 1 - usize::from(bonus)];
            let factor = head.inputs.scale * math::exp(simd, sum as f32);
            let cotangent = head.cotangent(sinks.cotangents, start + i);
            decayed
                .iter_mut()
                .zip(cotangent)
                .for_each(|(x, y)| *x = factor * y);
        }
    }
}

/// Adds the reads to q̇, and sums what passes through each a_t.
struct LogDecayGradients<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
    /// h₀ and ḣ of the end.
    states: (&'a [f32], &'a [f32]),
    sinks: &'a Sinks<'a>,
    constants: &'a mut Constants,
}

impl WithSimd for LogDecayGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scratch,
            states: (state, gradient),
            sinks,
            constants,
        } = self;
        let key_dim = head.problem.key_dim;
        let rows = scratch
            .reads
            .chunks_exact(key_dim)
            .zip(scratch.query.chunks_exact_mut(key_dim));
        for (i, (read, query)) in rows.take(n).enumerate() {
            scratch.from_start[i] = dot(simd, head.query(start + i), read);
            query.iter_mut().zip(read).for_each(|(sum, x)| *sum += x);
        }
        if !sinks.wants_log_decay {
            return;
        }
        let bonus = usize::from(head.problem.read_out == ReadOut::Bonus);
        let whole = math::exp(simd, scratch.sums[n] as f32) * dot(simd, state, gradient);
        let through = &mut scratch.through[..n];
        // Reads of the entering state pass through as many a_t as pairs do.
        through.copy_from_slice(&scratch.from_start[..n]);
        let mut updates = whole;
        for t in 0..n {
            let passing = through[(t + bonus).min(n)..].iter().sum::<f32>() + updates;
            if let Some(log_decay) = sinks.log_decay {
                // SAFETY: one thread takes this head of this sequence through its chunks, and the row is let go at once.
                unsafe { log_decay.row(&head, start + t) }.fill(passing);
            } else if let [sum] = &mut constants.log_decay[..] {
                *sum += f64::from(passing);
            }
            updates += scratch.to_end[t];
            through
                .iter_mut()
                .zip(&scratch.products[t * n..])
                .for_each(|(sum, x)| *sum += x);
        }
    }
}
