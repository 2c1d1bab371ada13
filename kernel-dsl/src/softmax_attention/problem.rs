//! Shapes of softmax attention, and every way they can be wrong.

use std::ops::Range;

use crate::Rows;
use crate::operands::operands;
use crate::shape::{Operator, Role, ShapeError};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("softmax attention");

/// Shape and choices of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens at hand of each sequence.
    pub time: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub groups: usize,
    /// Values of a query and of a key.
    pub key_dim: usize,
    /// Values of a value.
    pub value_dim: usize,
    /// Tokens that the cache has room for, in each sequence.
    pub capacity: usize,
    /// Factor on q·k; key_dim^(−1/2) mostly.
    pub scale: f32,
    /// How many keys before its own a token reads; `None` for all.
    pub window: Option<usize>,
}

operands! {
    Problem as problem;
    /// What an attention reads beside the cache.
    Operands<R> {
        /// q, `[batch · time, heads · key_dim]`.
        query: Rows[problem.batch * problem.time, problem.heads * problem.key_dim],
        /// k of the tokens at hand, `[batch · time, groups · key_dim]`.
        key: Rows[problem.batch * problem.time, problem.groups * problem.key_dim],
        /// v of the tokens at hand, `[batch · time, groups · value_dim]`.
        value: Rows[problem.batch * problem.time, problem.groups * problem.value_dim],
    }
    settings<'a> {
        /// Number of tokens of each sequence that the cache holds before the call, `[batch]`.
        lengths: &'a [usize],
    }
}

/// What an attention reads in memory; see [`Operands`].
pub type Inputs<'a> = Operands<'a, Rows<'a>>;

/// Why an attention cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SoftmaxError {
    /// A head without keys or values.
    #[error("softmax attention: {what} needs to be at least 1, found 0")]
    Zero {
        /// Name of the size that is 0.
        what: &'static str,
    },
    /// Groups of keys and values do not divide the heads.
    #[error("softmax attention: {heads} heads cannot share {groups} groups of keys and values evenly")]
    Groups {
        /// Number of heads of the queries.
        heads: usize,
        /// Number of groups of keys and values.
        groups: usize,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The cache cannot take the tokens at hand.
    #[error(
        "softmax attention: the cache has room for {capacity} tokens, sequence {sequence} needs {needed}"
    )]
    Full {
        /// Room of the cache.
        capacity: usize,
        /// Index of the sequence.
        sequence: usize,
        /// Number of the sequence's tokens, those at hand included.
        needed: usize,
    },
}

impl Problem {
    /// Values of the keys in the cache, `[batch, groups, capacity, key_dim]`.
    pub fn keys_len(&self) -> usize {
        self.batch * self.groups * self.capacity * self.key_dim
    }

    /// Values of the values in the cache, `[batch, groups, capacity, value_dim]`.
    pub fn values_len(&self) -> usize {
        self.batch * self.groups * self.capacity * self.value_dim
    }

    /// The keys that a token at `position` reads.
    pub(super) fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| position.saturating_sub(window));
        first..position + 1
    }

    pub(super) fn validate(
        &self,
        inputs: &Inputs,
        keys: usize,
        values: usize,
        out: usize,
    ) -> Result<(), SoftmaxError> {
        let sizes = [
            ("heads", self.heads),
            ("groups", self.groups),
            ("key_dim", self.key_dim),
            ("value_dim", self.value_dim),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(SoftmaxError::Zero { what });
        }
        if !self.heads.is_multiple_of(self.groups) {
            return Err(SoftmaxError::Groups {
                heads: self.heads,
                groups: self.groups,
            });
        }
        inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?;
        OPERATOR.values("lengths", self.batch, inputs.lengths.len())?;
        OPERATOR.values("cache of keys", self.keys_len(), keys)?;
        OPERATOR.values("cache of values", self.values_len(), values)?;
        OPERATOR.values("out", self.batch * self.time * self.heads * self.value_dim, out)?;
        let needed = |length: &usize| length.saturating_add(self.time);
        match inputs
            .lengths
            .iter()
            .position(|length| needed(length) > self.capacity)
        {
            None => Ok(()),
            Some(sequence) => Err(SoftmaxError::Full {
                capacity: self.capacity,
                sequence,
                needed: needed(&inputs.lengths[sequence]),
            }),
        }
    }
}
