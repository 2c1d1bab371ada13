//! One block of n tokens as matrix products (Yang et al., "Parallelizing linear transformers with the delta rule", 2024,
//! section 3.2: the UT transform, here with decays and for both transitions).
//!
//! With S₀ the state that enters and d(i, j) = Π_{j<t≤i} a_t, which is at most 1, the form of [`gates`](super::gates)
//! gives
//!
//! ```text
//! P̃_i = p_i∘d(i−1, 0)   Q̃_i = q̂_i∘d(i, 0)   X̄_j = x_j∘d(n, j)   K̄_j = k_j∘d(n, j)
//! px_ij = p_i·(x_j∘d(i−1, j)), j < i      qx_ij = q̂_i·(x_j∘d(i, j)), j ≤ i      pk, qk likewise with k
//!
//! U = P̃ S₀ + px W [+ pk V]     W = V − U or U: a triangular system for W
//! Y = Q̃ S₀ + qx W [+ qk V]
//! S_n = d(n, 0)∘S₀ + X̄ᵀ W [+ K̄ᵀ V]
//! ```
//!
//! where q̂ = scale·q and the terms in brackets belong to the low-rank transition. How the decayed vectors and products are computed
//! depends on the decay: [`ByHead`](super::by_head::ByHead) or [`ByKey`](super::by_key::ByKey).

use pulp::{Simd, WithSimd};

use super::gates::Gates;
use super::lanes::{add, fma, load, splat, store};
use super::parts::{Decays, Parts};
use super::{Head, SharedRows};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::{dispatch, mul_add_one};

/// All of a block: its parts and the solution of its triangular system.
pub(super) struct Block<D> {
    pub(super) decays: D,
    pub(super) parts: Parts,
    /// W, the solution of the triangular system, `[n, value_dim]`.
    pub(super) w: Vec<f32>,
    /// Whether v enters: without it, the state alone is transformed.
    values: bool,
}

impl<D: Decays> Block<D> {
    /// Buffers for blocks of at most `capacity` tokens of a problem; without `values`, all v are taken as 0.
    pub(super) fn new(capacity: usize, key_dim: usize, value_dim: usize, values: bool) -> Self {
        let vectors = || vec![0.0; capacity * key_dim];
        let products = || vec![0.0; capacity * capacity];
        Self {
            decays: D::new(capacity, key_dim),
            parts: Parts {
                gates: Gates::new(capacity, key_dim),
                read_p: vectors(),
                read_q: vectors(),
                end_x: vectors(),
                end_k: vectors(),
                px: products(),
                qx: products(),
                pk: products(),
                qk: products(),
                decay: vec![0.0; key_dim],
                decay_rest: vec![0.0; key_dim],
            },
            w: vec![0.0; capacity * value_dim],
            values,
        }
    }

    /// Computes the parts and W of a block that `state` enters; without `reads`, not what only Y needs.
    pub(super) fn solve(&mut self, head: Head, tokens: (usize, usize), state: &[f32], reads: bool) {
        let n = tokens.1;
        let (key_dim, value_dim) = (head.problem.key_dim, state.len() / head.problem.key_dim);
        self.decays.fill(head, tokens, &mut self.parts, reads);
        let s = Matrix::new(state, key_dim, value_dim, value_dim);
        let mut w = MatrixMut::new(&mut self.w, n, value_dim, value_dim);
        let read_p = Matrix::new(&self.parts.read_p, n, key_dim, key_dim);
        multiply(&mut w, Destination::Overwrite, read_p, s);
        if head.is_low_rank() && self.values {
            let pk = Matrix::new(&self.parts.pk, n, n, n);
            multiply(&mut w, Destination::Scale(1.0), pk, head.values(tokens));
        }
        dispatch(Substitute {
            head,
            tokens,
            px: &self.parts.px,
            w: &mut self.w,
            value_dim,
            values: self.values,
        });
    }

    /// Y of a block that has been solved for this `state`.
    pub(super) fn read_out(&self, head: Head, tokens: (usize, usize), state: &[f32], out: SharedRows) {
        let n = tokens.1;
        let (key_dim, value_dim) = (head.problem.key_dim, head.problem.value_dim);
        let s = Matrix::new(state, key_dim, value_dim, value_dim);
        let rows = (head.row(tokens.0), n);
        // SAFETY: one thread takes this head of this sequence through its blocks, and this is its only access meanwhile.
        let mut y = unsafe { out.matrix(rows, head.value_column(), value_dim) };
        let read_q = Matrix::new(&self.parts.read_q, n, key_dim, key_dim);
        multiply(&mut y, Destination::Overwrite, read_q, s);
        let qx = Matrix::new(&self.parts.qx, n, n, n);
        let w = Matrix::new(&self.w, n, value_dim, value_dim);
        multiply(&mut y, Destination::Scale(1.0), qx, w);
        if head.is_low_rank() {
            let qk = Matrix::new(&self.parts.qk, n, n, n);
            multiply(&mut y, Destination::Scale(1.0), qk, head.values(tokens));
        }
    }

    /// Takes `state` from S₀, for which the block has been solved, to S_n.
    pub(super) fn advance(&self, head: Head, tokens: (usize, usize), state: &mut [f32]) {
        let n = tokens.1;
        let (key_dim, value_dim) = (head.problem.key_dim, state.len() / head.problem.key_dim);
        dispatch(DecayState {
            state,
            parts: &self.parts,
        });
        let mut s = MatrixMut::new(state, key_dim, value_dim, value_dim);
        let end_x = Matrix::new(&self.parts.end_x, n, key_dim, key_dim);
        let w = Matrix::new(&self.w, n, value_dim, value_dim);
        multiply(&mut s, Destination::Scale(1.0), end_x.transposed(), w);
        if head.is_low_rank() && self.values {
            let end_k = Matrix::new(&self.parts.end_k, n, key_dim, key_dim);
            multiply(
                &mut s,
                Destination::Scale(1.0),
                end_k.transposed(),
                head.values(tokens),
            );
        }
    }
}

/// S ← d(n, 0)∘S.
pub(super) struct DecayState<'a> {
    pub(super) state: &'a mut [f32],
    pub(super) parts: &'a Parts,
}

impl WithSimd for DecayState<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Parts {
            decay, decay_rest, ..
        } = self.parts;
        let value_dim = self.state.len() / decay.len();
        let rows = self.state.chunks_exact_mut(value_dim);
        for (row, (decay, rest)) in rows.zip(decay.iter().zip(decay_rest)) {
            for x in row {
                *x = mul_add_one(simd, *decay, *x, rest * *x);
            }
        }
    }
}

/// Turns P̃ S₀ (+ pk V) in `w` into W, row by row.
struct Substitute<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    px: &'a [f32],
    w: &'a mut [f32],
    value_dim: usize,
    values: bool,
}

impl WithSimd for Substitute<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (first, n),
            px,
            w,
            value_dim,
            values,
        } = self;
        let low_rank = head.is_low_rank();
        if !low_rank {
            for (i, w) in w.chunks_exact_mut(value_dim).take(n).enumerate() {
                if values {
                    let value = head.value(first + i);
                    for (w, v) in w.iter_mut().zip(value) {
                        *w = v - *w;
                    }
                } else {
                    for w in w {
                        *w = -*w;
                    }
                }
            }
        }
        let sign = if low_rank { 1.0 } else { -1.0 };
        substitute::<S, false>(simd, px, sign, w, (n, value_dim));
    }
}

/// Solves W = B + sign·M W for the rows of W in place of B, where M `[n, n]` is strictly lower triangular; with
/// `TRANSPOSED`, W = B + sign·Mᵀ W.
#[inline(always)]
pub(super) fn substitute<S: Simd, const TRANSPOSED: bool>(
    simd: S,
    m: &[f32],
    sign: f32,
    w: &mut [f32],
    (n, width): (usize, usize),
) {
    let system = System { m, sign, n, width };
    let lanes = S::F32_LANES;
    let mut column = 0;
    while width - column >= 4 * lanes {
        system.columns::<S, TRANSPOSED, 4, false>(simd, w, (column, 4 * lanes));
        column += 4 * lanes;
    }
    while width - column >= lanes {
        system.columns::<S, TRANSPOSED, 1, false>(simd, w, (column, lanes));
        column += lanes;
    }
    if column < width {
        system.columns::<S, TRANSPOSED, 1, true>(simd, w, (column, width - column));
    }
}

/// A triangular system (see [`substitute`]).
struct System<'a> {
    m: &'a [f32],
    sign: f32,
    n: usize,
    width: usize,
}

impl System<'_> {
    /// Solves for the columns `column .. column + part`, which are `N` vectors, or part of one.
    #[inline(always)]
    fn columns<S: Simd, const TRANSPOSED: bool, const N: usize, const PARTIAL: bool>(
        &self,
        simd: S,
        w: &mut [f32],
        (column, part): (usize, usize),
    ) {
        let Self { m, sign, n, width } = *self;
        for step in 0..n {
            let (i, known) = if TRANSPOSED {
                (n - 1 - step, n - step..n)
            } else {
                (step, 0..step)
            };
            let own = i * width + column;
            // Two sums, so that no addition waits for the one before.
            let mut sums = [load::<S, N, PARTIAL>(simd, &w[own..][..part]), splat(simd, 0.0)];
            for (turn, j) in known.enumerate() {
                let factor = sign * if TRANSPOSED { m[j * n + i] } else { m[i * n + j] };
                let solved = load::<S, N, PARTIAL>(simd, &w[j * width + column..][..part]);
                sums[turn % 2] = fma(simd, splat(simd, factor), solved, sums[turn % 2]);
            }
            store::<S, N, PARTIAL>(simd, &mut w[own..][..part], add(simd, sums[0], sums[1]));
        }
    }
}
