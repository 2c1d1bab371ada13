//! The prefix: what it adds to the state before the first token, and its gradients.

use std::ops::Range;

use super::{Head, chunks, slice};
use crate::Rows;
use crate::feature_map::{expand_rows, pull_back_rows};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};

/// S ← S + Σ φ(k′) ṽ′ᵀ, so many tokens at a time.
pub(super) fn read_prefix(head: &Head, chunk_size: usize, state: &mut [f32]) {
    let Some(prefix) = Prefix::of(head) else { return };
    let (columns, features) = (head.problem.columns(), head.problem.features());
    let (mut values, mut of_keys) = (Vec::new(), Vec::new());
    for rows in chunks(&head.prefix, chunk_size) {
        prefix.load(head, &rows, &mut values, &mut of_keys);
        multiply(
            &mut MatrixMut::new(state, features, columns, columns),
            Destination::Scale(1.0),
            Matrix::new(&of_keys, rows.len(), features, features).transposed(),
            Matrix::new(&values, rows.len(), columns, columns),
        );
    }
}

/// Gradients of the keys and values of the prefix of a head, `[prefix, dim]` each, from the cotangent of the state after it.
pub(super) fn pull_back_prefix(head: &Head, chunk_size: usize, by_state: &[f32]) -> [Vec<f32>; 2] {
    let Some(prefix) = Prefix::of(head) else {
        return [Vec::new(), Vec::new()];
    };
    let problem = head.problem;
    let (columns, features) = (problem.columns(), problem.features());
    let (key_dim, value_dim) = (problem.key_dim, problem.value_dim);
    let mut by_key = vec![0.0; head.prefix.len() * key_dim];
    let mut by_value = vec![0.0; head.prefix.len() * value_dim];
    let (mut values, mut of_keys, mut by_features) = (Vec::new(), Vec::new(), Vec::new());
    for rows in chunks(&head.prefix, chunk_size) {
        let (count, first) = (rows.len(), rows.start - head.prefix.start);
        prefix.load(head, &rows, &mut values, &mut of_keys);
        multiply(
            &mut MatrixMut::new(
                &mut by_value[first * value_dim..][..count * value_dim],
                count,
                value_dim,
                value_dim,
            ),
            Destination::Overwrite,
            Matrix::new(&of_keys, count, features, features),
            Matrix::new(by_state, features, value_dim, columns),
        );
        by_features.resize(count * features, 0.0);
        multiply(
            &mut MatrixMut::new(&mut by_features, count, features, features),
            Destination::Overwrite,
            Matrix::new(&values, count, columns, columns),
            Matrix::new(by_state, features, columns, columns).transposed(),
        );
        pull_back_rows(
            &problem.feature_map(),
            |i| prefix.key(head, rows.start + i),
            count,
            &by_features,
            &mut by_key[first * key_dim..][..count * key_dim],
        );
    }
    [by_key, by_value]
}

/// Keys and values of a prefix.
struct Prefix<'a> {
    key: &'a Rows<'a>,
    value: &'a Rows<'a>,
}

impl<'a> Prefix<'a> {
    fn of(head: &Head<'a>) -> Option<Self> {
        Some(Self {
            key: head.inputs.prefix_key.as_ref()?,
            value: head.inputs.prefix_value.as_ref()?,
        })
    }

    fn key(&self, head: &Head, row: usize) -> &'a [f32] {
        slice(self.key, row, head.head, head.problem.key_dim)
    }

    /// ṽ′ and the features of the keys of some rows.
    fn load(&self, head: &Head, rows: &Range<usize>, values: &mut Vec<f32>, of_keys: &mut Vec<f32>) {
        head.augmented(self.value, rows, values);
        let map = head.problem.feature_map();
        of_keys.resize(rows.len() * map.features(), 0.0);
        expand_rows(&map, |i| self.key(head, rows.start + i), rows.len(), of_keys);
    }
}
