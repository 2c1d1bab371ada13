//! What a backward pass begins with, for every operator that has an output and a state.

use crate::Rows;
use crate::shape::{Operator, ShapeError};

/// Derivatives of a loss by what an operator gives.
///
/// # Shapes
/// `out` as the output, a row per token; `state` as the operator's state.
#[derive(Clone, Copy, Debug)]
pub struct Cotangents<'a> {
    /// By the output.
    pub out: Rows<'a>,
    /// By the state after the last token; `None` where the loss does not see it, which is zero.
    pub state: Option<&'a [f32]>,
}

impl Cotangents<'_> {
    /// Checks both shapes.
    pub(crate) fn validate(
        &self,
        operator: Operator,
        out: (usize, usize),
        state_len: usize,
    ) -> Result<(), ShapeError> {
        operator.cotangent_rows("out", out, &self.out)?;
        operator.cotangent("state", state_len, self.state)
    }
}
