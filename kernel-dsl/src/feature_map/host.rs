//! Feature maps on the CPU: products of one key in SIMD lanes, keys over threads.

use super::{Cotangents, Expansion, FeatureMap, FeatureMapError, Gradients, Inputs, Outputs, Packing};
use crate::Rows;
use crate::simd::{dispatch, mul_add_one};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Features below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;

/// Writes φ of every key.
///
/// # Shapes
/// `input` `[rows, heads · key_dim]`, `out` `[rows, heads, features]`.
///
/// # Errors
/// [`FeatureMapError`] when a shape or the scale does not fit; nothing is written then.
pub fn forward(map: &FeatureMap, input: Rows, out: &mut [f32]) -> Result<(), FeatureMapError> {
    let problem = map.of_rows(input.rows(), input.cols())?;
    problem.expect_outputs(&Outputs { out: &mut *out })?;
    if problem.keys() == 0 {
        return Ok(());
    }
    let row_len = out.len() / input.rows();
    let one = |(row, out): (usize, &mut [f32])| {
        let (x, heads) = (input.row(row), out.len() / map.features());
        expand_rows(map, |head| &x[head * map.key_dim..][..map.key_dim], heads, out);
    };
    if out.len() < THREADED_WORK {
        out.chunks_exact_mut(row_len).enumerate().for_each(one);
    } else {
        out.par_chunks_exact_mut(row_len).enumerate().for_each(one);
    }
    Ok(())
}

/// Writes the gradient of Σ ⟨cotangent, φ⟩ by the keys.
///
/// # Shapes
/// `input` `[rows, heads · key_dim]`, `cotangent` `[rows, heads · features]`, `gradient` `[rows, heads, key_dim]`.
///
/// # Errors
/// [`FeatureMapError`] when a shape or the scale does not fit; nothing is written then.
pub fn backward(
    map: &FeatureMap,
    input: Rows,
    cotangent: Rows,
    gradient: &mut [f32],
) -> Result<(), FeatureMapError> {
    let problem = map.of_rows(input.rows(), input.cols())?;
    let gradients = Gradients {
        input: &mut *gradient,
    };
    problem.expect_backward(&Inputs { input }, &Cotangents { out: cotangent }, &gradients)?;
    if problem.keys() == 0 {
        return Ok(());
    }
    let one = |(row, gradient): (usize, &mut [f32])| {
        gradient.fill(0.0);
        let (x, heads) = (input.row(row), gradient.len() / map.key_dim);
        let key = |head: usize| &x[head * map.key_dim..][..map.key_dim];
        pull_back_rows(map, key, heads, cotangent.row(row), gradient);
    };
    if problem.keys() * map.features() < THREADED_WORK {
        gradient.chunks_exact_mut(input.cols()).enumerate().for_each(one);
    } else {
        gradient
            .par_chunks_exact_mut(input.cols())
            .enumerate()
            .for_each(one);
    }
    Ok(())
}

/// φ of `count` keys, `[count, features]`.
pub(crate) fn expand_rows<'a>(
    map: &FeatureMap,
    key: impl Fn(usize) -> &'a [f32],
    count: usize,
    out: &mut [f32],
) {
    dispatch(Expand { map, key, count, out });
}

/// Adds the gradients by `count` keys, `[count, key_dim]`, from cotangents `[count, features]` of their features.
pub(crate) fn pull_back_rows<'a>(
    map: &FeatureMap,
    key: impl Fn(usize) -> &'a [f32],
    count: usize,
    cotangent: &[f32],
    gradient: &mut [f32],
) {
    dispatch(PullBack {
        map,
        key,
        count,
        cotangent,
        gradient,
    });
}

struct Expand<'a, K> {
    map: &'a FeatureMap,
    key: K,
    count: usize,
    out: &'a mut [f32],
}

impl<'k, K: Fn(usize) -> &'k [f32]> WithSimd for Expand<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let features = self.map.features();
        for i in 0..self.count {
            expand(
                self.map,
                (self.key)(i),
                &mut self.out[i * features..(i + 1) * features],
            );
        }
    }
}

struct PullBack<'a, K> {
    map: &'a FeatureMap,
    key: K,
    count: usize,
    cotangent: &'a [f32],
    gradient: &'a mut [f32],
}

impl<'k, K: Fn(usize) -> &'k [f32]> WithSimd for PullBack<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (features, key_dim) = (self.map.features(), self.map.key_dim);
        for i in 0..self.count {
            let cotangent = &self.cotangent[i * features..(i + 1) * features];
            let gradient = &mut self.gradient[i * key_dim..(i + 1) * key_dim];
            pull_back(simd, self.map, (self.key)(i), cotangent, gradient);
        }
    }
}

#[inline(always)]
fn expand(map: &FeatureMap, x: &[f32], out: &mut [f32]) {
    let [constant, linear, quadratic] = map.factors().map(|factor| factor as f32);
    let mut rest = out;
    if map.expansion == Expansion::Taylor {
        let (first, others) = rest.split_at_mut(1 + x.len());
        first[0] = constant;
        for (out, &x) in first[1..].iter_mut().zip(x) {
            *out = linear * x;
        }
        rest = others;
    }
    for (i, &own) in x.iter().enumerate() {
        let (from, factor) = match map.packing {
            Packing::Full => (0, quadratic),
            Packing::Symmetric => (i, quadratic * std::f32::consts::SQRT_2),
        };
        let (row, others) = rest.split_at_mut(x.len() - from);
        for (out, &other) in row.iter_mut().zip(&x[from..]) {
            *out = factor * own * other;
        }
        if map.packing == Packing::Symmetric {
            row[0] = quadratic * own * own;
        }
        rest = others;
    }
}

/// ∂(x_i x_j) reaches both x_i and x_j.
#[inline(always)]
fn pull_back<S: Simd>(simd: S, map: &FeatureMap, x: &[f32], cotangent: &[f32], gradient: &mut [f32]) {
    let [_, linear, quadratic] = map.factors().map(|factor| factor as f32);
    let mut rest = cotangent;
    if map.expansion == Expansion::Taylor {
        let (first, others) = rest.split_at(1 + x.len());
        for (gradient, &cotangent) in gradient.iter_mut().zip(&first[1..]) {
            *gradient = mul_add_one(simd, linear, cotangent, *gradient);
        }
        rest = others;
    }
    for (i, &own) in x.iter().enumerate() {
        let (from, factor) = match map.packing {
            Packing::Full => (0, quadratic),
            Packing::Symmetric => (i, quadratic * std::f32::consts::SQRT_2),
        };
        let (row, others) = rest.split_at(x.len() - from);
        let mut sum = 0.0;
        let pairs = gradient[from..].iter_mut().zip(row).zip(&x[from..]);
        for ((gradient, &cotangent), &other) in pairs {
            let weighted = factor * cotangent;
            *gradient = mul_add_one(simd, weighted, own, *gradient);
            sum += weighted * other;
        }
        gradient[i] += sum;
        if map.packing == Packing::Symmetric {
            // The diagonal was counted with the factor of the others.
            gradient[i] += 2.0 * (quadratic - factor) * row[0] * own;
        }
        rest = others;
    }
}
