//! The definition in f64, token by token through the features.

use super::{AttentionError, Cotangents, Inputs, Problem};
use crate::Rows;
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
        head.read_prefix(state);
        for row in head.rows.clone() {
            head.update(row, state);
            out[head.place(row)].copy_from_slice(&head.read(row, state).y);
        }
    }
    Ok(out)
}

/// The gradients in f64, in the order of [`Gradients`](super::Gradients).
#[derive(Clone, Debug)]
pub struct GradientsF64 {
    /// Gradient by q, `[rows, heads, key_dim]`.
    pub query: Vec<f64>,
    /// Gradient by k, `[rows, heads, key_dim]`.
    pub key: Vec<f64>,
    /// Gradient by v, `[rows, heads, value_dim]`.
    pub value: Vec<f64>,
    /// Gradient by k′, `[batch, prefix, heads, key_dim]`; empty without a prefix.
    pub prefix_key: Vec<f64>,
    /// Gradient by v′, `[batch, prefix, heads, value_dim]`; empty without a prefix.
    pub prefix_value: Vec<f64>,
    /// Gradient by ln γ, `[heads]`, whether there is one or not.
    pub log_decay: Vec<f64>,
    /// Gradient by the initial state, `[batch, heads, features, columns]`.
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
    let mut asked = inputs
        .extents(problem, rows)
        .with_state(problem.state_len())
        .zeros::<f32>();
    problem.validate_backward(inputs, initial_state.len(), cotangents, &asked.as_written())?;
    let prefix = if inputs.prefix_key.is_some() {
        problem.batch * problem.prefix
    } else {
        0
    };
    let mut gradients = GradientsF64 {
        query: vec![0.0; rows * keys],
        key: vec![0.0; rows * keys],
        value: vec![0.0; rows * values],
        prefix_key: vec![0.0; prefix * keys],
        prefix_value: vec![0.0; prefix * values],
        log_decay: vec![0.0; problem.heads],
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
    prefix: std::ops::Range<usize>,
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
                prefix: match inputs.prefix_key {
                    Some(_) => Problem::prefix_sequences(inputs.prefix_padding).span(b, problem.prefix),
                    None => 0..0,
                },
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
        self.own(&self.inputs.query, row, self.problem.key_dim)
    }

    fn key(&self, row: usize) -> Vec<f64> {
        self.own(&self.inputs.key, row, self.problem.key_dim)
    }

    /// Augmented value ṽ of a row, `[columns]`: v, and a 1 where there is a denominator.
    fn value(&self, row: usize) -> Vec<f64> {
        let mut value = self.own(&self.inputs.value, row, self.problem.value_dim);
        value.resize(self.problem.columns(), 1.0);
        value
    }

    /// The key and ṽ of every token of the prefix, and its row.
    fn prefix(&self) -> Vec<(usize, Vec<f64>, Vec<f64>)> {
        let (Some(keys), Some(values)) = (&self.inputs.prefix_key, &self.inputs.prefix_value) else {
            return Vec::new();
        };
        let token = |row| {
            let mut value = self.own(values, row, self.problem.value_dim);
            value.resize(self.problem.columns(), 1.0);
            (row, self.own(keys, row, self.problem.key_dim), value)
        };
        self.prefix.clone().map(token).collect()
    }

    /// The head's part of a row.
    fn own(&self, rows: &Rows, row: usize, dim: usize) -> Vec<f64> {
        widened(&rows.row(row)[self.h * dim..][..dim])
    }

    /// What a column of the state is multiplied by at a token.
    fn decay(&self, column: usize) -> f64 {
        match self.inputs.log_decay {
            Some(log_decay) if column < self.problem.value_dim => f64::from(log_decay[self.h]).exp(),
            _ => 1.0,
        }
    }

    fn read_prefix(&self, state: &mut [f64]) {
        for (_, key, value) in self.prefix() {
            self.add(&key, &value, state);
        }
    }

    fn update(&self, row: usize, state: &mut [f64]) {
        for state in state.chunks_exact_mut(self.problem.columns()) {
            state
                .iter_mut()
                .enumerate()
                .for_each(|(c, s)| *s *= self.decay(c));
        }
        self.add(&self.key(row), &self.value(row), state);
    }

    /// S ← S + φ(k) ṽᵀ.
    fn add(&self, key: &[f64], value: &[f64], state: &mut [f64]) {
        let features = features::forward(&self.problem.feature_map(), key);
        for (state, feature) in state.chunks_exact_mut(value.len()).zip(features) {
            state.iter_mut().zip(value).for_each(|(s, v)| *s += feature * v);
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
        let mut start = initial.to_vec();
        self.read_prefix(&mut start);
        let mut states = vec![start];
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
            let (by_key, by_value) = self.of_write(&self.key(row), &self.value(row), &by_state);
            gradients.key[self.keys(row)].copy_from_slice(&by_key);
            gradients.value[self.place(row)].copy_from_slice(&by_value);
            for (at, by_state) in by_state.iter_mut().enumerate() {
                let column = at % columns;
                *by_state *= self.decay(column);
                if column < self.problem.value_dim {
                    gradients.log_decay[self.h] += *by_state * states[t][at];
                }
            }
        }
        for (row, key, value) in self.prefix() {
            let (by_key, by_value) = self.of_write(&key, &value, &by_state);
            gradients.prefix_key[self.keys(row)].copy_from_slice(&by_key);
            gradients.prefix_value[self.place(row)].copy_from_slice(&by_value);
        }
        gradients.state[self.state()].copy_from_slice(&by_state);
    }

    /// The gradients of the key and of the value that a state took in, from its cotangent.
    fn of_write(&self, key: &[f64], value: &[f64], by_state: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (map, columns) = (self.problem.feature_map(), self.problem.columns());
        let of_key = features::forward(&map, key);
        let rows = || by_state.chunks_exact(columns);
        let by_features: Vec<f64> = rows().map(|by_state| inner(by_state, value)).collect();
        let by_value = |c: usize| rows().zip(&of_key).map(|(by_state, f)| by_state[c] * f).sum();
        (
            features::backward(&map, key, &by_features),
            (0..self.problem.value_dim).map(by_value).collect(),
        )
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
