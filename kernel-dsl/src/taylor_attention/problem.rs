//! Shapes of Taylor attention, and every way they can be wrong.

use crate::feature_map::{Expansion, FeatureMap, FeatureMapError, Packing};
use crate::sequences::{Sequences, SequencesError};
use crate::shape::{Operator, ShapeError};
use crate::{Cotangents, Rows};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("Taylor attention");

/// Shape and choices of Taylor attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence; of all together when they are packed.
    pub time: usize,
    /// Heads.
    pub heads: usize,
    /// K, values of a query and of a key.
    pub key_dim: usize,
    /// V, values of a value.
    pub value_dim: usize,
    /// Factor on q·k; 1/√K in the papers.
    pub scale: f32,
    /// Which polynomial of q·k weighs a value.
    pub expansion: Expansion,
    /// ε of the denominator Σ w + ε; `None` for no denominator. Based has 10⁻¹² in its recurrent form, 10⁻⁶ elsewhere.
    pub normalizer: Option<f32>,
}

/// What Taylor attention reads.
///
/// # Shapes
/// `query` and `key` `[rows, heads · key_dim]`, `value` `[rows, heads · value_dim]`; `rows` is `batch · time`, or `time` when the
/// sequences are packed.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// q.
    pub query: Rows<'a>,
    /// k.
    pub key: Rows<'a>,
    /// v.
    pub value: Rows<'a>,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Derivatives of the loss by what Taylor attention read: contiguous, each in the shape of its input, overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// By q.
    pub query: &'a mut [f32],
    /// By k.
    pub key: &'a mut [f32],
    /// By v.
    pub value: &'a mut [f32],
    /// By the state before the first token.
    pub state: &'a mut [f32],
}

/// Why Taylor attention cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum AttentionError {
    /// A head without keys or values.
    #[error("Taylor attention: {what} needs to be at least 1, found 0")]
    Zero {
        /// The size.
        what: &'static str,
    },
    /// ε is negative or not a number.
    #[error("Taylor attention needs ε ≥ 0, found {0}")]
    Epsilon(f32),
    /// The scale has no real root.
    #[error(transparent)]
    FeatureMap(#[from] FeatureMapError),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A step of more or fewer tokens than one.
    #[error("a step takes one token of each sequence, found {found}")]
    NotOneToken {
        /// Tokens that came.
        found: usize,
    },
    /// Sequences do not lie in the rows as stated.
    #[error("Taylor attention: {0}")]
    Sequences(#[from] SequencesError),
}

impl Problem {
    /// The feature map of queries and keys.
    pub fn feature_map(&self) -> FeatureMap {
        FeatureMap {
            key_dim: self.key_dim,
            scale: self.scale,
            expansion: self.expansion,
            packing: Packing::Symmetric,
        }
    }

    /// D, rows of a head's state.
    pub fn features(&self) -> usize {
        self.feature_map().features()
    }

    /// Columns of a head's state: V, and one for the denominator.
    pub fn columns(&self) -> usize {
        self.value_dim + usize::from(self.normalizer.is_some())
    }

    /// Length of the state, `[batch, heads, features, columns]`.
    pub fn state_len(&self) -> usize {
        self.batch * self.heads * self.head_state_len()
    }

    /// Length of the state of one head of one sequence.
    pub(crate) fn head_state_len(&self) -> usize {
        self.features() * self.columns()
    }

    /// Checks what does not depend on the inputs.
    pub(crate) fn validate_sizes(&self) -> Result<(), AttentionError> {
        let sizes = [
            ("heads", self.heads),
            ("key_dim", self.key_dim),
            ("value_dim", self.value_dim),
        ];
        for (what, size) in sizes {
            if size == 0 {
                return Err(AttentionError::Zero { what });
            }
        }
        match self.normalizer {
            Some(eps) if eps.is_nan() || eps < 0.0 => return Err(AttentionError::Epsilon(eps)),
            _ => {}
        }
        Ok(self.feature_map().check_scale()?)
    }

    pub(super) fn validate(&self, inputs: &Inputs, state: usize, out: usize) -> Result<(), AttentionError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        let rows = inputs.sequences.rows(self.batch, self.time);
        let (keys, values) = (self.heads * self.key_dim, self.heads * self.value_dim);
        OPERATOR.rows("query", (rows, keys), &inputs.query)?;
        OPERATOR.rows("key", (rows, keys), &inputs.key)?;
        OPERATOR.rows("value", (rows, values), &inputs.value)?;
        OPERATOR.values("state", self.state_len(), state)?;
        Ok(OPERATOR.values("out", rows * values, out)?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        state: usize,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), AttentionError> {
        let rows = inputs.sequences.rows(self.batch, self.time);
        let (keys, values) = (self.heads * self.key_dim, self.heads * self.value_dim);
        self.validate(inputs, state, rows * values)?;
        cotangents.validate(OPERATOR, (rows, values), state)?;
        OPERATOR.gradient("query", rows * keys, gradients.query)?;
        OPERATOR.gradient("key", rows * keys, gradients.key)?;
        OPERATOR.gradient("value", rows * values, gradients.value)?;
        Ok(OPERATOR.gradient("state", state, gradients.state)?)
    }
}
