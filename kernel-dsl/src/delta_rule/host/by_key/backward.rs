//! From the parts of a block back to its gates, for decays that differ from key to key.
//!
//! A vector e that is inserted at token j and decays, e(i) = a_i∘e(i−1), is read by q_i after and by p_i before each decay.
//! So its cotangent c runs back through the tokens i = n, …, j + 1 as
//!
//! ```text
//! c ← c + dqx_ij q_i      d ln a_i += c∘e(i)      c ← a_i∘c      c ← c + dpx_ij p_i
//! ```
//!
//! beginning with that of e(n), while dq_i += dqx_ij e(i) and dp_i += dpx_ij e(i−1). The state that enters the block decays
//! in the same way, with all ones for e.

use pulp::{Simd, WithSimd};

use super::BLOCK;
use crate::delta_rule::host::Head;
use crate::delta_rule::host::lanes::{fma, load, mul, splat, store};
use crate::delta_rule::host::parts::{GateGradients, PartCotangents, Parts};
use crate::simd::dispatch;

/// See [`Decays::backward`](crate::delta_rule::host::parts::Decays::backward).
pub(super) fn backward(
    head: Head,
    tokens: (usize, usize),
    parts: &Parts,
    cotangents: &PartCotangents,
    gradients: &mut GateGradients,
) {
    dispatch(Back {
        head,
        tokens,
        parts,
        cotangents,
        gradients,
    });
}

struct Back<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    parts: &'a Parts,
    cotangents: &'a PartCotangents,
    gradients: &'a mut GateGradients,
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (key_dim, lanes) = (self.head.problem.key_dim, S::F32_LANES);
        let mut column = 0;
        while key_dim - column >= 2 * lanes {
            self.columns::<S, 2, false>(simd, (column, 2 * lanes));
            column += 2 * lanes;
        }
        while key_dim - column >= lanes {
            self.columns::<S, 1, false>(simd, (column, lanes));
            column += lanes;
        }
        if column < key_dim {
            self.columns::<S, 1, true>(simd, (column, key_dim - column));
        }
    }
}

impl Back<'_> {
    /// All gradients over `width` keys from `column` on, which are `N` vectors, or part of one.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        (column, width): (usize, usize),
    ) {
        let mut columns = Columns::<S, N, PARTIAL> {
            simd,
            key_dim: self.head.problem.key_dim,
            column,
            width,
            n: self.tokens.1,
            parts: self.parts,
            history: [[simd.splat_f32s(0.0); N]; BLOCK],
        };
        columns.entering_state(self.cotangents, self.gradients);
        let x = (&self.parts.gates.x[..], &self.cotangents.end_x[..]);
        let products = (&self.cotangents.px[..], &self.cotangents.qx[..]);
        for j in 0..columns.n {
            let inserted = columns.part(x.0, j);
            let dx = columns.inserted(j, inserted, x.1, products, self.gradients);
            columns.set(&mut self.gradients.x, j, dx);
        }
        if !self.head.is_low_rank() {
            return;
        }
        let products = (&self.cotangents.pk[..], &self.cotangents.qk[..]);
        for j in 0..columns.n {
            let key = &self.head.key(self.tokens.0 + j)[column..][..width];
            let inserted = load::<S, N, PARTIAL>(simd, key);
            let dk = columns.inserted(j, inserted, &self.cotangents.end_k, products, self.gradients);
            columns.set(&mut self.gradients.k, j, dk);
        }
    }
}

/// Some columns of all vectors over keys.
struct Columns<'a, S: Simd, const N: usize, const PARTIAL: bool> {
    simd: S,
    key_dim: usize,
    column: usize,
    width: usize,
    n: usize,
    parts: &'a Parts,
    /// e(i) after the decay of each token.
    history: [[S::f32s; N]; BLOCK],
}

impl<S: Simd, const N: usize, const PARTIAL: bool> Columns<'_, S, N, PARTIAL> {
    /// These columns of vector `i`.
    #[inline(always)]
    fn part(&self, vectors: &[f32], i: usize) -> [S::f32s; N] {
        let values = &vectors[i * self.key_dim + self.column..][..self.width];
        load::<S, N, PARTIAL>(self.simd, values)
    }

    #[inline(always)]
    fn set(&self, vectors: &mut [f32], i: usize, to: [S::f32s; N]) {
        let values = &mut vectors[i * self.key_dim + self.column..][..self.width];
        store::<S, N, PARTIAL>(self.simd, values, to);
    }

    /// vectors[i] += factor∘x.
    #[inline(always)]
    fn add(&self, vectors: &mut [f32], i: usize, factor: [S::f32s; N], x: [S::f32s; N]) {
        let sum = self.fma(factor, x, self.part(vectors, i));
        self.set(vectors, i, sum);
    }

    #[inline(always)]
    fn mul(&self, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
        mul(self.simd, a, b)
    }

    #[inline(always)]
    fn fma(&self, a: [S::f32s; N], b: [S::f32s; N], sum: [S::f32s; N]) -> [S::f32s; N] {
        fma(self.simd, a, b, sum)
    }

    #[inline(always)]
    fn splat(&self, x: f32) -> [S::f32s; N] {
        splat(self.simd, x)
    }

    /// Sets dq, dp and d ln a to what they owe to reading S₀, and d ln a to what it owes to S₀ in S_n.
    #[inline(always)]
    fn entering_state(&mut self, cotangents: &PartCotangents, gradients: &mut GateGradients) {
        let gates = &self.parts.gates;
        let mut product = self.splat(1.0);
        for i in 0..self.n {
            product = self.mul(product, self.part(&gates.a, i));
            self.history[i] = product;
        }
        let mut c = self.part(&cotangents.decay, 0);
        for i in (0..self.n).rev() {
            let read = self.part(&cotangents.read_q, i);
            self.set(&mut gradients.q, i, self.mul(read, self.history[i]));
            c = self.fma(self.part(&gates.q, i), read, c);
            self.set(&mut gradients.log_decay, i, self.mul(c, self.history[i]));
            c = self.mul(c, self.part(&gates.a, i));
            let read = self.part(&cotangents.read_p, i);
            let before = if i == 0 {
                self.splat(1.0)
            } else {
                self.history[i - 1]
            };
            self.set(&mut gradients.p, i, self.mul(read, before));
            c = self.fma(self.part(&gates.p, i), read, c);
        }
    }

    /// Adds to dq, dp and d ln a what they owe to `inserted`, which was inserted at token `j`; returns its own gradient.
    #[inline(always)]
    fn inserted(
        &mut self,
        j: usize,
        inserted: [S::f32s; N],
        ends: &[f32],
        (of_p, of_q): (&[f32], &[f32]),
        gradients: &mut GateGradients,
    ) -> [S::f32s; N] {
        let (gates, n) = (&self.parts.gates, self.n);
        self.history[j] = inserted;
        for i in j + 1..n {
            self.history[i] = self.mul(self.history[i - 1], self.part(&gates.a, i));
        }
        let mut c = self.part(ends, j);
        for i in (j + 1..n).rev() {
            let (dp, dq) = (self.splat(of_p[i * n + j]), self.splat(of_q[i * n + j]));
            self.add(&mut gradients.q, i, dq, self.history[i]);
            c = self.fma(dq, self.part(&gates.q, i), c);
            self.add(&mut gradients.log_decay, i, c, self.history[i]);
            c = self.mul(c, self.part(&gates.a, i));
            self.add(&mut gradients.p, i, dp, self.history[i - 1]);
            c = self.fma(dp, self.part(&gates.p, i), c);
        }
        let dq = self.splat(of_q[j * n + j]);
        self.add(&mut gradients.q, j, dq, inserted);
        self.fma(dq, self.part(&gates.q, j), c)
    }
}
