//! The parts of a block whose decays are one number per head and token, or none.
//!
//! The decay comes out of every product: px_ij = (p_i·x_j) exp(s_{i−1} − s_j), with s the running sums of ln a. Those are
//! kept in f64: after a decay of e⁻⁶⁰ an f32 sum would have lost the digits of the milder ones that follow.

mod backward;

use pulp::{Simd, WithSimd};

use super::Head;
use super::lanes::scale;
use super::parts::{Decays, GateGradients, PartCotangents, Parts};
use crate::math;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::dispatch;

/// Log decays are raised to this before they are summed: e⁻¹⁰⁰⁰ is 0 in f32 all the same, and sums stay finite.
const LOWEST_LOG_DECAY: f64 = -1000.0;

/// Decays of the tokens of one block.
pub(super) struct ByHead {
    /// s_0 = 0, s_1, …, s_n.
    sums: Vec<f64>,
    /// d(i, 0) for i = 0, …, n.
    pub(super) from_start: Vec<f32>,
    /// d(i, j) for j ≤ i, `[n, n]`, tokens counted from 0.
    pub(super) between: Vec<f32>,
    /// Room for one number per token.
    pub(super) terms: Vec<f32>,
}

impl Decays for ByHead {
    fn new(capacity: usize, _key_dim: usize) -> Self {
        Self {
            sums: vec![0.0; capacity + 1],
            from_start: vec![0.0; capacity + 1],
            between: vec![0.0; capacity * capacity],
            terms: vec![0.0; capacity],
        }
    }

    fn block_size(chunk_size: usize) -> usize {
        chunk_size
    }

    fn fill(&mut self, head: Head, tokens: (usize, usize), parts: &mut Parts, reads: bool) {
        dispatch(FillVectors {
            head,
            tokens,
            decays: self,
            parts,
        });
        let n = tokens.1;
        let key_dim = head.problem.key_dim;
        let vectors = |values| Matrix::new(values, n, key_dim, key_dim);
        let (q, p, x) = (
            vectors(&parts.gates.q),
            vectors(&parts.gates.p),
            vectors(&parts.gates.x),
        );
        let product = |into: &mut [f32], a: Matrix, b: Matrix| {
            multiply(
                &mut MatrixMut::new(into, n, n, n),
                Destination::Overwrite,
                a,
                b.transposed(),
            );
        };
        product(&mut parts.px, p, x);
        if reads {
            product(&mut parts.qx, q, x);
        }
        if head.is_low_rank() {
            product(&mut parts.pk, p, head.keys(tokens));
            if reads {
                product(&mut parts.qk, q, head.keys(tokens));
            }
        }
        dispatch(DecayProducts {
            head,
            n,
            between: &self.between,
            parts,
        });
    }

    fn backward(
        &mut self,
        head: Head,
        tokens: (usize, usize),
        parts: &Parts,
        cotangents: &mut PartCotangents,
        gradients: &mut GateGradients,
    ) {
        backward::backward(self, head, tokens, parts, cotangents, gradients);
    }
}

/// Fills the gates, the sums, d(i, j) and all vectors.
struct FillVectors<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    decays: &'a mut ByHead,
    parts: &'a mut Parts,
}

impl WithSimd for FillVectors<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (first, n),
            decays:
                ByHead {
                    sums,
                    from_start,
                    between,
                    ..
                },
            parts,
        } = self;
        parts.gates.fill(simd, head, (first, n));
        for i in 0..n {
            let log_decay = head.log_decay(first + i).first().map_or(0.0, |g| f64::from(*g));
            // A comparison rather than `max`: that would drop a NaN.
            let log_decay = if log_decay < LOWEST_LOG_DECAY {
                LOWEST_LOG_DECAY
            } else {
                log_decay
            };
            sums[i + 1] = sums[i] + log_decay;
        }
        for i in 0..n {
            let to = sums[i + 1];
            for (d, from) in between[i * n..][..=i].iter_mut().zip(&sums[1..]) {
                *d = math::exp(simd, (to - from) as f32);
            }
        }
        for (d, sum) in from_start.iter_mut().zip(&sums[..=n]) {
            *d = math::exp(simd, *sum as f32);
        }
        let key_dim = head.problem.key_dim;
        for i in 0..n {
            let row = i * key_dim..(i + 1) * key_dim;
            let (before, after) = (from_start[i], from_start[i + 1]);
            let rest = between[(n - 1) * n + i];
            scale(
                &mut parts.read_p[row.clone()],
                before,
                &parts.gates.p[row.clone()],
            );
            scale(&mut parts.read_q[row.clone()], after, &parts.gates.q[row.clone()]);
            scale(&mut parts.end_x[row.clone()], rest, &parts.gates.x[row.clone()]);
            if head.is_low_rank() {
                scale(&mut parts.end_k[row], rest, head.key(first + i));
            }
        }
        let (decay, rest) = math::exp_in_two_parts(simd, sums[n] as f32);
        parts.decay.fill(decay);
        parts.decay_rest.fill(rest);
    }
}

/// Multiplies the products by their decays and clears what lies above their diagonals.
struct DecayProducts<'a> {
    head: Head<'a>,
    n: usize,
    between: &'a [f32],
    parts: &'a mut Parts,
}

impl WithSimd for DecayProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Parts { px, qx, pk, qk, .. } = self.parts;
        decay_products(self.n, self.between, px, qx);
        if self.head.is_low_rank() {
            decay_products(self.n, self.between, pk, qk);
        }
    }
}

/// Multiplies products of p_i, which reads the state that the token before left, by d(i−1, j), and products of q_i by d(i, j).
#[inline(always)]
fn decay_products(n: usize, between: &[f32], of_p: &mut [f32], of_q: &mut [f32]) {
    for i in 0..n {
        let before = match i {
            0 => &[][..],
            _ => &between[(i - 1) * n..][..i],
        };
        decay_row(&mut of_p[i * n..][..n], before);
        decay_row(&mut of_q[i * n..][..n], &between[i * n..][..=i]);
    }
}

/// Multiplies the first products of a row by `decays` and clears the others.
#[inline(always)]
fn decay_row(products: &mut [f32], decays: &[f32]) {
    let (defined, beyond) = products.split_at_mut(decays.len());
    for (x, d) in defined.iter_mut().zip(decays) {
        *x *= d;
    }
    beyond.fill(0.0);
}
