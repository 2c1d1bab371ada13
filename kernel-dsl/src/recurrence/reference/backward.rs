//! The gradients of [`recurrence`](super::recurrence) in f64: the definition, run backwards token by token.
//!
//! Let ḣ_t be the derivative of the loss by h_t, all later uses included, and ẏ_t the cotangent of the output. With the
//! inclusive read-out
//!
//! ```text
//! ḣ_t = scale q_t ẏ_tᵀ + a_{t+1} ∘ ḣ_{t+1}                     ḣ_T takes the cotangent of the final state as well
//! q̇_t = scale h_t ẏ_t          k̇_t = δ_t ḣ_t v_t          (δv)˙_t = ḣ_tᵀ k_t
//! (ln a_t)˙ = Σ_p a_t h_{t-1} ḣ_t        (over the keys too where they share one decay)
//! v̇_t = δ_t (δv)˙_t + D∘ẏ_t      δ̇_t = v_t·(δv)˙_t      Ḋ = Σ_t v_t∘ẏ_t      ḣ_0 = a_1 ∘ ḣ_1
//! ```
//!
//! The bonus read-out reads h_{t-1}, so that its term enters ḣ_{t-1}; its present token adds, with c_t = δ_t v_t·ẏ_t and
//! r_t = q_t·(u∘k_t),
//!
//! ```text
//! q̇_t += scale c_t (u∘k_t)     k̇_t += scale c_t (u∘q_t)     u̇ += scale c_t (q_t∘k_t)     (δv)˙_t += scale r_t ẏ_t
//! ```

use super::{log_decay, skip_of, update};
use crate::decay::DecayScope;
use crate::recurrence::problem::{Cotangents, Gradients, Inputs, Problem, ReadOut, RecurrenceError};

/// The gradients of the recurrence in f64 (see [the module](crate::recurrence) for the formula of the forward pass).
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]`; the others as [`Cotangents`] and [`Gradients`] say.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), RecurrenceError> {
    problem.validate_inputs(inputs)?;
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let out = (0..cotangents.out.rows()).flat_map(|row| wide(cotangents.out.row(row)));
    let cotangents = WideCotangents {
        out: out.collect(),
        state: cotangents.state.map(wide),
    };
    run(problem, inputs, initial_state, &cotangents, gradients);
    Ok(())
}

/// [`Cotangents`] in f64, without gaps.
pub(super) struct WideCotangents {
    pub(super) out: Vec<f64>,
    pub(super) state: Option<Vec<f64>>,
}

/// Computes the gradients of [`backward`] from operands that are validated.
pub(super) fn run(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &WideCotangents,
    gradients: &mut Gradients<f64>,
) {
    clear(gradients);
    let len = problem.head_state_len();
    for b in 0..problem.batch {
        for head in 0..problem.heads {
            let at = (b * problem.heads + head) * len..(b * problem.heads + head + 1) * len;
            let rows: Vec<usize> = inputs.sequences.span(b, problem.time).collect();
            let mut states = vec![initial_state[at.clone()].to_vec()];
            for &row in &rows {
                let mut h = states[states.len() - 1].clone();
                update(problem, inputs, (row, head), &mut h);
                states.push(h);
            }
            let mut dh = vec![0.0; len];
            if let Some(state) = &cotangents.state {
                dh.copy_from_slice(&state[at.clone()]);
            }
            for (t, &row) in rows.iter().enumerate().rev() {
                let pass = TokenPass {
                    problem,
                    inputs,
                    cotangents,
                    row,
                    head,
                };
                pass.run((&states[t], &states[t + 1]), &mut dh, gradients);
            }
            gradients.state[at].copy_from_slice(&dh);
        }
    }
}

fn clear(gradients: &mut Gradients<f64>) {
    let Gradients {
        query,
        key,
        value,
        log_decay,
        step_size,
        bonus,
        skip,
        state,
    } = gradients;
    for buffer in [query, key, value, state] {
        buffer.fill(0.0);
    }
    let optional = [step_size, bonus, skip].map(Option::as_mut);
    for buffer in optional.into_iter().flatten().chain(log_decay.as_mut().either()) {
        buffer.fill(0.0);
    }
}

/// The backward pass of one token of one head.
struct TokenPass<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    cotangents: &'a WideCotangents,
    row: usize,
    head: usize,
}

impl TokenPass<'_> {
    /// Adds what the token gives to every gradient; `dh` is ḣ without the present read-out before, and the derivative by
    /// the state before the token after.
    fn run(&self, (before, after): (&[f64], &[f64]), dh: &mut [f64], gradients: &mut Gradients<f64>) {
        match self.problem.read_out {
            ReadOut::Inclusive => {
                self.read(after, dh, gradients);
                self.update(before, dh, gradients);
            }
            ReadOut::Bonus => {
                self.update(before, dh, gradients);
                self.read(before, dh, gradients);
                self.read_bonus(gradients);
            }
        }
        self.skip(gradients);
    }

    /// y += scale·qᵀh.
    fn read(&self, h: &[f64], dh: &mut [f64], gradients: &mut Gradients<f64>) {
        let Problem {
            key_dim, value_dim, ..
        } = *self.problem;
        let scale = f64::from(self.inputs.scale);
        for n in 0..key_dim {
            let q = self.query(n);
            for p in 0..value_dim {
                let at = n * value_dim + p;
                gradients.query[self.key_at(n)] += scale * h[at] * self.cotangent(p);
                dh[at] += scale * q * self.cotangent(p);
            }
        }
    }

    /// h ← a∘h + k (δ v)ᵀ.
    fn update(&self, before: &[f64], dh: &mut [f64], gradients: &mut Gradients<f64>) {
        let Problem {
            key_dim, value_dim, ..
        } = *self.problem;
        for n in 0..key_dim {
            let decay = log_decay(self.problem, self.inputs, (self.row, self.head), n).exp();
            for p in 0..value_dim {
                let at = n * value_dim + p;
                gradients.key[self.key_at(n)] += dh[at] * self.step() * self.value(p);
                self.add_weighted_value(p, dh[at] * self.key(n), gradients);
                if let Some(log_decay) = gradients.log_decay.as_mut().either() {
                    log_decay[self.decay_at(n)] += decay * before[at] * dh[at];
                }
                dh[at] *= decay;
            }
        }
    }

    /// y += scale·qᵀ(u∘k)(δ v).
    fn read_bonus(&self, gradients: &mut Gradients<f64>) {
        let scale = f64::from(self.inputs.scale);
        for n in 0..self.problem.key_dim {
            let at = self.head * self.problem.key_dim + n;
            let u = self.inputs.bonus.map_or(0.0, |u| f64::from(u[at]));
            let (q, k) = (self.query(n), self.key(n));
            for p in 0..self.problem.value_dim {
                let c = scale * self.step() * self.value(p) * self.cotangent(p);
                gradients.query[self.key_at(n)] += c * u * k;
                gradients.key[self.key_at(n)] += c * u * q;
                if let Some(bonus) = &mut gradients.bonus {
                    bonus[at] += c * q * k;
                }
                self.add_weighted_value(p, scale * q * u * k * self.cotangent(p), gradients);
            }
        }
    }

    /// y += D∘v.
    fn skip(&self, gradients: &mut Gradients<f64>) {
        for p in 0..self.problem.value_dim {
            let at = self.head * self.problem.value_dim + p;
            gradients.value[self.row * self.problem.heads * self.problem.value_dim + at] +=
                skip_of(self.problem, self.inputs, self.head, p) * self.cotangent(p);
            if let Some(skip) = &mut gradients.skip {
                let index = if skip.len() == self.problem.heads {
                    self.head
                } else {
                    at
                };
                skip[index] += self.value(p) * self.cotangent(p);
            }
        }
    }

    /// Hands a derivative by δ v on to v and δ.
    fn add_weighted_value(&self, p: usize, derivative: f64, gradients: &mut Gradients<f64>) {
        let Problem { heads, value_dim, .. } = *self.problem;
        gradients.value[(self.row * heads + self.head) * value_dim + p] += self.step() * derivative;
        if let Some(step_size) = &mut gradients.step_size {
            step_size[self.row * heads + self.head] += self.value(p) * derivative;
        }
    }

    fn query(&self, n: usize) -> f64 {
        let group = self.problem.group_of(self.head);
        f64::from(self.inputs.query.row(self.row)[group * self.problem.key_dim + n])
    }

    fn key(&self, n: usize) -> f64 {
        let group = self.problem.group_of(self.head);
        f64::from(self.inputs.key.row(self.row)[group * self.problem.key_dim + n])
    }

    fn value(&self, p: usize) -> f64 {
        f64::from(self.inputs.value.row(self.row)[self.head * self.problem.value_dim + p])
    }

    fn step(&self) -> f64 {
        self.inputs
            .step_size
            .map_or(1.0, |steps| f64::from(steps.row(self.row)[self.head]))
    }

    fn cotangent(&self, p: usize) -> f64 {
        let Problem { heads, value_dim, .. } = *self.problem;
        self.cotangents.out[(self.row * heads + self.head) * value_dim + p]
    }

    /// Where the gradient of key or query `n` stands.
    fn key_at(&self, n: usize) -> usize {
        (self.row * self.problem.groups + self.problem.group_of(self.head)) * self.problem.key_dim + n
    }

    /// Where the gradient of the decay of key `n` stands.
    fn decay_at(&self, n: usize) -> usize {
        let Problem { heads, key_dim, .. } = *self.problem;
        let row = if self.inputs.log_decay.token().is_some() {
            self.row
        } else {
            0
        };
        match self.problem.decay.scope() {
            DecayScope::None => 0,
            DecayScope::Head => row * heads + self.head,
            DecayScope::Key => (row * heads + self.head) * key_dim + n,
        }
    }
}
