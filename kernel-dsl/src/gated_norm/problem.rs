//! Shapes of a norm, and every way they can be wrong.

use crate::Rows;
#[cfg(feature = "cube")]
use crate::cube::{DeviceRows, Error as DeviceError};
#[cfg(feature = "cube")]
use crate::operands::ElementTypes;
use crate::operands::operator;
use crate::shape::ShapeError;
use thiserror::Error;

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

operator! {
    "norm", Problem as problem;
    /// What a norm reads.
    inputs<R, V> {
        /// Inputs x, `[rows, features]`.
        input: Rows[problem.rows, problem.features],
        /// z, whose SiLU multiplies, `[rows, features]`.
        gate: Option<Rows>[problem.rows, problem.features],
        /// Multiplies the normalised features, `[features]`.
        weight: Option<Values>[problem.features],
        /// Added after the weight, `[features]`.
        bias: Option<Values>[problem.features],
    }
    /// What a norm gives.
    output<R> {
        /// Normed and gated outputs, `[rows, features]`.
        out: Rows[problem.rows, problem.features],
    }
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
        Ok(self.expect_inputs(inputs)?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangent: Rows,
        gradients: &Gradients,
    ) -> Result<(), NormError> {
        self.validate(inputs)?;
        Ok(self.expect_backward(inputs, &Cotangents { out: cotangent }, gradients)?)
    }

    #[cfg(feature = "cube")]
    pub(super) fn validate_on_device(
        &self,
        inputs: &DeviceInputs,
        cotangent: Option<&DeviceRows>,
    ) -> Result<(), DeviceError> {
        self.validate_sizes().map_err(DeviceError::problem)?;
        let cotangents = cotangent.cloned().map(|out| DeviceCotangents { out });
        self.expect_on_device(
            inputs,
            cotangents.as_ref(),
            ElementTypes::all(inputs.input.dtype()),
        )
    }
}

pub(super) fn check_epsilon(eps: f32) -> Result<(), NormError> {
    if eps >= 0.0 {
        Ok(())
    } else {
        Err(NormError::Epsilon(eps))
    }
}
