//! Decays that differ from key to key: a block of at most 16 tokens backwards.
//!
//! With Π_{j<s≤i} a_s formed factor by factor (never divided), r = i (i − 1 with a bonus), h₀ the state that enters the block
//! and ḣ the derivative by the one that leaves it; all products with a_s are per key:
//!
//! ```text
//! x_ij = scale δ_j ẏ_i·v_j                                   for j ≤ i (j < i with a bonus)
//! u_j  = scale Σ_i (q_i · k_j ∘ Π_{j<s≤r} a_s) ẏ_i  +  ḣᵀ (k_j ∘ Π_{s>j} a_s)        the derivative by δ_j v_j
//! q̇_i  = Σ_j x_ij Π_{j<s≤r} a_s ∘ k_j  +  scale Π_{s≤r} a_s ∘ h₀ ẏ_i
//! k̇_j  = Σ_i x_ij Π_{j<s≤r} a_s ∘ q_i  +  Π_{s>j} a_s ∘ ḣ (δ_j v_j)
//! ḣ₀   = Π_s a_s ∘ ḣ + Σ_i (scale Π_{s≤r} a_s ∘ q_i) ẏ_iᵀ
//! ```
//!
//! For one j, w_t = Σ_{i≥t} x_ij Π_{t<s≤i} a_s ∘ q_i comes from the end by w_t = x_tj q_t + a_{t+1} ∘ w_{t+1}: it is the
//! pairs' part of k̇_j at t = j, and (Π_{j<s≤t} a_s ∘ k_j) ∘ w_t is what passes from j through a_t. To the latter come the
//! parts with h₀ and ḣ: q_i∘q̇_i of the reads by i ≥ t, k_j∘k̇_j of the updates by j < t, and Π a_s ∘ Σ_p h₀ ḣ.

use pulp::{Simd, WithSimd};

use super::Sinks;
use super::blocks::{Block, Constants};
use super::values::ValueGradients;
use crate::math;
use crate::recurrence::host::Head;
use crate::recurrence::host::chunked_per_key::{BLOCK, DecayState};
use crate::recurrence::host::lanes::{dot, dot_of_three, load, store};
use crate::recurrence::host::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::recurrence::problem::{Problem, ReadOut};
use crate::simd::{dispatch, mul_add};

/// All tokens of a block of heads, from the last to the first.
pub(super) fn block(block: &mut Block, chunk_size: usize, sinks: &Sinks) {
    let (problem, time, keys) = (block.first.problem, block.first.time, block.keys);
    if time == 0 {
        return;
    }
    let (len, size) = (problem.head_state_len(), BLOCK.min(chunk_size).min(time));
    let mut scratch = Scratch::new(problem, size);
    for (i, (head, initial, gradient, constants)) in block.heads().enumerate() {
        let states = scratch.entering_states(head, size, initial);
        for (index, state) in states.chunks_exact(len).enumerate().rev() {
            let tokens = (index * size, size.min(time - index * size));
            scratch.tokens(head, tokens, state, gradient, sinks, constants);
            // SAFETY: this block's rows of these buffers belong to this thread, and only these two matrices access them.
            let (mut query, mut key) = unsafe { keys.rows(tokens.0, tokens.1) };
            let count = tokens.1 * problem.key_dim;
            if i == 0 {
                query.copy_from(&scratch.query[..count]);
                key.copy_from(&scratch.key[..count]);
            } else {
                query.add(&scratch.query[..count]);
                key.add(&scratch.key[..count]);
            }
        }
    }
}

/// Buffers for one block of tokens of one head. Matrices over pairs of tokens are transposed: row j, column i.
struct Scratch {
    /// a_t, `[n, key_dim]`.
    decay: Vec<f32>,
    /// Σ ln a_t over the block, `[key_dim]`.
    log_decay_sum: Vec<f32>,
    /// What passes through all decays of the block, `[key_dim]`.
    whole: Vec<f32>,
    /// Π_{s≤r} a_s and Π_{s>j} a_s, `[n, key_dim]`.
    from_start: Vec<f32>,
    to_end: Vec<f32>,
    /// q and k with those products, `[n, key_dim]`.
    decayed: Vec<f32>,
    /// x_ij.
    products: Vec<f32>,
    /// scale q_i · k_j ∘ Π_{j<s≤r} a_s.
    weights: Vec<f32>,
    /// δ_j v_j and u_j, `[n, value_dim]`.
    values: Vec<f32>,
    derivatives: Vec<f32>,
    /// q̇, k̇ and what passes through a, `[n, key_dim]`.
    query: Vec<f32>,
    key: Vec<f32>,
    passing: Vec<f32>,
}

impl Scratch {
    fn new(problem: &Problem, size: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        let (keys, values) = (size * problem.key_dim, size * problem.value_dim);
        Self {
            decay: zeros(keys),
            log_decay_sum: zeros(problem.key_dim),
            whole: zeros(problem.key_dim),
            from_start: zeros(keys),
            to_end: zeros(keys),
            decayed: zeros(keys),
            products: zeros(size * size),
            weights: zeros(size * size),
            values: zeros(values),
            derivatives: zeros(values),
            query: zeros(keys),
            key: zeros(keys),
            passing: zeros(keys),
        }
    }

    /// The states that enter each block of `size` tokens, `[blocks, key_dim, value_dim]`.
    fn entering_states(&mut self, head: Head, size: usize, initial: &[f32]) -> Vec<f32> {
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        let mut states = Vec::with_capacity(head.time.div_ceil(size) * initial.len());
        states.extend_from_slice(initial);
        for start in (0..head.time - size).step_by(size) {
            states.extend_from_within(states.len() - initial.len()..);
            let before = states.len() - initial.len();
            let state = &mut states[before..];
            let tokens = (start, size);
            dispatch(Decays {
                head,
                tokens,
                scratch: self,
            });
            dispatch(DecayState {
                state: &mut *state,
                log_decay_sum: &self.log_decay_sum,
            });
            let keys = Matrix::new(&self.decayed, size, key_dim, key_dim);
            let values = Matrix::new(&self.values, size, value_dim, value_dim);
            let mut h = MatrixMut::new(state, key_dim, value_dim, value_dim);
            multiply(&mut h, Destination::Scale(1.0), keys.transposed(), values);
        }
        states
    }

    /// One block of tokens; `state` enters it, `gradient` is ḣ of its end before and of its beginning after.
    fn tokens(
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
        let cotangents = head.cotangents(sinks.cotangents, start, n);
        dispatch(Decays {
            head,
            tokens,
            scratch: self,
        });
        let h = Matrix::new(state, key_dim, value_dim, value_dim);
        let mut query = MatrixMut::new(&mut self.query, n, key_dim, key_dim);
        multiply(&mut query, Destination::Overwrite, cotangents, h.transposed());
        {
            let dh = Matrix::new(gradient, key_dim, value_dim, value_dim);
            let values = Matrix::new(&self.values, n, value_dim, value_dim);
            let mut key = MatrixMut::new(&mut self.key, n, key_dim, key_dim);
            multiply(&mut key, Destination::Overwrite, values, dh.transposed());
            let keys = Matrix::new(&self.decayed, n, key_dim, key_dim);
            let mut derivatives = MatrixMut::new(&mut self.derivatives, n, value_dim, value_dim);
            multiply(&mut derivatives, Destination::Overwrite, keys, dh);
            let mut products = MatrixMut::new(&mut self.products, n, n, n);
            multiply(
                &mut products,
                Destination::Overwrite,
                values,
                cotangents.transposed(),
            );
        }
        dispatch(Pairs {
            head,
            tokens,
            scratch: self,
            states: (state, gradient),
            sinks,
            constants,
        });
        let weights = Matrix::new(&self.weights, n, n, n);
        let mut derivatives = MatrixMut::new(&mut self.derivatives, n, value_dim, value_dim);
        multiply(&mut derivatives, Destination::Scale(1.0), weights, cotangents);
        dispatch(ValueGradients {
            head,
            tokens,
            derivatives: &self.derivatives,
            sinks,
            constants,
        });
        dispatch(DecayState {
            state: &mut *gradient,
            log_decay_sum: &self.log_decay_sum,
        });
        let queries = Matrix::new(&self.decayed, n, key_dim, key_dim);
        let mut dh = MatrixMut::new(gradient, key_dim, value_dim, value_dim);
        multiply(&mut dh, Destination::Scale(1.0), queries.transposed(), cotangents);
    }
}

/// Fills the decays and their products, δ_j v_j, and k_j ∘ Π_{s>j} a_s.
struct Decays<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
}

impl WithSimd for Decays<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            scratch,
        } = self;
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        for (i, decay) in scratch.decay.chunks_exact_mut(key_dim).take(n).enumerate() {
            let log_decay = head.log_decay(start + i);
            decay
                .iter_mut()
                .zip(log_decay)
                .for_each(|(a, g)| *a = math::exp(simd, *g));
        }
        let lanes = S::F32_LANES;
        let whole = key_dim - key_dim % lanes;
        for column in (0..whole).step_by(lanes) {
            decay_products::<S, false>(simd, head, (start, n), scratch, (column, lanes));
        }
        if whole < key_dim {
            decay_products::<S, true>(simd, head, (start, n), scratch, (whole, key_dim - whole));
        }
        for (i, values) in scratch.values.chunks_exact_mut(value_dim).take(n).enumerate() {
            let step = head.step_size(start + i);
            let value = head.value(start + i);
            values.iter_mut().zip(value).for_each(|(x, v)| *x = step * v);
        }
    }
}

/// The products of the decays for one vector of keys from `column` on, or `width` of them as part of one. Vectors by hand: over
/// so many slices the compiler does not.
#[inline(always)]
fn decay_products<S: Simd, const PARTIAL: bool>(
    simd: S,
    head: Head,
    (start, n): (usize, usize),
    scratch: &mut Scratch,
    (column, width): (usize, usize),
) {
    let key_dim = head.problem.key_dim;
    let bonus = head.problem.read_out == ReadOut::Bonus;
    let (mut sum, mut product) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    for i in 0..n {
        let at = i * key_dim + column;
        let log_decay = load::<S, PARTIAL>(simd, &head.log_decay(start + i)[column..][..width], 0);
        let after = simd.mul_f32s(
            product,
            load::<S, PARTIAL>(simd, &scratch.decay[at..][..width], 0),
        );
        let read = if bonus { product } else { after };
        store::<S, PARTIAL>(simd, &mut scratch.from_start[at..][..width], 0, read);
        sum = simd.add_f32s(sum, log_decay);
        product = after;
    }
    store::<S, PARTIAL>(simd, &mut scratch.log_decay_sum[column..][..width], 0, sum);
    let mut product = simd.splat_f32s(1.0);
    for i in (0..n).rev() {
        let at = i * key_dim + column;
        let key = load::<S, PARTIAL>(simd, &head.key(start + i)[column..][..width], 0);
        store::<S, PARTIAL>(simd, &mut scratch.to_end[at..][..width], 0, product);
        store::<S, PARTIAL>(
            simd,
            &mut scratch.decayed[at..][..width],
            0,
            simd.mul_f32s(product, key),
        );
        product = simd.mul_f32s(
            product,
            load::<S, PARTIAL>(simd, &scratch.decay[at..][..width], 0),
        );
    }
}

/// From ẏ_i·δ_j v_j, h₀ ẏ_i and ḣ δ_j v_j: the weights of the cotangents in u, q̇, k̇, what passes through the decays, and the
/// queries that ḣ₀ takes.
struct Pairs<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    scratch: &'a mut Scratch,
    /// h₀ and ḣ of the end.
    states: (&'a [f32], &'a [f32]),
    sinks: &'a Sinks<'a>,
    constants: &'a mut Constants,
}

impl WithSimd for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (_, n) = self.tokens;
        let key_dim = self.head.problem.key_dim;
        let bonus = self.head.problem.read_out == ReadOut::Bonus;
        self.through_states(simd);
        let scale = self.head.inputs.scale;
        for x in &mut self.scratch.products[..n * n] {
            *x *= scale;
        }
        self.scratch.weights[..n * n].fill(0.0);
        let lanes = S::F32_LANES;
        let mut column = 0;
        // As many keys at a time as 512-bit vectors take by four: every sum over lanes costs more than the products before it.
        if lanes < 16 {
            while key_dim - column >= 8 * lanes {
                self.columns::<S, 8, false>(simd, column, 8 * lanes);
                column += 8 * lanes;
            }
        }
        while key_dim - column >= 4 * lanes {
            self.columns::<S, 4, false>(simd, column, 4 * lanes);
            column += 4 * lanes;
        }
        while key_dim - column >= lanes {
            self.columns::<S, 1, false>(simd, column, lanes);
            column += lanes;
        }
        if column < key_dim {
            self.columns::<S, 1, true>(simd, column, key_dim - column);
        }
        if bonus {
            self.bonus(simd);
        }
        self.hand_over();
    }
}

impl Pairs<'_> {
    /// The parts with h₀ and ḣ.
    #[inline(always)]
    fn through_states<S: Simd>(&mut self, simd: S) {
        let (key_dim, value_dim) = (self.head.problem.key_dim, self.head.problem.value_dim);
        let (state, gradient) = self.states;
        let rows = state
            .chunks_exact(value_dim)
            .zip(gradient.chunks_exact(value_dim));
        let keys = rows.zip(&mut self.scratch.whole).zip(&self.scratch.log_decay_sum);
        for (((h, dh), whole), sum) in keys {
            *whole = math::exp(simd, *sum) * dot(simd, h, dh);
        }
        let lanes = S::F32_LANES;
        let full = key_dim - key_dim % lanes;
        for column in (0..full).step_by(lanes) {
            self.through_states_columns::<S, false>(simd, column, lanes);
        }
        if full < key_dim {
            self.through_states_columns::<S, true>(simd, full, key_dim - full);
        }
    }

    /// [`Pairs::through_states`] for one vector of keys from `column` on, or `width` of them as part of one.
    #[inline(always)]
    fn through_states_columns<S: Simd, const PARTIAL: bool>(&mut self, simd: S, column: usize, width: usize) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        let scale = simd.splat_f32s(head.inputs.scale);
        let scratch = &mut *self.scratch;
        // Reads by later tokens, from the end.
        let mut sum = simd.splat_f32s(0.0);
        for t in (0..n).rev() {
            let at = t * key_dim + column;
            let query = load::<S, PARTIAL>(simd, &head.query(start + t)[column..][..width], 0);
            let factor = simd.mul_f32s(
                scale,
                load::<S, PARTIAL>(simd, &scratch.from_start[at..][..width], 0),
            );
            let gradient = simd.mul_f32s(factor, load::<S, PARTIAL>(simd, &scratch.query[at..][..width], 0));
            store::<S, PARTIAL>(simd, &mut scratch.query[at..][..width], 0, gradient);
            store::<S, PARTIAL>(
                simd,
                &mut scratch.decayed[at..][..width],
                0,
                simd.mul_f32s(factor, query),
            );
            let after = sum;
            sum = mul_add(simd, gradient, query, sum);
            let passing = if bonus { after } else { sum };
            store::<S, PARTIAL>(simd, &mut scratch.passing[at..][..width], 0, passing);
        }
        // What passes through the whole block, and updates by earlier tokens.
        let mut sum = load::<S, PARTIAL>(simd, &scratch.whole[column..][..width], 0);
        for t in 0..n {
            let at = t * key_dim + column;
            let key = load::<S, PARTIAL>(simd, &head.key(start + t)[column..][..width], 0);
            let product = load::<S, PARTIAL>(simd, &scratch.to_end[at..][..width], 0);
            let gradient = simd.mul_f32s(product, load::<S, PARTIAL>(simd, &scratch.key[at..][..width], 0));
            store::<S, PARTIAL>(simd, &mut scratch.key[at..][..width], 0, gradient);
            let later = load::<S, PARTIAL>(simd, &scratch.passing[at..][..width], 0);
            store::<S, PARTIAL>(
                simd,
                &mut scratch.passing[at..][..width],
                0,
                simd.add_f32s(later, sum),
            );
            sum = mul_add(simd, gradient, key, sum);
        }
    }

    /// The pairs' part for `width` keys from `column` on, which are `N` vectors, or part of one.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        column: usize,
        width: usize,
    ) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        let bonus = usize::from(head.problem.read_out == ReadOut::Bonus);
        let zero = simd.splat_f32s(0.0);
        // k_j decayed to each token.
        let mut decayed_keys = [[zero; N]; BLOCK];
        for j in 0..n {
            let key = &head.key(start + j)[column..][..width];
            let mut decayed = [zero; N];
            for (c, decayed) in decayed.iter_mut().enumerate() {
                *decayed = load::<S, PARTIAL>(simd, key, c);
            }
            decayed_keys[j] = decayed;
            for (i, decayed_key) in decayed_keys.iter_mut().enumerate().take(n).skip(j + 1) {
                let decay = &self.scratch.decay[i * key_dim + column..][..width];
                for (c, decayed) in decayed.iter_mut().enumerate() {
                    *decayed = simd.mul_f32s(*decayed, load::<S, PARTIAL>(simd, decay, c));
                }
                *decayed_key = decayed;
            }
            for i in j + bonus..n {
                self.read::<S, N, PARTIAL>(simd, (i, j), &decayed_keys[i - bonus], (column, width));
            }
            self.update::<S, N, PARTIAL>(simd, j, &decayed_keys, (column, width));
        }
    }

    /// Token i reads k_j, `decayed`: its weight and its part of q̇_i.
    #[inline(always)]
    fn read<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        (i, j): (usize, usize),
        decayed: &[S::f32s; N],
        (column, width): (usize, usize),
    ) {
        let (start, n) = self.tokens;
        let key_dim = self.head.problem.key_dim;
        let x = simd.splat_f32s(self.scratch.products[j * n + i]);
        let query = &self.head.query(start + i)[column..][..width];
        let gradient = &mut self.scratch.query[i * key_dim + column..][..width];
        let mut sum = simd.splat_f32s(0.0);
        for (c, &decayed) in decayed.iter().enumerate() {
            sum = mul_add(simd, load::<S, PARTIAL>(simd, query, c), decayed, sum);
            let before = load::<S, PARTIAL>(simd, gradient, c);
            store::<S, PARTIAL>(simd, gradient, c, mul_add(simd, x, decayed, before));
        }
        self.scratch.weights[j * n + i] += self.head.inputs.scale * simd.reduce_sum_f32s(sum);
    }

    /// What later tokens give to k̇_j, and what passes from j through their decays.
    #[inline(always)]
    fn update<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        j: usize,
        decayed_keys: &[[S::f32s; N]; BLOCK],
        (column, width): (usize, usize),
    ) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        let bonus = usize::from(head.problem.read_out == ReadOut::Bonus);
        let mut later = [simd.splat_f32s(0.0); N];
        for t in (j..n).rev() {
            if t + bonus < n {
                let x = simd.splat_f32s(self.scratch.products[j * n + t + bonus]);
                let query = &head.query(start + t + bonus)[column..][..width];
                for (c, later) in later.iter_mut().enumerate() {
                    *later = mul_add(simd, x, load::<S, PARTIAL>(simd, query, c), *later);
                }
            }
            if t == j {
                break;
            }
            let decay = &self.scratch.decay[t * key_dim + column..][..width];
            let passing = &mut self.scratch.passing[t * key_dim + column..][..width];
            for (c, later) in later.iter_mut().enumerate() {
                let before = load::<S, PARTIAL>(simd, passing, c);
                let after = mul_add(simd, decayed_keys[t][c], *later, before);
                store::<S, PARTIAL>(simd, passing, c, after);
                *later = simd.mul_f32s(*later, load::<S, PARTIAL>(simd, decay, c));
            }
        }
        let gradient = &mut self.scratch.key[j * key_dim + column..][..width];
        for (c, &later) in later.iter().enumerate() {
            let before = load::<S, PARTIAL>(simd, gradient, c);
            store::<S, PARTIAL>(simd, gradient, c, simd.add_f32s(before, later));
        }
    }

    /// What the present token gives by the bonus.
    #[inline(always)]
    fn bonus<S: Simd>(&mut self, simd: S) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        for j in 0..n {
            let t = start + j;
            let (query, key, u) = (head.query(t), head.key(t), head.bonus());
            let c = self.scratch.products[j * n + j];
            self.scratch.weights[j * n + j] = head.inputs.scale * dot_of_three(simd, query, u, key);
            let (dq, dk) = (
                &mut self.scratch.query[j * key_dim..][..key_dim],
                &mut self.scratch.key[j * key_dim..][..key_dim],
            );
            for n in 0..key_dim {
                dq[n] += c * u[n] * key[n];
                dk[n] += c * u[n] * query[n];
                self.constants.bonus[n] += f64::from(c * query[n] * key[n]);
            }
        }
    }

    /// Gives what passes through the decays to their gradients.
    #[inline(always)]
    fn hand_over(&mut self) {
        let (head, (start, n)) = (self.head, self.tokens);
        if !self.sinks.wants_log_decay {
            return;
        }
        let rows = self.scratch.passing.chunks_exact(head.problem.key_dim);
        for (t, passing) in rows.take(n).enumerate() {
            if let Some(log_decay) = self.sinks.log_decay {
                // SAFETY: one thread takes this head of this sequence through its blocks, and the row is let go at once.
                unsafe { log_decay.row(&head, start + t) }.copy_from_slice(passing);
            } else {
                let sums = self.constants.log_decay.iter_mut().zip(passing);
                sums.for_each(|(sum, x)| *sum += f64::from(*x));
            }
        }
    }
}
