//! What the pairs of tokens of a block give each other, and what they give the states around it.

use pulp::{Simd, WithSimd};

use super::super::Sinks;
use super::super::blocks::Constants;
use super::Scratch;
use crate::math;
use crate::recurrence::host::Head;
use crate::recurrence::host::chunked_per_key::BLOCK;
use crate::recurrence::host::lanes::{dot, dot_of_three, load, store};
use crate::recurrence::problem::ReadOut;
use crate::simd::mul_add;

/// Forms from ẏ_i·δ_j v_j, h₀ ẏ_i and ḣ δ_j v_j the weights of the cotangents in u, q̇, k̇, what passes through the decays, and the
/// queries that ḣ₀ takes.
pub(super) struct Pairs<'a> {
    pub(super) head: Head<'a>,
    pub(super) tokens: (usize, usize),
    pub(super) scratch: &'a mut Scratch,
    /// h₀ and ḣ of the end.
    pub(super) states: (&'a [f32], &'a [f32]),
    pub(super) sinks: &'a Sinks<'a>,
    pub(super) constants: &'a mut Constants,
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
