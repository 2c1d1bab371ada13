//! The definition in f64, token by token through the features.

use super::{AttentionError, Cotangents, Gradients, Inputs, Problem};
use crate::feature_map::reference as features;

/// Output `[rows, heads, value_dim]`; `state` is read and left after the last token.
///
/// # Errors
/// [`AttentionError`] when a shape does not fit.
pub fn attention(problem: &Problem, inputs: &Inputs, state: &mut [f64]) -> Result<Vec<f64>, AttentionError> {
    let values = problem.heads * problem.value_dim;
    let mut out = vec![0.0; inputs.sequences.rows(problem.batch, problem.time) * values];
    problem.validate(inputs, state.len(), out.len())?;
    for head in Head::all(problem, inputs) {
        let state = &mut state[head.state()];
        for row in head.rows.clone() {
            head.update(row, state);
            out[head.place(row)].copy_from_slice(&head.read(row, state).y);
        }
    }
    Ok(out)
}

/// The gradients in f64, in the order of [`Gradients`].
#[derive(Clone, Debug)]
pub struct GradientsF64 {
    /// By q, `[rows, heads, key_dim]`.
    pub query: Vec<f64>,
    /// By k, likewise.
    pub key: Vec<f64>,
    /// By v, `[rows, heads, value_dim]`.
    pub value: Vec<f64>,
    /// By the initial state.
    pub state: Vec<f64>,
}

/// Gradients of Σ ⟨cotangent, output⟩ + Σ ⟨cotangent, final state⟩. Keeps the state of every token.
///
/// # Errors
/// [`AttentionError`] when a shape does not fit.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
) -> Result<GradientsF64, AttentionError> {
    let rows = inputs.sequences.rows(problem.batch, problem.time);
    let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
    let (mut query, mut key, mut value) = (
        vec![0.0; rows * keys],
        vec![0.0; rows * keys],
        vec![0.0; rows * values],
    );
    let asked = Gradients {
        query: &mut query,
        key: &mut key,
        value: &mut value,
        state: &mut vec![0.0; problem.state_len()],
    };
    problem.validate_backward(inputs, initial_state.len(), cotangents, &asked)?;
    let mut gradients = GradientsF64 {
        query: vec![0.0; rows * keys],
        key: vec![0.0; rows * keys],
        value: vec![0.0; rows * values],
        state: vec![0.0; initial_state.len()],
    };
    for head in Head::all(problem, inputs) {
        head.backward(&initial_state[head.state()], cotangents, &mut gradients);
    }
    Ok(gradients)
}

/// One head of one sequence.
struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    b: usize,
    h: usize,
    rows: std::ops::Range<usize>,
}

/// What one token reads out.
struct ReadOut {
    y: Vec<f64>,
    /// Σ w + ε, or 1.
    denominator: f64,
}

impl<'a> Head<'a> {
    fn all(problem: &'a Problem, inputs: &'a Inputs<'a>) -> impl Iterator<Item = Self> {
        (0..problem.batch * problem.heads).map(move |i| {
            let (b, h) = (i / problem.heads, i % problem.heads);
            Self {
                problem,
                inputs,
                b,
                h,
                rows: inputs.sequences.span(b, problem.time),
            }
        })
    }

    fn state(&self) -> std::ops::Range<usize> {
        let (index, len) = (
            self.b * self.problem.heads + self.h,
            self.problem.head_state_len(),
        );
        index * len..(index + 1) * len
    }

    /// Where the values of a row lie.
    fn place(&self, row: usize) -> std::ops::Range<usize> {
        let (index, len) = (row * self.problem.heads + self.h, self.problem.value_dim);
        index * len..(index + 1) * len
    }

    fn keys(&self, row: usize) -> std::ops::Range<usize> {
        let (index, len) = (row * self.problem.heads + self.h, self.problem.key_dim);
        index * len..(index + 1) * len
    }

    fn query(&self, row: usize) -> Vec<f64> {
        let dim = self.problem.key_dim;
        widened(&self.inputs.query.row(row)[self.h * dim..][..dim])
    }

    fn key(&self, row: usize) -> Vec<f64> {
        let dim = self.problem.key_dim;
        widened(&self.inputs.key.row(row)[self.h * dim..][..dim])
    }

    /// ṽ.
    fn value(&self, row: usize) -> Vec<f64> {
        let dim = self.problem.value_dim;
        let mut value = widened(&self.inputs.value.row(row)[self.h * dim..][..dim]);
        value.resize(self.problem.columns(), 1.0);
        value
    }

    fn update(&self, row: usize, state: &mut [f64]) {
        let (map, value) = (self.problem.feature_map(), self.value(row));
        let features = features::forward(&map, &self.key(row));
        for (state, feature) in state.chunks_exact_mut(value.len()).zip(features) {
            state.iter_mut().zip(&value).for_each(|(s, v)| *s += feature * v);
        }
    }

    fn read(&self, row: usize, state: &[f64]) -> ReadOut {
        let map = self.problem.feature_map();
        let features = features::forward(&map, &self.query(row));
        let column = |c: usize| -> f64 {
            let rows = state.chunks_exact(self.problem.columns());
            rows.zip(&features)
                .map(|(state, feature)| feature * state[c])
                .sum()
        };
        let value_dim = self.problem.value_dim;
        let denominator = self
            .problem
            .normalizer
            .map_or(1.0, |eps| column(value_dim) + f64::from(eps));
        ReadOut {
            y: (0..value_dim).map(|c| column(c) / denominator).collect(),
            denominator,
        }
    }

    fn backward(&self, initial: &[f64], cotangents: &Cotangents, gradients: &mut GradientsF64) {
        let (map, columns) = (self.problem.feature_map(), self.problem.columns());
        let mut states = vec![initial.to_vec()];
        for (t, row) in self.rows.clone().enumerate() {
            let mut state = states[t].clone();
            self.update(row, &mut state);
            states.push(state);
        }
        let mut by_state = cotangents
            .state
            .map_or(vec![0.0; initial.len()], |state| widened(&state[self.state()]));
        for (t, row) in self.rows.clone().enumerate().rev() {
            let state = &states[t + 1];
            let cotangent = self.cotangent(row, cotangents, &self.read(row, state));
            let query = self.query(row);
            let of_query = features::forward(&map, &query);
            let mut by_features = Vec::new();
            for (d, state) in state.chunks_exact(columns).enumerate() {
                by_features.push(inner(state, &cotangent));
                for (c, &cotangent) in cotangent.iter().enumerate() {
                    by_state[d * columns + c] += of_query[d] * cotangent;
                }
            }
            gradients.query[self.keys(row)].copy_from_slice(&features::backward(&map, &query, &by_features));
            let (key, value) = (self.key(row), self.value(row));
            let of_key = features::forward(&map, &key);
            let rows = by_state.chunks_exact(columns);
            let by_features: Vec<f64> = rows.map(|by_state| inner(by_state, &value)).collect();
            gradients.key[self.keys(row)].copy_from_slice(&features::backward(&map, &key, &by_features));
            for (c, place) in self.place(row).enumerate() {
                let rows = by_state.chunks_exact(columns);
                gradients.value[place] = rows.zip(&of_key).map(|(by_state, f)| by_state[c] * f).sum();
            }
        }
        gradients.state[self.state()].copy_from_slice(&by_state);
    }

    /// The cotangent of ỹ.
    fn cotangent(&self, row: usize, cotangents: &Cotangents, read: &ReadOut) -> Vec<f64> {
        let dim = self.problem.value_dim;
        let by_out = widened(&cotangents.out.row(row)[self.h * dim..][..dim]);
        let mut cotangent: Vec<f64> = by_out.iter().map(|c| c / read.denominator).collect();
        if self.problem.normalizer.is_some() {
            cotangent.push(-inner(&by_out, &read.y) / read.denominator);
        }
        cotangent
    }
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}
