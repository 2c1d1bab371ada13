//! The gradients by the inputs, from those by the gates of a block.
//!
//! q and the low-rank k, p and b are gates themselves. Delta's are p = a∘k and x = β k, so dk = a∘dp + β dx,
//! d ln a += p∘dp and dβ = k·dx.

use pulp::{Simd, WithSimd};

use super::lanes::{add_product, add_scaled, dot};
use super::parts::{GateGradients, Parts};
use super::{Head, SharedRows, TokenTransition};
use crate::decay::DecayScope;
use crate::delta_rule::problem::{Gradients, Problem, TransitionGradients};
use crate::simd::mul_add_one;

/// The gradients by tokens, which several threads write.
#[derive(Clone, Copy)]
pub(super) struct SharedGradients<'a> {
    query: SharedRows<'a>,
    key: SharedRows<'a>,
    pub(super) value: SharedRows<'a>,
    transition: SharedTransition<'a>,
    log_decay: Option<SharedRows<'a>>,
}

#[derive(Clone, Copy)]
enum SharedTransition<'a> {
    Delta { beta: SharedRows<'a> },
    LowRank { p: SharedRows<'a>, b: SharedRows<'a> },
}

impl<'a> SharedGradients<'a> {
    /// Clears all gradients by tokens; returns them, and that by the state.
    pub(super) fn new(problem: &Problem, gradients: &'a mut Gradients) -> (Self, &'a mut [f32]) {
        let on_keys = problem.groups * problem.key_dim;
        fn share(buffer: &mut [f32], width: usize) -> SharedRows<'_> {
            buffer.fill(0.0);
            SharedRows::new(buffer, width)
        }
        let shared = Self {
            query: share(gradients.query, on_keys),
            key: share(gradients.key, on_keys),
            value: share(gradients.value, problem.heads * problem.value_dim),
            transition: match &mut gradients.transition {
                TransitionGradients::Delta { beta } => SharedTransition::Delta {
                    beta: share(beta, problem.heads),
                },
                TransitionGradients::LowRank { p, b } => SharedTransition::LowRank {
                    p: share(p, on_keys),
                    b: share(b, on_keys),
                },
            },
            log_decay: gradients
                .log_decay
                .as_mut()
                .either()
                .map(|buffer| share(buffer, problem.decay_columns())),
        };
        (shared, gradients.state)
    }
}

/// Turns the derivatives by scale·q, p, x and k into those by the inputs, added up over the heads of a group.
pub(super) struct WriteGates<'a> {
    pub(super) head: Head<'a>,
    pub(super) tokens: (usize, usize),
    pub(super) parts: &'a Parts,
    pub(super) gates: &'a GateGradients,
    pub(super) gradients: SharedGradients<'a>,
}

impl WithSimd for WriteGates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (first, n) = self.tokens;
        for i in 0..n {
            self.token(simd, i, first + i);
        }
    }
}

impl<'a> WriteGates<'a> {
    /// Token `t`, which is number `i` of its block.
    #[inline(always)]
    fn token<S: Simd>(&self, simd: S, i: usize, t: usize) {
        let head = self.head;
        let key_dim = head.problem.key_dim;
        let own = i * key_dim..(i + 1) * key_dim;
        let row = head.row(t);
        // SAFETY: one thread takes all heads of this group through their tokens, and each slice lies in another buffer.
        let on_keys = |shared: SharedRows<'a>| unsafe { shared.part(row, head.key_column(), key_dim) };
        let (dp, dx) = (&self.gates.p[own.clone()], &self.gates.x[own.clone()]);
        add_scaled(
            simd,
            on_keys(self.gradients.query),
            head.inputs.scale,
            &self.gates.q[own.clone()],
        );
        let dk = on_keys(self.gradients.key);
        let is_delta = match (head.transition(t), self.gradients.transition) {
            (TokenTransition::Delta { beta }, SharedTransition::Delta { beta: shared }) => {
                let a = &self.parts.gates.a[own.clone()];
                for (dk, ((dp, a), dx)) in dk.iter_mut().zip(dp.iter().zip(a).zip(dx)) {
                    *dk += mul_add_one(simd, *dp, *a, beta * dx);
                }
                // SAFETY: this value belongs to this head alone.
                let d_beta = unsafe { shared.part(row, head.head, 1) };
                d_beta[0] = dot(simd, head.key(t), dx);
                true
            }
            (TokenTransition::LowRank { .. }, SharedTransition::LowRank { p, b }) => {
                add_scaled(simd, dk, 1.0, &self.gates.k[own.clone()]);
                add_scaled(simd, on_keys(p), 1.0, dp);
                add_scaled(simd, on_keys(b), 1.0, dx);
                false
            }
            _ => unreachable!("validation compared both transitions with the problem's"),
        };
        let Some(shared) = self.gradients.log_decay else {
            return;
        };
        let count = head.problem.decay.values_per_head(key_dim);
        // SAFETY: these values belong to this head alone.
        let into = unsafe { shared.part(row, head.head * count, count) };
        into.copy_from_slice(&self.gates.log_decay[i * count..][..count]);
        let p = &self.parts.gates.p[own];
        match (is_delta, head.problem.decay.scope()) {
            (false, _) | (_, DecayScope::None) => {}
            (true, DecayScope::Head) => into[0] += dot(simd, p, dp),
            (true, DecayScope::Key) => {
                add_product(simd, into, p, dp);
            }
        }
    }
}
