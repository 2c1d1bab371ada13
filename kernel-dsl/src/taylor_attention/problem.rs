//! Shapes of Taylor attention, and every way they can be wrong.

#[cfg(feature = "cube")]
use crate::cube::{DeviceBuffer, Error as DeviceError};
use crate::feature_map::{Expansion, FeatureMap, FeatureMapError, Packing};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::sequences::{Sequences, SequencesError};
use crate::shape::ShapeError;
use thiserror::Error;

/// Shape and choices of Taylor attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each sequence; of all together when they are packed.
    pub time: usize,
    /// Tokens of the prefix of each sequence, paddings included; 0 for no prefix.
    pub prefix: usize,
    /// Number of heads, each with a state of its own.
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

operator! {
    "Taylor attention", Problem as problem, rows;
    /// What Taylor attention reads; `rows` is `batch · time`, or `time` when the sequences are packed. On devices all have one type,
    /// and all gradients are f32.
    inputs<R, V> {
        /// q, `[rows, heads · key_dim]`.
        query: Rows[rows, problem.heads * problem.key_dim],
        /// k, `[rows, heads · key_dim]`.
        key: Rows[rows, problem.heads * problem.key_dim],
        /// v, `[rows, heads · value_dim]`.
        value: Rows[rows, problem.heads * problem.value_dim],
        /// k′, the keys of the prefix, `[batch · prefix, heads · key_dim]`, also where sequences are packed.
        prefix_key: Option<Rows>[problem.batch * problem.prefix, problem.heads * problem.key_dim],
        /// v′, the values of the prefix, `[batch · prefix, heads · value_dim]`; given where its keys are.
        prefix_value: Option<Rows>[problem.batch * problem.prefix, problem.heads * problem.value_dim],
        /// ln γ, `[heads]`: what the numerator decays by at every token. None for 0.
        log_decay: Option<Values>[problem.heads],
    }
    settings<'a> {
        /// Which rows belong to which sequence.
        sequences: Sequences<'a>,
        /// Rows of padding before each sequence's prefix, none of which counts; `None` for no padding.
        prefix_padding: Option<&'a [usize]>,
    }
    /// What Taylor attention gives.
    output<R> {
        /// y, `[rows, heads · value_dim]`.
        out: Rows[rows, problem.heads * problem.value_dim],
    }
    /// S, `[batch, heads, features, columns]`; see [`Problem::features`] and [`Problem::columns`].
    state[problem.state_len()]
}

/// Why Taylor attention cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum AttentionError {
    /// A head without keys or values.
    #[error("Taylor attention: {what} needs to be at least 1, found 0")]
    Zero {
        /// Name of the size that is 0.
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
        /// Number of tokens of each sequence in the problem.
        found: usize,
    },
    /// Keys of a prefix without values, or the other way round, or neither where there is a prefix.
    #[error("Taylor attention: a prefix of {prefix} tokens needs {expected}, found {found}")]
    Prefix {
        /// Tokens of the prefix.
        prefix: usize,
        /// Which operands the prefix needs, as a phrase.
        expected: &'static str,
        /// Which operands of the prefix were given, as a phrase.
        found: &'static str,
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

    /// Rows of the inputs and of the output.
    pub(super) fn rows(&self, sequences: &Sequences) -> usize {
        sequences.rows(self.batch, self.time)
    }

    /// How the prefixes lie in the rows of theirs.
    pub(super) fn prefix_sequences(padding: Option<&[usize]>) -> Sequences<'_> {
        padding.map_or(Sequences::Equal, Sequences::LeftPadded)
    }

    /// Checks that a prefix has keys and values, and its padding.
    fn validate_prefix(
        &self,
        key: bool,
        value: bool,
        padding: Option<&[usize]>,
    ) -> Result<(), AttentionError> {
        let found = match (key, value) {
            (true, true) => return Ok(Self::prefix_sequences(padding).validate(self.batch, self.prefix)?),
            (false, false) if self.prefix == 0 => return Ok(()),
            (false, false) => "neither",
            (true, false) => "keys alone",
            (false, true) => "values alone",
        };
        Err(AttentionError::Prefix {
            prefix: self.prefix,
            expected: "keys and values",
            found,
        })
    }

    fn validate_inputs(&self, inputs: &Inputs) -> Result<(), AttentionError> {
        self.validate_sizes()?;
        inputs.sequences.validate(self.batch, self.time)?;
        let (key, value) = (inputs.prefix_key.is_some(), inputs.prefix_value.is_some());
        self.validate_prefix(key, value, inputs.prefix_padding)?;
        Ok(self.expect_inputs(inputs, self.rows(&inputs.sequences))?)
    }

    pub(super) fn validate(&self, inputs: &Inputs, state: usize, out: usize) -> Result<(), AttentionError> {
        self.validate_inputs(inputs)?;
        OPERATOR.values("state", self.state_len(), state)?;
        let columns = self.heads * self.value_dim;
        Ok(OPERATOR.values("out", self.rows(&inputs.sequences) * columns, out)?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        state: usize,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), AttentionError> {
        self.validate_inputs(inputs)?;
        let rows = self.rows(&inputs.sequences);
        Ok(self.expect_backward(inputs, state, cotangents, gradients, rows)?)
    }

    /// Checks every shape and type of a call on a device.
    #[cfg(feature = "cube")]
    pub(super) fn validate_on_device(
        &self,
        inputs: &DeviceInputs,
        state: Option<&DeviceBuffer>,
        cotangents: Option<&DeviceCotangents>,
    ) -> Result<(), DeviceError> {
        self.validate_sizes().map_err(DeviceError::problem)?;
        inputs.sequences.validate(self.batch, self.time)?;
        let (key, value) = (inputs.prefix_key.is_some(), inputs.prefix_value.is_some());
        self.validate_prefix(key, value, inputs.prefix_padding)
            .map_err(DeviceError::problem)?;
        let types = ElementTypes::all(inputs.query.dtype());
        self.expect_on_device(inputs, state, cotangents, types, self.rows(&inputs.sequences))
    }
}
