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

mod pairs;

use pulp::{Simd, WithSimd};

use self::pairs::Pairs;
use super::Sinks;
use super::blocks::{Block, Constants};
use super::values::ValueGradients;
use crate::math;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::recurrence::host::Head;
use crate::recurrence::host::chunked_per_key::{BLOCK, DecayState};
use crate::recurrence::host::lanes::{load, store};
use crate::recurrence::problem::{Problem, ReadOut};
use crate::simd::dispatch;

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
    /// Decays a_t of the block's tokens, `[n, key_dim]`.
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
    /// Products x_ij = scale δ_j ẏ_i·v_j.
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

    /// Goes back through one block of tokens; `state` enters it, `gradient` is ḣ of its end before and of its beginning after.
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
