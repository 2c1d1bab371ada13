//! What a segment of tokens does to the state, in the one form that both transitions share.
//!
//! ```text
//! u_t = S_{t−1}ᵀ p_t      S_t = a_t∘S_{t−1} + x_t w_tᵀ [+ k_t v_tᵀ]
//! delta      p = a∘k   x = β k   w = v − u
//! low rank   p         x = b     w = u       and the term in brackets
//! ```

use pulp::Simd;

use super::lanes::scale;
use super::{Head, TokenTransition};
use crate::math;

/// scale·q, a, p and x of up to `capacity` tokens, `[n, key_dim]` each.
pub(super) struct Gates {
    pub(super) q: Vec<f32>,
    pub(super) a: Vec<f32>,
    pub(super) p: Vec<f32>,
    pub(super) x: Vec<f32>,
}

impl Gates {
    pub(super) fn new(capacity: usize, key_dim: usize) -> Self {
        let zeros = || vec![0.0; capacity * key_dim];
        Self {
            q: zeros(),
            a: zeros(),
            p: zeros(),
            x: zeros(),
        }
    }

    /// Fills in `count` tokens from `first` on. To be called inside of a SIMD dispatch.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, head: Head, (first, count): (usize, usize)) {
        let key_dim = head.problem.key_dim;
        for i in 0..count {
            let row = i * key_dim..(i + 1) * key_dim;
            scale(&mut self.q[row.clone()], head.inputs.scale, head.query(first + i));
            let (a, p, x) = (
                &mut self.a[row.clone()],
                &mut self.p[row.clone()],
                &mut self.x[row],
            );
            match head.log_decay(first + i) {
                [] => a.fill(1.0),
                // Also `key_dim` = 1 with decays per key.
                [one] => a.fill(math::exp(simd, *one)),
                per_key => {
                    for (a, g) in a.iter_mut().zip(per_key) {
                        *a = math::exp(simd, *g);
                    }
                }
            }
            match head.transition(first + i) {
                TokenTransition::Delta { beta } => {
                    let key = head.key(first + i);
                    for (p, (k, a)) in p.iter_mut().zip(key.iter().zip(a.iter())) {
                        *p = k * a;
                    }
                    scale(x, beta, key);
                }
                TokenTransition::LowRank { p: from, b } => {
                    p.copy_from_slice(from);
                    x.copy_from_slice(b);
                }
            }
        }
    }
}
