//! What step sizes read and give, and every way that can be wrong.

use crate::Rows;
use thiserror::Error;

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
    /// A buffer's length does not fit the raw values.
    #[error("step sizes: {what} needs {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values that the raw step sizes ask for.
        expected: usize,
        /// Values that came.
        found: usize,
    },
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
    let columns = if raw.rows() == 0 { bias.len() } else { raw.cols() };
    check_length("the bias", columns, bias.len())?;
    check_length("A_log", columns, a_log.len())
}

pub(super) fn validate_backward(
    raw: &Rows,
    heads: usize,
    cotangents: &Cotangents,
    gradients: &Gradients,
) -> Result<(), StepSizeError> {
    let count = raw.rows() * raw.cols();
    let views = [
        ("the cotangent of the step size", cotangents.step),
        ("the cotangent of the log decay", cotangents.log_decay),
    ];
    for (what, view) in views {
        if let Some(view) = view {
            check_length(what, count, view.rows() * view.cols())?;
            check_length(what, raw.rows(), view.rows())?;
        }
    }
    check_length("the gradient of the raw values", count, gradients.raw.len())?;
    let length = |buffer: &Option<&mut [f32]>| buffer.as_ref().map_or(heads, |values| values.len());
    check_length("the gradient of the bias", heads, length(&gradients.bias))?;
    check_length("the gradient of A_log", heads, length(&gradients.a_log))
}

pub(super) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), StepSizeError> {
    if expected == found {
        return Ok(());
    }
    Err(StepSizeError::Length {
        what,
        expected,
        found,
    })
}
