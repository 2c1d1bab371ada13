//! Gradients by the gates of a block from those by its parts, for decays that are one number per head and token.

use pulp::{Simd, WithSimd};

use super::ByHead;
use crate::delta_rule::host::Head;
use crate::delta_rule::host::lanes::{add_product, dot, scale};
use crate::delta_rule::host::parts::{GateGradients, PartCotangents, Parts};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::dispatch;

/// See [`Decays::backward`](crate::delta_rule::host::parts::Decays::backward).
///
/// px_ij = (p_i·x_j) d(i−1, j) gives dp_i += dpx_ij d(i−1, j) x_j and dx_j += dpx_ij d(i−1, j) p_i, both matrix products, and
/// dpx_ij px_ij to ln a_t of every token t that d(i−1, j) spans; likewise the others.
pub(super) fn backward(
    decays: &mut ByHead,
    head: Head,
    tokens: (usize, usize),
    parts: &Parts,
    cotangents: &mut PartCotangents,
    gradients: &mut GateGradients,
) {
    dispatch(DecayBack {
        low_rank: head.is_low_rank(),
        n: tokens.1,
        key_dim: head.problem.key_dim,
        decays,
        parts,
        cotangents,
        gradients,
    });
    let (n, key_dim) = (tokens.1, head.problem.key_dim);
    let vectors = |values| Matrix::new(values, n, key_dim, key_dim);
    let products = |values| Matrix::new(values, n, n, n);
    let add = |into: &mut [f32], a: Matrix, b: Matrix| {
        multiply(
            &mut MatrixMut::new(into, n, key_dim, key_dim),
            Destination::Scale(1.0),
            a,
            b,
        );
    };
    let (q, p, x) = (
        vectors(&parts.gates.q),
        vectors(&parts.gates.p),
        vectors(&parts.gates.x),
    );
    let (dpx, dqx) = (products(&cotangents.px), products(&cotangents.qx));
    add(&mut gradients.q, dqx, x);
    add(&mut gradients.p, dpx, x);
    add(&mut gradients.x, dqx.transposed(), q);
    add(&mut gradients.x, dpx.transposed(), p);
    if head.is_low_rank() {
        let (dpk, dqk) = (products(&cotangents.pk), products(&cotangents.qk));
        add(&mut gradients.q, dqk, head.keys(tokens));
        add(&mut gradients.p, dpk, head.keys(tokens));
        add(&mut gradients.k, dqk.transposed(), q);
        add(&mut gradients.k, dpk.transposed(), p);
    }
}

/// The way back but for the matrix products: gradients through the decayed vectors, and those by ln a; leaves the cotangents of
/// the products multiplied by their decays.
struct DecayBack<'a> {
    low_rank: bool,
    n: usize,
    key_dim: usize,
    decays: &'a mut ByHead,
    parts: &'a Parts,
    cotangents: &'a mut PartCotangents,
    gradients: &'a mut GateGradients,
}

impl WithSimd for DecayBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.log_decay(simd);
        self.vectors();
        self.products();
    }
}

impl DecayBack<'_> {
    /// d ln a_t = dd(n, 0)·d(n, 0) + Σ_{i>t} P̃_i·dP̃_i + Σ_{i≥t} Q̃_i·dQ̃_i + Σ_{j<t} (X̄_j·dX̄_j + K̄_j·dK̄_j)
    ///            + Σ_{j<t} (Σ_{i>t} px_ij dpx_ij + Σ_{i≥t} qx_ij dqx_ij), and likewise pk and qk.
    #[inline(always)]
    fn log_decay<S: Simd>(&mut self, simd: S) {
        let (n, key_dim, low_rank) = (self.n, self.key_dim, self.low_rank);
        let (parts, cotangents) = (self.parts, &*self.cotangents);
        let mut through_state = 0.0;
        for ((decay, rest), d) in parts.decay.iter().zip(&parts.decay_rest).zip(&cotangents.decay) {
            through_state += (decay + rest) * d;
        }
        let (sums, into) = (&mut self.decays.terms, &mut self.gradients.log_decay);
        // What the tokens from t on read of token j, by j.
        sums[..n].fill(0.0);
        let mut from_state = through_state;
        for t in (0..n).rev() {
            // The products p_i are decayed to i − 1: they begin to count one token earlier.
            if t + 1 < n {
                from_state += row_dot(simd, &parts.read_p, &cotangents.read_p, (t + 1, key_dim));
                add_products(simd, &mut sums[..t], (&parts.px, &cotangents.px), (t + 1) * n);
                if low_rank {
                    add_products(simd, &mut sums[..t], (&parts.pk, &cotangents.pk), (t + 1) * n);
                }
            }
            from_state += row_dot(simd, &parts.read_q, &cotangents.read_q, (t, key_dim));
            add_products(simd, &mut sums[..t], (&parts.qx, &cotangents.qx), t * n);
            if low_rank {
                add_products(simd, &mut sums[..t], (&parts.qk, &cotangents.qk), t * n);
            }
            into[t] = from_state + sums[..t].iter().sum::<f32>();
        }
        let mut to_end = 0.0;
        for (t, into) in into.iter_mut().take(n).enumerate() {
            *into += to_end;
            to_end += row_dot(simd, &parts.end_x, &cotangents.end_x, (t, key_dim));
            if low_rank {
                to_end += row_dot(simd, &parts.end_k, &cotangents.end_k, (t, key_dim));
            }
        }
    }

    /// The gradients of q, p, x and k through P̃, Q̃, X̄ and K̄.
    #[inline(always)]
    fn vectors(&mut self) {
        let (n, key_dim) = (self.n, self.key_dim);
        let (cotangents, gradients) = (&*self.cotangents, &mut *self.gradients);
        for i in 0..n {
            let row = i * key_dim..(i + 1) * key_dim;
            let (before, after) = (self.decays.from_start[i], self.decays.from_start[i + 1]);
            let rest = self.decays.between[(n - 1) * n + i];
            scale(
                &mut gradients.p[row.clone()],
                before,
                &cotangents.read_p[row.clone()],
            );
            scale(
                &mut gradients.q[row.clone()],
                after,
                &cotangents.read_q[row.clone()],
            );
            scale(
                &mut gradients.x[row.clone()],
                rest,
                &cotangents.end_x[row.clone()],
            );
            if self.low_rank {
                scale(
                    &mut gradients.k[row.clone()],
                    rest,
                    &cotangents.end_k[row.clone()],
                );
            }
        }
    }

    /// The cotangents of the undecayed products, 0 above their diagonals.
    #[inline(always)]
    fn products(&mut self) {
        let (n, between) = (self.n, &self.decays.between);
        let PartCotangents { px, qx, pk, qk, .. } = &mut *self.cotangents;
        super::decay_products(n, between, px, qx);
        if self.low_rank {
            super::decay_products(n, between, pk, qk);
        }
    }
}

/// sums[j] += products[at + j]·cotangents[at + j].
#[inline(always)]
fn add_products<S: Simd>(simd: S, sums: &mut [f32], (products, cotangents): (&[f32], &[f32]), at: usize) {
    add_product(simd, sums, &products[at..], &cotangents[at..]);
}

/// a_i·b_i of rows i of `width` values.
#[inline(always)]
fn row_dot<S: Simd>(simd: S, a: &[f32], b: &[f32], (i, width): (usize, usize)) -> f32 {
    dot(simd, &a[i * width..][..width], &b[i * width..][..width])
}
