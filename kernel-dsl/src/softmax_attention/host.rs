//! Softmax attention on the CPU: groups of heads and segments of tokens over threads, keys in blocks.

use std::ops::Range;

use super::{Inputs, Problem, SoftmaxError};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::{dispatch, max, mul_add};
use crate::vector::{exp2, load_at, store_at};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Query rows of a tile: what one pass over the keys serves.
const TILE_ROWS: usize = 64;
/// Query rows from which matrix products pay for their packing.
const PRODUCT_ROWS: usize = 8;
/// Keys of a block; a block of keys and values of 128 stays in the second cache.
const KEY_BLOCK: usize = 256;
/// Multiplications from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 18;

/// Appends keys and values to the cache and reads it with every query (see [the module](super) for the formula).
///
/// # Shapes
/// `keys` `[batch, groups, capacity, key_dim]` and `values` `[batch, groups, capacity, value_dim]`: written from each sequence's
/// length on, read up to there. `out` `[batch · time, heads · value_dim]`.
///
/// # Errors
/// [`SoftmaxError`] when a shape does not fit or the cache is too small; nothing is written then.
pub fn softmax_attention(
    problem: &Problem,
    inputs: &Inputs,
    keys: &mut [f32],
    values: &mut [f32],
    out: &mut [f32],
) -> Result<(), SoftmaxError> {
    problem.validate(inputs, keys.len(), values.len(), out.len())?;
    append(problem, inputs, keys, values);
    let tiles = tiles(problem);
    let per_token = problem.heads * (problem.key_dim + problem.value_dim);
    let reach = inputs
        .lengths
        .iter()
        .max()
        .map_or(0, |longest| longest + problem.time);
    let reach = problem
        .window
        .map_or(reach, |window| reach.min(window.saturating_add(1)));
    let work = (problem.batch * problem.time * per_token).saturating_mul(reach);
    let read = |tile: &Tile| tile.read(problem, inputs, keys, values);
    let found: Vec<Vec<f32>> = if work < WORTH_THREADS || rayon::current_num_threads() == 1 {
        tiles.iter().map(read).collect()
    } else {
        tiles.par_iter().map(read).collect()
    };
    for (tile, found) in tiles.iter().zip(&found) {
        tile.scatter(problem, found, out);
    }
    Ok(())
}

/// Writes the tokens at hand behind those that the cache holds.
fn append(problem: &Problem, inputs: &Inputs, keys: &mut [f32], values: &mut [f32]) {
    let sides = [
        (inputs.key, keys, problem.key_dim),
        (inputs.value, values, problem.value_dim),
    ];
    for (rows, cache, dim) in sides {
        for (b, &length) in inputs.lengths.iter().enumerate() {
            for t in 0..problem.time {
                let row = rows.row(b * problem.time + t).chunks_exact(dim);
                for (group, token) in row.enumerate() {
                    let place = (b * problem.groups + group) * problem.capacity + length + t;
                    cache[place * dim..][..dim].copy_from_slice(token);
                }
            }
        }
    }
}

/// Some tokens of all heads that share one group of keys and values. Row `r · tokens + t` is token t of the group's head r.
struct Tile {
    sequence: usize,
    group: usize,
    tokens: Range<usize>,
}

/// Later tokens read more, so that they come first: threads then end together.
fn tiles(problem: &Problem) -> Vec<Tile> {
    let shared = problem.heads / problem.groups;
    let tokens = (TILE_ROWS / shared).max(1);
    let mut tiles = Vec::new();
    for start in (0..problem.time).step_by(tokens).rev() {
        for sequence in 0..problem.batch {
            tiles.extend((0..problem.groups).map(|group| Tile {
                sequence,
                group,
                tokens: start..problem.time.min(start + tokens),
            }));
        }
    }
    tiles
}

impl Tile {
    /// The outputs of its rows, `[rows, value_dim]`.
    fn read(&self, problem: &Problem, inputs: &Inputs, keys: &[f32], values: &[f32]) -> Vec<f32> {
        let length = inputs.lengths[self.sequence];
        let first = problem.visible(length + self.tokens.start).start;
        let last = length + self.tokens.end;
        let place = (self.sequence * problem.groups + self.group) * problem.capacity;
        let keys = &keys[place * problem.key_dim..][..problem.capacity * problem.key_dim];
        let values = &values[place * problem.value_dim..][..problem.capacity * problem.value_dim];
        let query = self.queries(problem, inputs);
        let rows = query.len() / problem.key_dim;
        let mut stream = Stream::new(rows, problem.value_dim);
        for start in (first..last).step_by(KEY_BLOCK) {
            let block = start..last.min(start + KEY_BLOCK);
            let block_keys = &keys[block.start * problem.key_dim..block.end * problem.key_dim];
            let block_values = &values[block.start * problem.value_dim..block.end * problem.value_dim];
            stream.score(&query, block_keys, problem.key_dim, block.len());
            let visible = |row: usize| {
                let seen = problem.visible(length + self.tokens.start + row % self.tokens.len());
                let clamp = |at: usize| at.clamp(block.start, block.end) - block.start;
                clamp(seen.start)..clamp(seen.end)
            };
            dispatch(Weights {
                stream: &mut stream,
                count: block.len(),
                visible,
            });
            stream.add(block_values, block.len());
        }
        stream.finish()
    }

    /// Queries of the tile's rows, `[rows, key_dim]`, times scale · log₂ e: weights are powers of 2.
    fn queries(&self, problem: &Problem, inputs: &Inputs) -> Vec<f32> {
        let shared = problem.heads / problem.groups;
        let factor = problem.scale * std::f32::consts::LOG2_E;
        let mut query = Vec::with_capacity(shared * self.tokens.len() * problem.key_dim);
        for head in self.group * shared..(self.group + 1) * shared {
            for t in self.tokens.clone() {
                let row = inputs.query.row(self.sequence * problem.time + t);
                let values = &row[head * problem.key_dim..][..problem.key_dim];
                query.extend(values.iter().map(|q| q * factor));
            }
        }
        query
    }

    fn scatter(&self, problem: &Problem, found: &[f32], out: &mut [f32]) {
        let shared = problem.heads / problem.groups;
        for (row, values) in found.chunks_exact(problem.value_dim).enumerate() {
            let head = self.group * shared + row / self.tokens.len();
            let token = self.sequence * problem.time + self.tokens.start + row % self.tokens.len();
            out[(token * problem.heads + head) * problem.value_dim..][..problem.value_dim]
                .copy_from_slice(values);
        }
    }
}

/// What some queries have read so far.
struct Stream {
    rows: usize,
    value_dim: usize,
    /// m, `[rows]`, in powers of 2.
    highest: Vec<f32>,
    /// l, the sum of the weights so far, `[rows]`.
    sum: Vec<f32>,
    /// o, the weighted sum of the values so far, `[rows, value_dim]`.
    read: Vec<f32>,
    /// Scores of a block, then its weights, `[rows, keys]`.
    weights: Vec<f32>,
}

impl Stream {
    fn new(rows: usize, value_dim: usize) -> Self {
        Self {
            rows,
            value_dim,
            highest: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            read: vec![0.0; rows * value_dim],
            weights: vec![0.0; rows * KEY_BLOCK],
        }
    }

    /// Fills in the scores Q Kᵀ of a block.
    fn score(&mut self, query: &[f32], keys: &[f32], key_dim: usize, count: usize) {
        let weights = &mut self.weights[..self.rows * count];
        if self.rows < PRODUCT_ROWS {
            return dispatch(Dots {
                query,
                keys,
                key_dim,
                scores: weights,
                count,
            });
        }
        multiply(
            &mut MatrixMut::new(weights, self.rows, count, count),
            Destination::Overwrite,
            Matrix::new(query, self.rows, key_dim, key_dim),
            Matrix::new(keys, count, key_dim, key_dim).transposed(),
        );
    }

    /// o ← o + W V.
    fn add(&mut self, values: &[f32], count: usize) {
        let (rows, dim) = (self.rows, self.value_dim);
        let weights = &self.weights[..rows * count];
        if rows < PRODUCT_ROWS {
            return dispatch(WeightedSum {
                weights,
                values,
                dim,
                read: &mut self.read,
                count,
            });
        }
        multiply(
            &mut MatrixMut::new(&mut self.read, rows, dim, dim),
            Destination::Scale(1.0),
            Matrix::new(weights, rows, count, count),
            Matrix::new(values, count, dim, dim),
        );
    }

    /// Outputs y = o / l, `[rows, value_dim]`.
    fn finish(mut self) -> Vec<f32> {
        for (read, sum) in self.read.chunks_exact_mut(self.value_dim).zip(&self.sum) {
            let gain = 1.0 / sum;
            read.iter_mut().for_each(|y| *y *= gain);
        }
        self.read
    }
}

/// Turns scores into weights 2^(s − m′), and brings m, l and o up to m′.
struct Weights<'a, F> {
    stream: &'a mut Stream,
    count: usize,
    /// Which keys of the block a row reads.
    visible: F,
}

impl<F: Fn(usize) -> Range<usize>> WithSimd for Weights<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Stream {
            value_dim,
            highest,
            sum,
            read,
            weights,
            ..
        } = self.stream;
        let rows = weights
            .chunks_exact_mut(self.count)
            .zip(read.chunks_exact_mut(*value_dim));
        let sums = highest.iter_mut().zip(sum.iter_mut());
        for (row, ((weights, read), (highest, sum))) in rows.zip(sums).enumerate() {
            let seen = (self.visible)(row);
            weights[..seen.start].fill(0.0);
            weights[seen.end..].fill(0.0);
            if seen.is_empty() {
                continue;
            }
            let weights = &mut weights[seen];
            let before = *highest;
            *highest = maximum(simd, weights).max(before);
            if before < *highest {
                // 0 where nothing was read before.
                let factor = (before - *highest).exp2();
                *sum *= factor;
                read.iter_mut().for_each(|y| *y *= factor);
            }
            *sum += exponentiate(simd, weights, *highest);
        }
    }
}

#[inline(always)]
fn maximum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (whole, rest) = S::as_simd_f32s(values);
    let mut highest = simd.splat_f32s(f32::NEG_INFINITY);
    for &x in whole {
        highest = max(simd, x, highest);
    }
    rest.iter().fold(simd.reduce_max_f32s(highest), |m, &x| m.max(x))
}

/// x ← 2^(x − highest) for every value; gives their sum.
#[inline(always)]
fn exponentiate<S: Simd>(simd: S, values: &mut [f32], highest: f32) -> f32 {
    let (m, mut total) = (simd.splat_f32s(highest), simd.splat_f32s(0.0));
    let (whole, rest) = S::as_mut_simd_f32s(values);
    for x in whole {
        *x = exp2(simd, simd.sub_f32s(*x, m));
        total = simd.add_f32s(total, *x);
    }
    let mut sum = simd.reduce_sum_f32s(total);
    if !rest.is_empty() {
        let x = exp2(simd, simd.sub_f32s(simd.partial_load_f32s(rest), m));
        simd.partial_store_f32s(rest, x);
        sum += rest.iter().sum::<f32>();
    }
    sum
}

/// Q Kᵀ for few queries: four keys at a time, each by products along its values.
struct Dots<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    key_dim: usize,
    scores: &'a mut [f32],
    count: usize,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let dim = self.key_dim;
        let rows = self.query.chunks_exact(dim);
        for (query, scores) in rows.zip(self.scores.chunks_exact_mut(self.count)) {
            let mut places = scores.chunks_exact_mut(4);
            let mut keys = self.keys.chunks_exact(4 * dim);
            for (scores, keys) in (&mut places).zip(&mut keys) {
                let (a, rest) = keys.split_at(dim);
                let (b, rest) = rest.split_at(dim);
                let (c, d) = rest.split_at(dim);
                scores.copy_from_slice(&dots(simd, query, [a, b, c, d]));
            }
            for (score, key) in places
                .into_remainder()
                .iter_mut()
                .zip(keys.remainder().chunks_exact(dim))
            {
                [*score] = dots(simd, query, [key]);
            }
        }
    }
}

#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, query: &[f32], keys: [&[f32]; N]) -> [f32; N] {
    let mut sums = [simd.splat_f32s(0.0); N];
    for at in (0..query.len()).step_by(S::F32_LANES) {
        let q = load_at(simd, query, at);
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum = mul_add(simd, q, load_at(simd, key, at), *sum);
        }
    }
    sums.map(|sum| simd.reduce_sum_f32s(sum))
}

/// o ← o + W V for few queries: a vector of columns at a time, held in registers.
struct WeightedSum<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    dim: usize,
    read: &'a mut [f32],
    count: usize,
}

impl WithSimd for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let dim = self.dim;
        let rows = self.weights.chunks_exact(self.count);
        for (weights, read) in rows.zip(self.read.chunks_exact_mut(dim)) {
            let mut at = 0;
            while at + 4 * S::F32_LANES <= dim {
                columns::<S, 4>(simd, weights, self.values, dim, at, read);
                at += 4 * S::F32_LANES;
            }
            while at < dim {
                columns::<S, 1>(simd, weights, self.values, dim, at, read);
                at += S::F32_LANES;
            }
        }
    }
}

#[inline(always)]
fn columns<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    values: &[f32],
    dim: usize,
    at: usize,
    read: &mut [f32],
) {
    // Not `from_fn`: its closure would not be compiled for the vector instructions at hand.
    let mut sums = [simd.splat_f32s(0.0); N];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = load_at(simd, read, at + i * S::F32_LANES);
    }
    for (&weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
        let weight = simd.splat_f32s(weight);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = mul_add(simd, weight, load_at(simd, value, at + i * S::F32_LANES), *sum);
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        store_at(simd, read, at + i * S::F32_LANES, sum);
    }
}
