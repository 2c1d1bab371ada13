//! Gradients of query, key, value and initial state, chunk by chunk from the last.

use std::ops::Range;

use super::chunked::Work;
use super::prefix::{pull_back_prefix, read_prefix};
use super::{Head, over_heads, scatter, scatter_rows};
use crate::feature_map::{expand_rows, pull_back_rows};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::{dispatch, mul_add_one};
use crate::taylor_attention::{AttentionError, Cotangents, Gradients, Inputs, Problem};
use pulp::{Simd, WithSimd};

/// Gradients of the loss by all that Taylor attention reads, from the cotangents of its output and of its final state.
///
/// # Shapes
/// `initial_state` as [`Problem::state_len`] says; the rest as in [`Inputs`], [`Cotangents`] and [`Gradients`]. Rows of padding
/// get gradient 0.
///
/// # Errors
/// [`AttentionError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), AttentionError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    let heads = Head::all(problem, inputs);
    let len = problem.head_state_len();
    let states = gradients.state.chunks_exact_mut(len).enumerate().collect();
    let values = over_heads(problem, heads.clone(), states, |head, (index, by_state)| {
        let own = index * len..(index + 1) * len;
        match cotangents.state {
            Some(cotangent) => by_state.copy_from_slice(&cotangent[own.clone()]),
            None => by_state.fill(0.0),
        }
        head.backward(chunk_size, &initial_state[own], cotangents, by_state)
    });
    let of = |pick: fn(&HeadGradients) -> &[f32]| -> Vec<&[f32]> { values.iter().map(pick).collect() };
    scatter(&heads, &of(|head| &head.query), problem.key_dim, gradients.query);
    scatter(&heads, &of(|head| &head.key), problem.key_dim, gradients.key);
    scatter(
        &heads,
        &of(|head| &head.value),
        problem.value_dim,
        gradients.value,
    );
    let prefix = [
        (
            &mut gradients.prefix_key,
            of(|head| &head.prefix[0]),
            problem.key_dim,
        ),
        (
            &mut gradients.prefix_value,
            of(|head| &head.prefix[1]),
            problem.value_dim,
        ),
    ];
    for (out, values, dim) in prefix {
        if let Some(out) = out {
            scatter_rows(&heads, |head| head.prefix.clone(), &values, dim, out);
        }
    }
    if let Some(out) = &mut gradients.log_decay {
        for (h, out) in out.iter_mut().enumerate() {
            let heads = values.iter().skip(h).step_by(problem.heads);
            *out = heads.map(|head| head.log_decay).sum::<f64>() as f32;
        }
    }
    Ok(())
}

/// Gradients of one head, `[rows, dim]` each.
struct HeadGradients {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// Gradients by the keys and the values of the head's prefix.
    prefix: [Vec<f32>; 2],
    /// Gradient of ln γ.
    log_decay: f64,
}

impl Head<'_> {
    /// `by_state` is the cotangent of the final state, and becomes that of the initial one.
    fn backward(
        &self,
        chunk_size: usize,
        initial: &[f32],
        cotangents: &Cotangents,
        by_state: &mut [f32],
    ) -> HeadGradients {
        let (key_dim, value_dim) = (self.problem.key_dim, self.problem.value_dim);
        let time = self.rows.len();
        let mut gradients = HeadGradients {
            query: vec![0.0; time * key_dim],
            key: vec![0.0; time * key_dim],
            value: vec![0.0; time * value_dim],
            prefix: Default::default(),
            log_decay: 0.0,
        };
        let chunks = self.chunks(chunk_size);
        let mut work = Work::new(self, chunk_size);
        let states = self.boundary_states(chunk_size, &chunks, initial, &mut work);
        let mut pull_back = PullBack::default();
        for (index, rows) in chunks.iter().enumerate().rev() {
            let state = &states[index];
            work.load(self, rows);
            work.read(self, rows, state);
            let t = rows.start - self.rows.start..rows.end - self.rows.start;
            let by_value = &mut gradients.value[columns(&t, value_dim)];
            pull_back.load(self, rows, cotangents, &work);
            pull_back.value(self, &mut work, rows, by_state, by_value);
            if work.decay.is_some() {
                let after = by_state.iter().zip(&states[index + 1]);
                gradients.log_decay += pull_back.log_decay(self, &work, by_value, after);
            }
            pull_back.keys(
                self,
                &work,
                rows,
                (state, by_state),
                &mut gradients.query[columns(&t, key_dim)],
                &mut gradients.key[columns(&t, key_dim)],
            );
            pull_back.state(self, &work, rows.len(), by_state);
        }
        gradients.prefix = pull_back_prefix(self, chunk_size, by_state);
        gradients
    }

    /// The state before every chunk, and where something decays, after the last.
    fn boundary_states(
        &self,
        chunk_size: usize,
        chunks: &[Range<usize>],
        initial: &[f32],
        work: &mut Work,
    ) -> Vec<Vec<f32>> {
        let mut start = initial.to_vec();
        read_prefix(self, chunk_size, &mut start);
        let mut states = vec![start];
        let passed = match work.decay.is_some() {
            true => chunks.len(),
            false => chunks.len().saturating_sub(1),
        };
        for rows in chunks.iter().take(passed) {
            let mut state = states[states.len() - 1].clone();
            work.pass(self, rows, &mut state);
            states.push(state);
        }
        states
    }
}

fn columns(rows: &Range<usize>, dim: usize) -> Range<usize> {
    rows.start * dim..rows.end * dim
}

/// Cotangents inside one chunk.
#[derive(Default)]
struct PullBack {
    /// Cotangent of ỹ, `[count, columns]`.
    read: Vec<f32>,
    /// Cotangent of ỹ as it reaches the state before the chunk; empty where nothing decays.
    decayed_read: Vec<f32>,
    /// Cotangent of ṽ, `[count, columns]`.
    value: Vec<f32>,
    /// Cotangent of W, then of q·k, `[count, count]`.
    weights: Vec<f32>,
    /// Cotangent of the features of queries or keys, `[count, features]`.
    features: Vec<f32>,
}

impl PullBack {
    /// The cotangents of ỹ: \[ȳ/d, −⟨ȳ, y⟩/d\], where y = ỹ/d.
    fn load(&mut self, head: &Head, rows: &Range<usize>, cotangents: &Cotangents, work: &Work) {
        let value_dim = head.problem.value_dim;
        self.read.clear();
        let reads = work.read.chunks_exact(head.problem.columns());
        for (row, read) in rows.clone().zip(reads) {
            let cotangent = &cotangents.out.row(row)[head.head * value_dim..][..value_dim];
            match (head.problem.normalizer, read.split_at(value_dim)) {
                (Some(eps), (read, [sum])) => {
                    let gain = 1.0 / (sum + eps);
                    self.read.extend(cotangent.iter().map(|c| c * gain));
                    let along: f32 = cotangent.iter().zip(read).map(|(c, y)| c * y).sum();
                    self.read.push(-along * gain * gain);
                }
                _ => self.read.extend_from_slice(cotangent),
            }
        }
        if work.decay.is_some() {
            self.decayed_read.clone_from(&self.read);
            work.decay
                .scale_rows(head.problem, &mut self.decayed_read, |i| i + 1);
        }
    }

    /// The cotangents of ỹ as they reach the state before the chunk.
    fn read_at_the_start(&self, work: &Work) -> &[f32] {
        match work.decay.is_some() {
            true => &self.decayed_read,
            false => &self.read,
        }
    }

    /// V̄ = Wᵀ Ȳ + φ(K) S̄, without the column of ones.
    fn value(
        &mut self,
        head: &Head,
        work: &mut Work,
        rows: &Range<usize>,
        by_state: &[f32],
        out: &mut [f32],
    ) {
        let (count, problem) = (rows.len(), head.problem);
        let (columns, map) = (problem.columns(), problem.feature_map());
        let features = map.features();
        work.of_keys.resize(count * features, 0.0);
        let key = |i: usize| head.key(rows.start + i);
        expand_rows(&map, key, count, &mut work.of_keys);
        if work.decay.is_some() {
            for (j, of_key) in work.of_keys.chunks_exact_mut(features).enumerate() {
                let factor = work.decay.power(count - 1 - j);
                of_key.iter_mut().for_each(|x| *x *= factor);
            }
        }
        self.value.resize(count * columns, 0.0);
        let mut value = MatrixMut::new(&mut self.value, count, columns, columns);
        multiply(
            &mut value,
            Destination::Overwrite,
            Matrix::new(&work.weights, count, count, count).transposed(),
            Matrix::new(&self.read, count, columns, columns),
        );
        multiply(
            &mut value,
            Destination::Scale(1.0),
            Matrix::new(&work.of_keys, count, features, features),
            Matrix::new(by_state, features, columns, columns),
        );
        let values = self.value.chunks_exact(columns);
        for (out, value) in out.chunks_exact_mut(problem.value_dim).zip(values) {
            out.copy_from_slice(&value[..problem.value_dim]);
        }
    }

    /// ln γ's, of a chunk whose values' cotangents are known; `after` pairs the cotangent of the state after it with that state.
    fn log_decay<'a>(
        &self,
        head: &Head,
        work: &Work,
        by_value: &[f32],
        after: impl Iterator<Item = (&'a f32, &'a f32)>,
    ) -> f64 {
        let (columns, value_dim) = (head.problem.columns(), head.problem.value_dim);
        let inner = |a: &[f32], b: &[f32]| -> f64 {
            let pairs = a[..value_dim].iter().zip(&b[..value_dim]);
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let kept = after.enumerate().filter(|(at, _)| at % columns < value_dim);
        let mut later: f64 = kept.map(|(_, (a, b))| f64::from(*a) * f64::from(*b)).sum();
        let reads = self
            .read
            .chunks_exact(columns)
            .zip(work.read.chunks_exact(columns));
        let writes = work
            .values
            .chunks_exact(columns)
            .zip(by_value.chunks_exact(value_dim));
        let mut total = 0.0;
        for ((by_read, read), (value, by_value)) in reads.zip(writes).rev() {
            later += inner(by_read, read) - inner(value, by_value);
            total += later;
        }
        total
    }

    /// Q̄ and K̄, from the state before the chunk and the cotangent of the state after it.
    fn keys(
        &mut self,
        head: &Head,
        work: &Work,
        rows: &Range<usize>,
        (state, by_state): (&[f32], &[f32]),
        query: &mut [f32],
        key: &mut [f32],
    ) {
        let (count, problem) = (rows.len(), head.problem);
        let (columns, key_dim) = (problem.columns(), problem.key_dim);
        self.weights.resize(count * count, 0.0);
        // The denominator's column does not decay, and is added afterwards where the others do.
        let width = match work.decay.is_some() {
            true => problem.value_dim,
            false => columns,
        };
        multiply(
            &mut MatrixMut::new(&mut self.weights, count, count, count),
            Destination::Overwrite,
            Matrix::new(&self.read, count, width, columns),
            Matrix::new(&work.values, count, width, columns).transposed(),
        );
        if work.decay.is_some() {
            work.decay.scale_weights(count, &mut self.weights);
            if problem.normalizer.is_some() {
                let reads = self.read.chunks_exact(columns);
                for (weights, read) in self.weights.chunks_exact_mut(count).zip(reads) {
                    weights.iter_mut().for_each(|w| *w += read[problem.value_dim]);
                }
            }
        }
        dispatch(Derivative {
            problem,
            count,
            arguments: &work.arguments,
            weights: &mut self.weights,
        });
        let weights = Matrix::new(&self.weights, count, count, count);
        let mut out = MatrixMut::new(query, count, key_dim, key_dim);
        multiply(&mut out, Destination::Overwrite, weights, head.keys(rows));
        let mut out = MatrixMut::new(key, count, key_dim, key_dim);
        multiply(
            &mut out,
            Destination::Overwrite,
            weights.transposed(),
            head.queries(rows),
        );
        for (side, (state, out)) in [(state, query), (by_state, key)].into_iter().enumerate() {
            let map = problem.feature_map();
            let features = map.features();
            self.features.resize(count * features, 0.0);
            let mut by_features = std::mem::take(&mut self.features);
            let factor = match side {
                0 => self.read_at_the_start(work),
                _ => work.values_at_the_end(),
            };
            multiply(
                &mut MatrixMut::new(&mut by_features, count, features, features),
                Destination::Overwrite,
                Matrix::new(factor, count, columns, columns),
                Matrix::new(state, features, columns, columns).transposed(),
            );
            let token = |i: usize| match side {
                0 => head.query(rows.start + i),
                _ => head.key(rows.start + i),
            };
            pull_back_rows(&map, token, count, &by_features, out);
            self.features = by_features;
        }
    }

    /// S̄ ← γ^count S̄ + φ(Q)ᵀ Ȳ, whose rows have decayed likewise.
    fn state(&self, head: &Head, work: &Work, count: usize, by_state: &mut [f32]) {
        let (columns, features) = (head.problem.columns(), head.problem.features());
        work.decay.scale_rows(head.problem, by_state, |_| count);
        multiply(
            &mut MatrixMut::new(by_state, features, columns, columns),
            Destination::Scale(1.0),
            Matrix::new(&work.of_queries, count, features, features).transposed(),
            Matrix::new(self.read_at_the_start(work), count, columns, columns),
        );
    }
}

/// Turns W̄ into the cotangent of q·k: scale (c₁ + 2 c₂ X) ∘ W̄ up to the diagonal, 0 above.
struct Derivative<'a> {
    problem: &'a Problem,
    count: usize,
    arguments: &'a [f32],
    weights: &'a mut [f32],
}

impl WithSimd for Derivative<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [_, c1, c2] = self.problem.expansion.coefficients();
        let scale = f64::from(self.problem.scale);
        let (c1, c2) = ((c1 * scale) as f32, (2.0 * c2 * scale) as f32);
        let rows = self.weights.chunks_exact_mut(self.count);
        for (t, (weights, arguments)) in rows.zip(self.arguments.chunks_exact(self.count)).enumerate() {
            for (weight, &x) in weights.iter_mut().zip(arguments) {
                *weight *= mul_add_one(simd, c2, x, c1);
            }
            weights[t + 1..].fill(0.0);
        }
    }
}
