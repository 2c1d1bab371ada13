//! Heads of queries, keys and values.

use crate::expect;
use burn::tensor::Tensor;
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::{Error, Result};

/// How many heads a mixer has, and how wide they are.
///
/// Fewer heads of keys and values than of queries: neighbouring queries share them (grouped queries). More heads of values than
/// of queries: neighbouring values share queries and keys (grouped values).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of the queries.
    pub query: usize,
    /// Heads of the keys; a divisor of those of the queries.
    pub key: usize,
    /// Heads of the values; a divisor or a multiple of those of the queries.
    pub value: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
}

impl Heads {
    /// As many heads of each.
    pub fn equal(heads: usize, key_dim: usize, value_dim: usize) -> Self {
        Self {
            query: heads,
            key: heads,
            value: heads,
            key_dim,
            value_dim,
        }
    }

    /// Heads of the recurrence.
    pub fn count(&self) -> usize {
        self.query.max(self.value)
    }

    /// Widths of the projections to queries, keys and values.
    pub fn widths(&self) -> [usize; 3] {
        [
            self.query * self.key_dim,
            self.key * self.key_dim,
            self.value * self.value_dim,
        ]
    }

    /// Width of the read-out.
    pub fn read_out_width(&self) -> usize {
        self.count() * self.value_dim
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let Self {
            query,
            key,
            value,
            key_dim,
            value_dim,
        } = *self;
        expect::positive("heads and their widths", &[query, key, value, key_dim, value_dim])?;
        for (heads, groups) in [(query, key), (self.count(), query), (self.count(), value)] {
            if !heads.is_multiple_of(groups) {
                return Err(Error::Groups { heads, groups });
            }
        }
        Ok(())
    }

    /// Where interventions act on a weighted sum with a decay per head over these.
    pub(crate) fn site(&self, layer: usize) -> Site {
        Site {
            groups: self.query,
            ..Site::weighted_sum(layer, self.count(), self.key_dim, self.value_dim)
        }
    }

    /// Keys of every query head, from those of the key heads, `[batch, time, heads, key_dim]`.
    pub(crate) fn repeat_keys(&self, key: Tensor<4>) -> Tensor<4> {
        repeat(key, 2, self.query / self.key)
    }

    /// Values of every head of the recurrence, from those of the value heads, `[batch, time, heads, value_dim]`.
    pub(crate) fn repeat_values(&self, value: Tensor<4>) -> Tensor<4> {
        repeat(value, 2, self.count() / self.value)
    }
}

/// Rows of `heads` equal parts as heads.
pub(crate) fn split(rows: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, time, width] = rows.dims();
    rows.reshape([batch, time, heads, width / heads])
}

/// Every head `share` times in a row, where heads are on `axis`.
pub(crate) fn repeat(x: Tensor<4>, axis: usize, share: usize) -> Tensor<4> {
    if share == 1 {
        return x;
    }
    let mut shape = x.dims();
    shape[axis] *= share;
    x.unsqueeze_dim::<5>(axis + 1)
        .repeat_dim(axis + 1, share)
        .reshape(shape)
}
