//! What ends at v, δ and D: the same for every decay kind.
//!
//! With u_j the derivative by δ_j v_j: v̇_j = δ_j u_j + D∘ẏ_j, δ̇_j = v_j·u_j, Ḋ = Σ_j v_j∘ẏ_j.

use pulp::{Simd, WithSimd};

use super::Sinks;
use super::blocks::Constants;
use crate::recurrence::host::lanes::dot;
use crate::recurrence::host::{Head, Skip};
use crate::recurrence::problem::{Inputs, Problem};
use crate::simd::{dispatch, mul_add_one};

/// Writes v̇ and δ̇ of some tokens and adds to Ḋ.
pub(super) struct ValueGradients<'a> {
    pub(super) head: Head<'a>,
    /// The first token and their number n.
    pub(super) tokens: (usize, usize),
    /// Derivatives u_j by δ_j v_j, `[n, value_dim]`.
    pub(super) derivatives: &'a [f32],
    pub(super) sinks: &'a Sinks<'a>,
    pub(super) constants: &'a mut Constants,
}

impl WithSimd for ValueGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            derivatives,
            sinks,
            constants,
        } = self;
        let value_dim = head.problem.value_dim;
        let skip = head.skip();
        for (i, u) in derivatives.chunks_exact(value_dim).take(n).enumerate() {
            let t = start + i;
            let (value, cotangent, step) = (
                head.value(t),
                head.cotangent(sinks.cotangents, t),
                head.step_size(t),
            );
            // SAFETY: one thread takes this head of this sequence through its chunks, and nothing else of its rows is alive.
            let gradient = unsafe { sinks.value.row(&head, t) };
            match skip {
                Skip::Scalar(d) => {
                    for ((g, u), y) in gradient.iter_mut().zip(u).zip(cotangent) {
                        *g = mul_add_one(simd, step, *u, d * y);
                    }
                }
                Skip::PerValue(d) => {
                    for (((g, u), y), d) in gradient.iter_mut().zip(u).zip(cotangent).zip(d) {
                        *g = mul_add_one(simd, step, *u, d * y);
                    }
                }
            }
            if let Some(step_size) = sinks.step_size {
                // SAFETY: as for the gradient of the values.
                unsafe { step_size.row(&head, t) }.fill(dot(simd, value, u));
            }
            if head.inputs.skip.is_some() {
                for ((sum, v), y) in constants.skip.iter_mut().zip(value).zip(cotangent) {
                    *sum += f64::from(v * y);
                }
            }
        }
    }
}

/// All that is left without a state: the gradients that go through the skip.
pub(super) fn skip_only(problem: &Problem, inputs: &Inputs, sinks: &Sinks) -> Vec<Constants> {
    let zeros = vec![0.0; problem.value_dim];
    let of_head = |index: usize| {
        let head = Head::at(problem, inputs, index);
        let mut constants = Constants::new(problem);
        for t in 0..head.time {
            if problem.value_dim > 0 {
                dispatch(ValueGradients {
                    head,
                    tokens: (t, 1),
                    derivatives: &zeros,
                    sinks,
                    constants: &mut constants,
                });
            } else if let Some(step_size) = sinks.step_size {
                // SAFETY: this is the only thread, and the row is let go at once.
                unsafe { step_size.row(&head, t) }.fill(0.0);
            }
            if let Some(log_decay) = sinks.log_decay {
                // SAFETY: as above.
                unsafe { log_decay.row(&head, t) }.fill(0.0);
            }
        }
        constants
    };
    (0..problem.batch * problem.heads).map(of_head).collect()
}
