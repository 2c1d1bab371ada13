//! The key sum of a normalised recurrence, token by token: a state of `key_dim` values per head.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{dot, dot_of_three};
use super::sequential::{fill_decay, fill_decay_in_two_parts};
use super::{Head, SharedOutput, finish_read_out, worth_threads};
use crate::decay::DecayKind;
use crate::recurrence::problem::{Inputs, Problem, ReadOut};
use crate::rows::Rows;
use crate::simd::{dispatch, mul_add_one};

/// y ← n / (d + ε) + D∘v, with the numerators n in `out`; `key_sum` goes to the end.
pub(in crate::recurrence) fn divide(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    key_sum: &mut [f32],
    out: &mut [f32],
) {
    let out = SharedOutput::new(problem, out);
    for_each_head(problem, inputs, key_sum, |head, key_sum| {
        dispatch(Divide {
            head,
            key_sum,
            eps,
            out,
        });
    });
}

/// ṅ = ẏ / (d + ε) in place of the numerators n in `out`; returns ḋ = −ẏ·n / (d + ε)², `[rows, heads]`.
pub(in crate::recurrence) fn differentiate_quotient(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    initial_key_sum: &[f32],
    cotangents: Rows,
    out: &mut [f32],
) -> Vec<f32> {
    let mut denominators = vec![0.0; inputs.value.rows() * problem.heads];
    let mut key_sum = initial_key_sum.to_vec();
    let out = SharedOutput::new(problem, out);
    let sink = SharedOutput::of(&mut denominators, problem.heads, 1);
    for_each_head(problem, inputs, &mut key_sum, |head, key_sum| {
        dispatch(DifferentiateQuotient {
            head,
            key_sum,
            eps,
            cotangents,
            out,
            denominators: sink,
        });
    });
    denominators
}

/// Runs `work` on every head of every sequence with that head's key sum, on all threads where it pays.
fn for_each_head(
    problem: &Problem,
    inputs: &Inputs,
    key_sum: &mut [f32],
    work: impl Fn(Head, &mut [f32]) + Sync,
) {
    let at = |index: usize| Head::at(problem, inputs, index);
    if problem.key_dim == 0 {
        (0..problem.batch * problem.heads).for_each(|index| work(at(index), &mut []));
        return;
    }
    if worth_threads(problem, inputs) {
        key_sum
            .par_chunks_exact_mut(problem.key_dim)
            .enumerate()
            .for_each(|(index, z)| work(at(index), z));
    } else {
        key_sum
            .chunks_exact_mut(problem.key_dim)
            .enumerate()
            .for_each(|(index, z)| work(at(index), z));
    }
}

/// The decays of one head at one token.
pub(super) struct Decay {
    constant: bool,
    filled: bool,
    /// Decays a_t of the token, `[key_dim]`.
    pub(super) values: Vec<f32>,
    /// What rounding took off constants, which would err in the same direction at every token.
    rest: Vec<f32>,
}

impl Decay {
    pub(super) fn new(head: Head) -> Self {
        let key_dim = head.problem.key_dim;
        Self {
            constant: head.decay_is_constant(),
            filled: false,
            values: vec![1.0; key_dim],
            rest: vec![0.0; key_dim],
        }
    }

    /// Takes the decays of token `t`.
    #[inline(always)]
    pub(super) fn go_to<S: Simd>(&mut self, simd: S, head: Head, t: usize) {
        match head.problem.decay {
            DecayKind::None => {}
            DecayKind::PerHead | DecayKind::PerKey => {
                if !self.filled {
                    fill_decay_in_two_parts(simd, &mut self.values, &mut self.rest, head.log_decay(t));
                    self.filled = true;
                }
            }
            DecayKind::PerHeadToken | DecayKind::PerKeyToken => {
                fill_decay(simd, &mut self.values, head.log_decay(t))
            }
        }
    }

    /// Decays a key sum in place: z ← a∘z.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, simd: S, z: &mut [f32]) {
        if self.constant {
            for ((z, a), rest) in z.iter_mut().zip(&self.values).zip(&self.rest) {
                *z = mul_add_one(simd, *a, *z, rest * *z);
            }
        } else {
            z.iter_mut().zip(&self.values).for_each(|(z, a)| *z *= a);
        }
    }
}

/// z ← a∘z + δ k at token `t`; returns d_t.
#[inline(always)]
pub(super) fn advance<S: Simd>(simd: S, head: Head, t: usize, decay: &mut Decay, z: &mut [f32]) -> f32 {
    let (query, key, step) = (head.query(t), head.key(t), head.step_size(t));
    let read_before = match head.problem.read_out {
        ReadOut::Inclusive => 0.0,
        ReadOut::Bonus => dot(simd, query, z),
    };
    decay.go_to(simd, head, t);
    decay.apply(simd, z);
    z.iter_mut()
        .zip(key)
        .for_each(|(z, k)| *z = mul_add_one(simd, step, *k, *z));
    head.inputs.scale
        * match head.problem.read_out {
            ReadOut::Inclusive => dot(simd, query, z),
            ReadOut::Bonus => mul_add_one(
                simd,
                step,
                dot_of_three(simd, query, head.bonus(), key),
                read_before,
            ),
        }
}

struct Divide<'a> {
    head: Head<'a>,
    key_sum: &'a mut [f32],
    eps: f32,
    out: SharedOutput<'a>,
}

impl WithSimd for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let head = self.head;
        let mut decay = Decay::new(head);
        for t in 0..head.time {
            let denominator = advance(simd, head, t, &mut decay, self.key_sum);
            // SAFETY: one thread takes this head of this sequence, and the row is let go before the next is taken.
            let y = unsafe { self.out.row(&head, t) };
            finish_read_out(
                simd,
                y,
                1.0 / (denominator + self.eps),
                head.skip(),
                0.0,
                head.value(t),
            );
        }
    }
}

struct DifferentiateQuotient<'a> {
    head: Head<'a>,
    key_sum: &'a mut [f32],
    eps: f32,
    cotangents: Rows<'a>,
    out: SharedOutput<'a>,
    denominators: SharedOutput<'a>,
}

impl WithSimd for DifferentiateQuotient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let head = self.head;
        let value_dim = head.problem.value_dim;
        let mut decay = Decay::new(head);
        for t in 0..head.time {
            let inverse = 1.0 / (advance(simd, head, t, &mut decay, self.key_sum) + self.eps);
            let cotangent = &self.cotangents.row(head.row(t))[head.head * value_dim..][..value_dim];
            // SAFETY: one thread takes this head of this sequence, and both rows are let go before the next are taken.
            let (n, d) = unsafe { (self.out.row(&head, t), self.denominators.row(&head, t)) };
            d.fill(-dot(simd, cotangent, n) * inverse * inverse);
            n.iter_mut().zip(cotangent).for_each(|(n, y)| *n = y * inverse);
        }
    }
}
