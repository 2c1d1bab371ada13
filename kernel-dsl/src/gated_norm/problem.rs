//! Shapes of a norm, and every way they can be wrong.

use crate::Rows;
use crate::shape::{Operator, ShapeError};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("norm");

/// Whether the gate is applied before or after the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateOrder {
    /// norm(x ∘ SiLU(z)): what Mamba-2's checkpoints use.
    NormAfterGate,
    /// norm(x) ∘ SiLU(z).
    NormBeforeGate,
}

/// What a group of features is divided by the root of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// mean(y²): RMSNorm.
    MeanSquare,
    /// mean((y − mean y)²), after mean y has been subtracted: LayerNorm, and GroupNorm over the heads of RWKV.
    Variance,
    /// Σ y²: the L2 norm of queries and keys. A lower bound b on the norm, as of `torch.nn.functional.normalize`, is ε = b² to
    /// all digits of any vector longer than a few thousand b.
    SumOfSquares,
}

impl Statistic {
    /// What a sum over a group of `size` features is multiplied by.
    pub(super) fn weight(self, size: usize) -> f64 {
        match self {
            Self::MeanSquare | Self::Variance => 1.0 / size as f64,
            Self::SumOfSquares => 1.0,
        }
    }
}

/// Shape of a norm over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Rows, each normalised on its own.
    pub rows: usize,
    /// Values in a row.
    pub features: usize,
    /// Neighbouring features that share one statistic; divides `features`.
    pub group_size: usize,
    /// ε, added to the statistic.
    pub eps: f32,
    /// What the features are divided by the root of.
    pub statistic: Statistic,
    /// Where the gate is applied, if there is one.
    pub order: GateOrder,
}

/// What a norm reads.
///
/// # Shapes
/// `input` and `gate` `[rows, features]`; `weight` and `bias` `[features]`.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// x.
    pub input: Rows<'a>,
    /// z, whose SiLU multiplies.
    pub gate: Option<Rows<'a>>,
    /// Multiplies the normalised features.
    pub weight: Option<&'a [f32]>,
    /// Added after the weight.
    pub bias: Option<&'a [f32]>,
}

/// Derivatives of the loss by what a norm read: contiguous, each in the shape of its input, overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// By x.
    pub input: &'a mut [f32],
    /// By z, where there is one and its gradient is wanted.
    pub gate: Option<&'a mut [f32]>,
    /// By the weight, likewise.
    pub weight: Option<&'a mut [f32]>,
    /// By the bias, likewise.
    pub bias: Option<&'a mut [f32]>,
}

/// Why a norm cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum NormError {
    /// Groups do not divide the features.
    #[error("a norm of {features} features cannot be taken in groups of {group_size}")]
    Groups {
        /// Values in a row.
        features: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// ε is negative or not a number.
    #[error("a norm needs ε ≥ 0, found {0}")]
    Epsilon(f32),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Problem {
    /// Values in an input and in an output.
    pub(super) fn len(&self) -> usize {
        self.rows * self.features
    }

    /// Checks what does not depend on the inputs.
    pub(super) fn validate_sizes(&self) -> Result<(), NormError> {
        let (features, group_size) = (self.features, self.group_size);
        if group_size == 0 || !features.is_multiple_of(group_size) {
            return Err(NormError::Groups { features, group_size });
        }
        check_epsilon(self.eps)
    }

    pub(super) fn validate(&self, inputs: &Inputs) -> Result<(), NormError> {
        self.validate_sizes()?;
        let features = self.features;
        OPERATOR.rows("input", (self.rows, features), &inputs.input)?;
        if let Some(gate) = &inputs.gate {
            OPERATOR.rows("gate", (self.rows, features), gate)?;
        }
        let len = |values: Option<&[f32]>| values.map_or(features, <[f32]>::len);
        OPERATOR.values("weight", features, len(inputs.weight))?;
        Ok(OPERATOR.values("bias", features, len(inputs.bias))?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangent: &Rows,
        gradients: &Gradients,
    ) -> Result<(), NormError> {
        self.validate(inputs)?;
        OPERATOR.cotangent_rows("out", (self.rows, self.features), cotangent)?;
        OPERATOR.gradient("input", self.len(), gradients.input)?;
        let gate = inputs.gate.map(|_| self.len());
        OPERATOR.optional_gradient("gate", gate, gradients.gate.as_deref())?;
        let of = |values: Option<&[f32]>| values.map(<[f32]>::len);
        OPERATOR.optional_gradient("weight", of(inputs.weight), gradients.weight.as_deref())?;
        Ok(OPERATOR.optional_gradient("bias", of(inputs.bias), gradients.bias.as_deref())?)
    }
}

pub(super) fn check_epsilon(eps: f32) -> Result<(), NormError> {
    if eps >= 0.0 {
        Ok(())
    } else {
        Err(NormError::Epsilon(eps))
    }
}
