//! Shapes of a rotary embedding, and every way they can be wrong.

use crate::Rows;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::ShapeError;
use thiserror::Error;

/// Which two values of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// (j, j + R/2).
    Halves,
    /// (2j, 2j + 1).
    Interleaved,
}

/// Shape of a rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each sequence; of all together when they are packed.
    pub time: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// R, how many of these are turned; even.
    pub rotary_dim: usize,
    /// Which two values of a head are turned together.
    pub pairing: Pairing,
    /// What the angles' ratios are made of; 10000 mostly.
    pub base: f64,
}

operator! {
    "rotary embedding", Problem as problem, rows;
    /// What is turned; `rows` is `batch · time`, or `time` when the sequences are packed.
    inputs<R> {
        /// x, `[rows, heads · head_dim]`.
        input: Rows[rows, problem.cols()],
    }
    /// What a rotary embedding gives.
    output<R> {
        /// x with its pairs turned, `[rows, heads · head_dim]`.
        out: Rows[rows, problem.cols()],
    }
}

/// Positions of the tokens in their sequences.
#[derive(Clone, Copy, Debug, Default)]
pub struct Positions<'a> {
    /// Which rows belong to which sequence. Positions count from the first token that is not padding.
    pub sequences: Sequences<'a>,
    /// Position of the first token of each sequence; `None` is 0 for all.
    pub first: Option<&'a [usize]>,
}

/// Why values cannot be turned.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RotaryError {
    /// An odd number of values, or more than a head has.
    #[error("rotary embedding: rotary_dim needs to be even and at most {head_dim}, found {found}")]
    Dim {
        /// Values of a head.
        head_dim: usize,
        /// Values to be turned in a head, `rotary_dim` of the problem.
        found: usize,
    },
    /// No angles can be made of this base.
    #[error("rotary embedding: the base needs to be positive and finite, found {0}")]
    Base(f64),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Sequences do not lie in the rows as stated.
    #[error("rotary embedding: {0}")]
    Sequences(#[from] SequencesError),
}

impl Problem {
    /// Values of a token.
    pub(super) fn cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// base^(−2j/R) of every pair.
    pub(super) fn frequencies(&self) -> impl Iterator<Item = f64> {
        let (dim, base) = (self.rotary_dim as f64, self.base);
        (0..self.rotary_dim / 2).map(move |j| base.powf(-2.0 * j as f64 / dim))
    }

    /// The places of pair `j` in a head.
    pub(super) fn pair(&self, j: usize) -> (usize, usize) {
        match self.pairing {
            Pairing::Halves => (j, j + self.rotary_dim / 2),
            Pairing::Interleaved => (2 * j, 2 * j + 1),
        }
    }

    pub(super) fn validate_positions(&self, positions: &Positions) -> Result<(), RotaryError> {
        if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            return Err(RotaryError::Dim {
                head_dim: self.head_dim,
                found: self.rotary_dim,
            });
        }
        let usable = self.base > 0.0 && self.base.is_finite();
        if !usable {
            return Err(RotaryError::Base(self.base));
        }
        positions.sequences.validate(self.batch, self.time)?;
        let first = positions.first.map_or(self.batch, <[usize]>::len);
        Ok(OPERATOR.values("first positions", self.batch, first)?)
    }

    pub(super) fn validate(
        &self,
        positions: &Positions,
        input: &Rows,
        out: usize,
    ) -> Result<(), RotaryError> {
        self.validate_positions(positions)?;
        let rows = positions.sequences.rows(self.batch, self.time);
        self.expect_inputs(&Inputs { input: *input }, rows)?;
        Ok(OPERATOR.values("out", rows * self.cols(), out)?)
    }
}

impl Positions<'_> {
    /// The position of a row of sequence `b`.
    pub(super) fn of(&self, b: usize, start: usize, row: usize) -> usize {
        // No text is long enough to reach the end, but a position may be given.
        self.first.map_or(0, |first| first[b]).saturating_add(row - start)
    }
}
