//! What step sizes read and give, and every way that can be wrong.

use crate::Rows;
use crate::shape::{Operator, ShapeError};
use thiserror::Error;

pub(super) const OPERATOR: Operator = Operator("step sizes");

/// Derivatives of the loss by step sizes and log decays, `[tokens, heads]` each; nothing where the loss does not see them.
#[derive(Clone, Copy, Debug)]
pub struct Cotangents<'a> {
    /// By Δ.
    pub step: Option<Rows<'a>>,
    /// By log α.
    pub log_decay: Option<Rows<'a>>,
}

/// Derivatives of the loss by what step sizes are made of, overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// By the raw values, `[tokens, heads]`.
    pub raw: &'a mut [f32],
    /// By the bias, `[heads]`, where it is wanted.
    pub bias: Option<&'a mut [f32]>,
    /// By A_log, `[heads]`, where it is wanted.
    pub a_log: Option<&'a mut [f32]>,
}

/// Why step sizes cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum StepSizeError {
    /// Bounds out of order, or not numbers.
    #[error("step sizes need 0 ≤ lower limit ≤ upper limit, found {low} and {high}")]
    Limit {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Checks what forward and backward share.
pub(super) fn validate(
    raw: &Rows,
    bias: &[f32],
    a_log: &[f32],
    (low, high): (f32, f32),
) -> Result<(), StepSizeError> {
    if !(low >= 0.0 && low <= high) {
        return Err(StepSizeError::Limit { low, high });
    }
    let heads = if raw.rows() == 0 { bias.len() } else { raw.cols() };
    OPERATOR.values("bias", heads, bias.len())?;
    Ok(OPERATOR.values("a_log", heads, a_log.len())?)
}

pub(super) fn validate_backward(
    raw: &Rows,
    heads: usize,
    cotangents: &Cotangents,
    gradients: &Gradients,
) -> Result<(), StepSizeError> {
    let shape = (raw.rows(), heads);
    for (operand, view) in [("step", cotangents.step), ("log_decay", cotangents.log_decay)] {
        if let Some(view) = view {
            OPERATOR.cotangent_rows(operand, shape, &view)?;
        }
    }
    OPERATOR.gradient("raw", raw.rows() * heads, gradients.raw)?;
    OPERATOR.optional_gradient("bias", Some(heads), gradients.bias.as_deref())?;
    Ok(OPERATOR.optional_gradient("a_log", Some(heads), gradients.a_log.as_deref())?)
}
