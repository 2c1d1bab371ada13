//! Shapes of a norm, and every way they can be wrong.

use crate::Rows;
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
    /// Rows do not fit the problem.
    #[error("norm: {what} needs {expected_rows} rows of {expected_cols}, found {rows} of {cols}")]
    Rows {
        /// Input or gate.
        what: &'static str,
        /// Rows that the problem asks for.
        expected_rows: usize,
        /// Features that the problem asks for.
        expected_cols: usize,
        /// Rows that came.
        rows: usize,
        /// Columns that came.
        cols: usize,
    },
    /// A buffer's length does not fit the problem.
    #[error("norm: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values that the problem asks for.
        expected: usize,
        /// Values that came.
        found: usize,
    },
    /// A gradient by an input that is not there.
    #[error("norm: the gradient of the {0} needs a {0}, found none")]
    Absent(&'static str),
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
        self.check_rows("the input", &inputs.input)?;
        if let Some(gate) = &inputs.gate {
            self.check_rows("the gate", gate)?;
        }
        check_length(
            "the weight",
            features,
            inputs.weight.map_or(features, <[f32]>::len),
        )?;
        check_length("the bias", features, inputs.bias.map_or(features, <[f32]>::len))
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangent: &Rows,
        gradients: &Gradients,
    ) -> Result<(), NormError> {
        self.validate(inputs)?;
        self.check_rows("the cotangent", cotangent)?;
        check_length("the gradient of the input", self.len(), gradients.input.len())?;
        let optional = [
            ("gate", inputs.gate.is_some(), &gradients.gate, self.len()),
            (
                "weight",
                inputs.weight.is_some(),
                &gradients.weight,
                self.features,
            ),
            ("bias", inputs.bias.is_some(), &gradients.bias, self.features),
        ];
        for (what, given, gradient, expected) in optional {
            match gradient {
                Some(_) if !given => return Err(NormError::Absent(what)),
                Some(gradient) => check_length(what, expected, gradient.len())?,
                None => {}
            }
        }
        Ok(())
    }

    fn check_rows(&self, what: &'static str, view: &Rows) -> Result<(), NormError> {
        let (rows, cols) = (view.rows(), view.cols());
        let (expected_rows, expected_cols) = (self.rows, self.features);
        if rows != expected_rows || (rows > 0 && cols != expected_cols) {
            return Err(NormError::Rows {
                what,
                expected_rows,
                expected_cols,
                rows,
                cols,
            });
        }
        Ok(())
    }
}

pub(super) fn check_epsilon(eps: f32) -> Result<(), NormError> {
    if eps >= 0.0 {
        Ok(())
    } else {
        Err(NormError::Epsilon(eps))
    }
}

pub(super) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), NormError> {
    if expected == found {
        return Ok(());
    }
    Err(NormError::Length {
        what,
        expected,
        found,
    })
}
