//! Chunk by chunk: for prefill.

use std::ops::Range;

use super::decay::Decay;
use super::prefix::read_prefix;
use super::{Head, over_heads, scatter};
use crate::feature_map::expand_rows;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::{dispatch, mul_add_one};
use crate::taylor_attention::{AttentionError, Inputs, Problem};
use pulp::{Simd, WithSimd};

/// Taylor attention in chunks of `chunk_size` tokens (at least 1), whose weights are formed without features.
///
/// # Shapes
/// As for [`sequential`](super::sequential).
///
/// # Errors
/// As for [`sequential`](super::sequential).
pub fn chunked(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), AttentionError> {
    problem.validate(inputs, state.len(), out.len())?;
    let heads = Head::all(problem, inputs);
    let states = state.chunks_exact_mut(problem.head_state_len()).collect();
    let values = over_heads(problem, heads.clone(), states, |head, state: &mut [f32]| {
        let mut out = Vec::with_capacity(head.rows.len() * problem.value_dim);
        let mut work = Work::new(&head, chunk_size);
        read_prefix(&head, chunk_size, state);
        for rows in head.chunks(chunk_size) {
            work.load(&head, &rows);
            work.read(&head, &rows, state);
            work.push_normalised(problem, &mut out);
            work.update(&head, &rows, state);
        }
        out
    });
    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    scatter(&heads, &values, problem.value_dim, out);
    Ok(())
}

/// What one chunk needs.
#[derive(Default)]
pub(super) struct Work {
    /// Augmented values ṽ, `[count, columns]`.
    pub values: Vec<f32>,
    /// Augmented values, each as much decayed as at the end of the chunk; empty where nothing decays.
    pub decayed_values: Vec<f32>,
    /// φ of the queries, `[count, features]`.
    pub of_queries: Vec<f32>,
    /// φ of the keys, likewise.
    pub of_keys: Vec<f32>,
    /// X, the arguments of the polynomial, `[count, count]`.
    pub arguments: Vec<f32>,
    /// W, the weights, `[count, count]`; 0 above the diagonal. Those of the numerator, decayed.
    pub weights: Vec<f32>,
    /// Augmented read-outs ỹ, `[count, columns]`.
    pub read: Vec<f32>,
    /// Powers of the head's γ.
    pub decay: Decay,
}

impl Work {
    /// Work on the chunks of a head, with nothing loaded yet.
    pub fn new(head: &Head, chunk_size: usize) -> Self {
        Self {
            decay: Decay::new(head.log_decay(), chunk_size.max(1).min(head.rows.len())),
            ..Self::default()
        }
    }

    /// Fills in the values and the features of the queries.
    pub fn load(&mut self, head: &Head, rows: &Range<usize>) {
        self.load_values(head, rows);
        let map = head.problem.feature_map();
        self.of_queries.resize(rows.len() * map.features(), 0.0);
        let query = |i: usize| head.query(rows.start + i);
        expand_rows(&map, query, rows.len(), &mut self.of_queries);
    }

    fn load_values(&mut self, head: &Head, rows: &Range<usize>) {
        head.augmented_values(rows, &mut self.values);
        if self.decay.is_some() {
            self.decayed_values.clone_from(&self.values);
            let last = rows.len().saturating_sub(1);
            self.decay
                .scale_rows(head.problem, &mut self.decayed_values, |j| last - j);
        }
    }

    /// ṽ as it reaches the end of the chunk.
    pub fn values_at_the_end(&self) -> &[f32] {
        match self.decay.is_some() {
            true => &self.decayed_values,
            false => &self.values,
        }
    }

    /// ỹ of the chunk from the state before it.
    pub fn read(&mut self, head: &Head, rows: &Range<usize>, state: &[f32]) {
        let (count, problem) = (rows.len(), head.problem);
        let (columns, features) = (problem.columns(), problem.features());
        for (buffer, len) in [
            (&mut self.arguments, count * count),
            (&mut self.weights, count * count),
            (&mut self.read, count * columns),
        ] {
            buffer.resize(len, 0.0);
        }
        let mut arguments = MatrixMut::new(&mut self.arguments, count, count, count);
        multiply(
            &mut arguments,
            Destination::Overwrite,
            head.queries(rows),
            head.keys(rows).transposed(),
        );
        dispatch(Polynomial {
            problem,
            count,
            arguments: &mut self.arguments,
            weights: &mut self.weights,
        });
        let mut read = MatrixMut::new(&mut self.read, count, columns, columns);
        let of_queries = Matrix::new(&self.of_queries, count, features, features);
        multiply(
            &mut read,
            Destination::Overwrite,
            of_queries,
            Matrix::new(state, features, columns, columns),
        );
        if self.decay.is_some() {
            self.read_decayed(problem, count);
            return;
        }
        multiply(
            &mut read,
            Destination::Scale(1.0),
            Matrix::new(&self.weights, count, count, count),
            Matrix::new(&self.values, count, columns, columns),
        );
    }

    /// What the chunk's own tokens add where the numerator decays, and what it has lost since the chunk began.
    fn read_decayed(&mut self, problem: &Problem, count: usize) {
        let (columns, value_dim) = (problem.columns(), problem.value_dim);
        self.decay.scale_rows(problem, &mut self.read, |i| i + 1);
        if problem.normalizer.is_some() {
            let reads = self.read.chunks_exact_mut(columns);
            for (read, weights) in reads.zip(self.weights.chunks_exact(count)) {
                read[value_dim] += weights.iter().sum::<f32>();
            }
        }
        self.decay.scale_weights(count, &mut self.weights);
        multiply(
            &mut MatrixMut::new(&mut self.read, count, value_dim, columns),
            Destination::Scale(1.0),
            Matrix::new(&self.weights, count, count, count),
            Matrix::new(&self.values, count, value_dim, columns),
        );
    }

    /// Appends y of the chunk.
    fn push_normalised(&self, problem: &Problem, out: &mut Vec<f32>) {
        for read in self.read.chunks_exact(problem.columns()) {
            let (read, sum) = read.split_at(problem.value_dim);
            let gain = match (problem.normalizer, sum) {
                (Some(eps), [sum]) => 1.0 / (sum + eps),
                _ => 1.0,
            };
            out.extend(read.iter().map(|y| y * gain));
        }
    }

    /// The state after the chunk, whose values have been loaded, from the state before it.
    pub fn update(&mut self, head: &Head, rows: &Range<usize>, state: &mut [f32]) {
        let (count, problem) = (rows.len(), head.problem);
        let (columns, map) = (problem.columns(), problem.feature_map());
        let features = map.features();
        self.of_keys.resize(count * features, 0.0);
        let key = |i: usize| head.key(rows.start + i);
        expand_rows(&map, key, count, &mut self.of_keys);
        self.decay.scale_rows(problem, state, |_| count);
        multiply(
            &mut MatrixMut::new(state, features, columns, columns),
            Destination::Scale(1.0),
            Matrix::new(&self.of_keys, count, features, features).transposed(),
            Matrix::new(self.values_at_the_end(), count, columns, columns),
        );
    }

    /// As [`Work::update`] of a chunk of which nothing has been loaded.
    pub fn pass(&mut self, head: &Head, rows: &Range<usize>, state: &mut [f32]) {
        self.load_values(head, rows);
        self.update(head, rows, state);
    }
}

/// Turns Q Kᵀ into X, and forms W.
struct Polynomial<'a> {
    problem: &'a Problem,
    count: usize,
    arguments: &'a mut [f32],
    weights: &'a mut [f32],
}

impl WithSimd for Polynomial<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [c0, c1, c2] = self.problem.expansion.coefficients().map(|c| c as f32);
        let scale = self.problem.scale;
        let rows = self.arguments.chunks_exact_mut(self.count);
        for (t, (arguments, weights)) in rows.zip(self.weights.chunks_exact_mut(self.count)).enumerate() {
            for (x, weight) in arguments.iter_mut().zip(weights.iter_mut()) {
                *x *= scale;
                *weight = mul_add_one(simd, mul_add_one(simd, c2, *x, c1), *x, c0);
            }
            weights[t + 1..].fill(0.0);
        }
    }
}
