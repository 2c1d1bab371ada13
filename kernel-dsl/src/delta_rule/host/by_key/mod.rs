//! The parts of a block whose decays differ from key to key.
//!
//! Here the decay does not come out of p_i·x_j, and splitting exp(s_i − s_j) into exp(s_i)·exp(−s_j) overflows f32 as soon
//! as a key has decayed by e⁻⁸⁸. So blocks are short, and d(i, j) is a product of a_t ≤ 1 formed one factor at a time:
//! nothing is divided, nothing exceeds 1, and a = 0 is right.

mod backward;

use pulp::{Simd, WithSimd};

use super::Head;
use super::lanes::{dot_lanes, load, mul, store};
use super::parts::{Decays, GateGradients, PartCotangents, Parts};
use crate::math;
use crate::simd::dispatch;

/// Tokens in a block: the state is passed over once per block, and pairs of tokens cost half of this per token.
const BLOCK: usize = 16;

/// Decays of the tokens of one block.
pub(super) struct ByKey {
    /// Σ ln a_t, or Π a_t over the tokens so far, `[key_dim]`.
    running: Vec<f32>,
}

impl Decays for ByKey {
    fn new(_capacity: usize, key_dim: usize) -> Self {
        Self {
            running: vec![0.0; key_dim],
        }
    }

    fn block_size(chunk_size: usize) -> usize {
        chunk_size.min(BLOCK)
    }

    fn fill(&mut self, head: Head, tokens: (usize, usize), parts: &mut Parts, reads: bool) {
        dispatch(Fill {
            head,
            tokens,
            running: &mut self.running,
            parts,
            reads,
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
        backward::backward(head, tokens, parts, cotangents, gradients);
    }
}

/// Fills the gates and all parts.
struct Fill<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    running: &'a mut [f32],
    parts: &'a mut Parts,
    reads: bool,
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (head, (first, n)) = (self.head, self.tokens);
        self.parts.gates.fill(simd, head, (first, n));
        self.fill_decay(simd);
        self.fill_readers();
        self.parts.px[..n * n].fill(0.0);
        self.parts.qx[..n * n].fill(0.0);
        self.pairs_of(simd, Inserted::X);
        if head.is_low_rank() {
            self.parts.pk[..n * n].fill(0.0);
            self.parts.qk[..n * n].fill(0.0);
            self.pairs_of(simd, Inserted::Key);
        }
    }
}

/// Which vectors were inserted into the state.
#[derive(Clone, Copy, PartialEq)]
enum Inserted {
    X,
    Key,
}

impl Fill<'_> {
    /// d(n, 0), by the sum of the logarithms.
    #[inline(always)]
    fn fill_decay<S: Simd>(&mut self, simd: S) {
        let (first, n) = self.tokens;
        self.running.fill(0.0);
        for t in first..first + n {
            for (sum, g) in self.running.iter_mut().zip(self.head.log_decay(t)) {
                *sum += g;
            }
        }
        let parts = &mut *self.parts;
        let decays = parts.decay.iter_mut().zip(&mut parts.decay_rest);
        for ((decay, rest), sum) in decays.zip(&*self.running) {
            (*decay, *rest) = math::exp_in_two_parts(simd, *sum);
        }
    }

    /// Fills P̃ and Q̃, the vectors that read the entering state S₀.
    #[inline(always)]
    fn fill_readers(&mut self) {
        let n = self.tokens.1;
        let key_dim = self.head.problem.key_dim;
        let product = &mut *self.running;
        product.fill(1.0);
        for i in 0..n {
            let row = i * key_dim..(i + 1) * key_dim;
            let readers = self.parts.read_p[row.clone()]
                .iter_mut()
                .zip(&mut self.parts.read_q[row.clone()]);
            let raw = self.parts.gates.p[row.clone()]
                .iter()
                .zip(&self.parts.gates.q[row.clone()]);
            let decays = product.iter_mut().zip(&self.parts.gates.a[row]);
            for (((read_p, read_q), (p, q)), (product, a)) in readers.zip(raw).zip(decays) {
                *read_p = p * *product;
                *product *= a;
                *read_q = q * *product;
            }
        }
    }

    /// The products of p and q with what was inserted, and the inserted vectors at the end of the block.
    #[inline(always)]
    fn pairs_of<S: Simd>(&mut self, simd: S, inserted: Inserted) {
        let (key_dim, lanes) = (self.head.problem.key_dim, S::F32_LANES);
        let mut column = 0;
        // As many keys at a time as 512-bit vectors take by four: every sum over lanes costs more than the products before it.
        if lanes < 16 {
            while key_dim - column >= 8 * lanes {
                self.columns::<S, 8, false>(simd, inserted, (column, 8 * lanes));
                column += 8 * lanes;
            }
        }
        while key_dim - column >= 4 * lanes {
            self.columns::<S, 4, false>(simd, inserted, (column, 4 * lanes));
            column += 4 * lanes;
        }
        while key_dim - column >= lanes {
            self.columns::<S, 1, false>(simd, inserted, (column, lanes));
            column += lanes;
        }
        if column < key_dim {
            self.columns::<S, 1, true>(simd, inserted, (column, key_dim - column));
        }
    }

    /// As [`Fill::pairs_of`], summed over `width` keys from `column` on, which are `N` vectors, or part of one.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        inserted: Inserted,
        (column, width): (usize, usize),
    ) {
        let (head, (first, n), reads) = (self.head, self.tokens, self.reads);
        let key_dim = head.problem.key_dim;
        let Parts {
            gates,
            end_x,
            end_k,
            px,
            qx,
            pk,
            qk,
            ..
        } = &mut *self.parts;
        let (of_p, of_q, ends) = match inserted {
            Inserted::X => (px, qx, end_x),
            Inserted::Key => (pk, qk, end_k),
        };
        for j in 0..n {
            let raw = match inserted {
                Inserted::X => &gates.x[j * key_dim..][..key_dim],
                Inserted::Key => head.key(first + j),
            };
            let mut decayed = load::<S, N, PARTIAL>(simd, &raw[column..][..width]);
            if reads {
                let q = load::<S, N, PARTIAL>(simd, &gates.q[j * key_dim + column..][..width]);
                of_q[j * n + j] += dot_lanes(simd, q, decayed);
            }
            for i in j + 1..n {
                let part = i * key_dim + column..i * key_dim + column + width;
                let p = load::<S, N, PARTIAL>(simd, &gates.p[part.clone()]);
                of_p[i * n + j] += dot_lanes(simd, p, decayed);
                let a = load::<S, N, PARTIAL>(simd, &gates.a[part.clone()]);
                decayed = mul(simd, decayed, a);
                if reads {
                    let q = load::<S, N, PARTIAL>(simd, &gates.q[part]);
                    of_q[i * n + j] += dot_lanes(simd, q, decayed);
                }
            }
            store::<S, N, PARTIAL>(simd, &mut ends[j * key_dim + column..][..width], decayed);
        }
    }
}
