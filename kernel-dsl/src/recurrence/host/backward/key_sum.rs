//! The key sum of a normalised recurrence backwards, and the skip beside the quotient.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::recurrence::host::key_sum::{Decay, advance};
use crate::recurrence::host::lanes::{dot, dot_of_three};
use crate::recurrence::host::{Head, SharedOutput, worth_threads};

use crate::decay::LogDecay;
use crate::recurrence::problem::{Gradients, Inputs, Problem, ReadOut};
use crate::rows::Rows;
use crate::simd::dispatch;

/// Tokens between the key sums that are kept.
const CHUNK: usize = 64;

/// Adds what goes through the denominators to the gradients. `key_sum_gradient` is that of the final key sum before, and of
/// the initial one after; `denominators` is ḋ `[rows, heads]`.
pub(in crate::recurrence) fn key_sum_backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_key_sum: &[f32],
    denominators: &[f32],
    gradients: &mut Gradients,
    key_sum_gradient: &mut [f32],
) {
    let Problem {
        heads,
        groups,
        key_dim,
        decay,
        ..
    } = *problem;
    if key_dim == 0 || heads == 0 {
        return;
    }
    let log_decay = gradients.log_decay.as_mut().into_token();
    let step_size = gradients.step_size.as_deref_mut();
    let sinks = Sinks {
        query: SharedOutput::of(gradients.query, groups, key_dim),
        key: SharedOutput::of(gradients.key, groups, key_dim),
        step_size: step_size.map(|values| SharedOutput::of(values, heads, 1)),
        log_decay: log_decay.map(|values| SharedOutput::of(values, heads, decay.values_per_head(key_dim))),
    };
    let per_group = heads / groups * key_dim;
    // One thread takes the heads of a group one after another: they add to the same rows.
    let of_group = |(index, (initial, gradient)): (usize, (&[f32], &mut [f32]))| {
        let first = Head::new(problem, inputs, index / groups, index % groups * (heads / groups));
        let states = initial
            .chunks_exact(key_dim)
            .zip(gradient.chunks_exact_mut(key_dim));
        let of_head = |(i, (initial, gradient))| {
            let mut constants = Constants {
                log_decay: vec![0.0; decay.values_per_head(key_dim)],
                bonus: vec![0.0; key_dim],
            };
            dispatch(HeadBackward {
                head: first.later(i),
                initial,
                gradient,
                denominators,
                sinks: &sinks,
                constants: &mut constants,
            });
            constants
        };
        states.enumerate().map(of_head).collect::<Vec<_>>()
    };
    let (initial, gradient) = (
        initial_key_sum.chunks_exact(per_group),
        key_sum_gradient.chunks_exact_mut(per_group),
    );
    let constants: Vec<Vec<Constants>> = if worth_threads(problem, inputs) {
        let groups: Vec<_> = initial.zip(gradient).enumerate().collect();
        groups.into_par_iter().map(of_group).collect()
    } else {
        initial.zip(gradient).enumerate().map(of_group).collect()
    };
    let constants = constants.iter().flatten().enumerate();
    for (index, constants) in constants {
        add_constants(index % heads, constants, gradients);
    }
}

/// Gradients of what one head of one sequence reads at every token.
struct Constants {
    log_decay: Vec<f64>,
    bonus: Vec<f64>,
}

fn add_constants(head: usize, constants: &Constants, gradients: &mut Gradients) {
    let add = |sums: &mut [f32], values: &[f64]| {
        let sums = &mut sums[head * values.len()..][..values.len()];
        sums.iter_mut()
            .zip(values)
            .for_each(|(sum, x)| *sum = (f64::from(*sum) + x) as f32);
    };
    if let LogDecay::Constant(log_decay) = &mut gradients.log_decay {
        add(log_decay, &constants.log_decay);
    }
    if let Some(bonus) = &mut gradients.bonus {
        add(bonus, &constants.bonus);
    }
}

/// Where gradients per token go.
struct Sinks<'a> {
    query: SharedOutput<'a>,
    key: SharedOutput<'a>,
    step_size: Option<SharedOutput<'a>>,
    log_decay: Option<SharedOutput<'a>>,
}

/// All tokens of one head, from the last to the first.
struct HeadBackward<'a> {
    head: Head<'a>,
    initial: &'a [f32],
    /// Derivative ż by the key sum, `[key_dim]`.
    gradient: &'a mut [f32],
    denominators: &'a [f32],
    sinks: &'a Sinks<'a>,
    constants: &'a mut Constants,
}

impl WithSimd for HeadBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let head = self.head;
        let key_dim = head.problem.key_dim;
        let mut decay = Decay::new(head);
        // The key sums that enter the chunks, then those around each token of one chunk.
        let mut entering = Vec::with_capacity(head.time.div_ceil(CHUNK) * key_dim);
        let mut z = self.initial.to_vec();
        for t in 0..head.time {
            if t % CHUNK == 0 {
                entering.extend_from_slice(&z);
            }
            advance(simd, head, t, &mut decay, &mut z);
        }
        let mut sums = vec![0.0; (CHUNK + 1) * key_dim];
        for (chunk, entering) in entering.chunks_exact(key_dim).enumerate().rev() {
            let start = chunk * CHUNK;
            let n = CHUNK.min(head.time - start);
            z.copy_from_slice(entering);
            for i in 0..n {
                sums[i * key_dim..(i + 1) * key_dim].copy_from_slice(&z);
                advance(simd, head, start + i, &mut decay, &mut z);
            }
            sums[n * key_dim..(n + 1) * key_dim].copy_from_slice(&z);
            for i in (0..n).rev() {
                let around = sums[i * key_dim..(i + 2) * key_dim].split_at(key_dim);
                decay.go_to(simd, head, start + i);
                self.token(simd, start + i, &decay, around);
            }
        }
    }
}

impl HeadBackward<'_> {
    #[inline(always)]
    fn token<S: Simd>(&mut self, simd: S, t: usize, decay: &Decay, (before, after): (&[f32], &[f32])) {
        let head = self.head;
        let d = head.inputs.scale * self.denominators[head.row(t) * head.problem.heads + head.head];
        match head.problem.read_out {
            ReadOut::Inclusive => {
                self.read(t, d, after);
                self.update(simd, t, decay, before);
            }
            ReadOut::Bonus => {
                self.update(simd, t, decay, before);
                self.read(t, d, before);
                self.bonus(simd, t, d);
            }
        }
    }

    /// d += scale q·z.
    #[inline(always)]
    fn read(&mut self, t: usize, d: f32, z: &[f32]) {
        let head = self.head;
        // SAFETY: one thread takes all heads of this group of this sequence, one after another.
        let query_gradient = unsafe { self.sinks.query.row_at(head.row(t), head.group) };
        let keys = query_gradient
            .iter_mut()
            .zip(&mut *self.gradient)
            .zip(z)
            .zip(head.query(t));
        for (((dq, dz), z), q) in keys {
            *dq += d * z;
            *dz += d * q;
        }
    }

    /// z ← a∘z + δ k.
    #[inline(always)]
    fn update<S: Simd>(&mut self, simd: S, t: usize, decay: &Decay, before: &[f32]) {
        let (head, step) = (self.head, self.head.step_size(t));
        // SAFETY: as for the query.
        let key_gradient = unsafe { self.sinks.key.row_at(head.row(t), head.group) };
        key_gradient
            .iter_mut()
            .zip(&*self.gradient)
            .for_each(|(dk, dz)| *dk += step * dz);
        if let Some(step_size) = self.sinks.step_size {
            let derivative = dot(simd, head.key(t), self.gradient);
            // SAFETY: this head of this sequence belongs to this thread.
            unsafe { step_size.row(&head, t) }
                .iter_mut()
                .for_each(|sum| *sum += derivative);
        }
        let passing = decay.values.iter().zip(before).zip(&*self.gradient);
        let passing = passing.map(|((a, z), dz)| a * z * dz);
        if let Some(log_decay) = self.sinks.log_decay {
            // SAFETY: as for the step size.
            match unsafe { log_decay.row(&head, t) } {
                [one] => *one += dot_of_three(simd, &decay.values, before, self.gradient),
                per_key => per_key.iter_mut().zip(passing).for_each(|(g, x)| *g += x),
            }
        } else {
            match &mut self.constants.log_decay[..] {
                [] => {}
                [one] => *one += f64::from(dot_of_three(simd, &decay.values, before, self.gradient)),
                per_key => per_key
                    .iter_mut()
                    .zip(passing)
                    .for_each(|(g, x)| *g += f64::from(x)),
            }
        }
        decay.apply(simd, self.gradient);
    }

    /// d += scale δ q·(u∘k).
    #[inline(always)]
    fn bonus<S: Simd>(&mut self, simd: S, t: usize, d: f32) {
        let head = self.head;
        let (query, key, u, step) = (head.query(t), head.key(t), head.bonus(), head.step_size(t));
        // SAFETY: as for the reads.
        let (dq, dk) = unsafe {
            (
                self.sinks.query.row_at(head.row(t), head.group),
                self.sinks.key.row_at(head.row(t), head.group),
            )
        };
        for n in 0..head.problem.key_dim {
            dq[n] += d * step * u[n] * key[n];
            dk[n] += d * step * u[n] * query[n];
            self.constants.bonus[n] += f64::from(d * step * query[n] * key[n]);
        }
        if let Some(step_size) = self.sinks.step_size {
            let derivative = d * dot_of_three(simd, query, u, key);
            // SAFETY: as for the updates.
            unsafe { step_size.row(&head, t) }
                .iter_mut()
                .for_each(|sum| *sum += derivative);
        }
    }
}

/// y += D∘v beside the quotient: adds D∘ẏ to v̇ and sets Ḋ.
pub(in crate::recurrence) fn skip_backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: Rows,
    gradients: &mut Gradients,
) {
    let Problem {
        batch,
        time,
        heads,
        value_dim,
        ..
    } = *problem;
    let Some(skip) = inputs.skip else { return };
    let width = heads * value_dim;
    let per_head = skip.len() == heads;
    let mut sums = vec![0.0_f64; skip.len()];
    for row in (0..batch).flat_map(|b| inputs.sequences.span(b, time)) {
        let values = inputs.value.row(row).iter().zip(cotangents.row(row));
        let gradient = &mut gradients.value[row * width..(row + 1) * width];
        for (i, (dv, (v, y))) in gradient.iter_mut().zip(values).enumerate() {
            let d = if per_head { i / value_dim } else { i };
            *dv += skip[d] * y;
            sums[d] += f64::from(v * y);
        }
    }
    if let Some(gradient) = &mut gradients.skip {
        gradient
            .iter_mut()
            .zip(sums)
            .for_each(|(gradient, sum)| *gradient = sum as f32);
    }
}
