//! What an operator with a state gives on a device, and the derivatives by it.

use super::{Client, DType, DeviceBuffer, DeviceRows, Error};
use crate::sequences::Sequences;
use crate::shape::Operator;

/// What a forward call computes.
///
/// # Shapes
/// `out` a row per token, without gaps; `state` as the operator's state.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// In the type of the operator's tokens. Rows of no sequence are 0.
    pub out: DeviceBuffer,
    /// The state after the last token, in f32.
    pub state: DeviceBuffer,
}

/// Derivatives of a loss by [`Outputs`]; as [`Cotangents`](crate::Cotangents).
#[derive(Clone, Debug)]
pub struct DeviceCotangents {
    /// By the output, in its type.
    pub out: DeviceRows,
    /// By the final state, in f32; `None` where the loss does not see it.
    pub state: Option<DeviceBuffer>,
}

impl DeviceCotangents {
    /// Checks shapes and types.
    pub(crate) fn validate(
        &self,
        operator: Operator,
        out: (usize, usize),
        dtype: DType,
        state_len: usize,
    ) -> Result<(), Error> {
        operator.device_cotangent_rows("out", out, dtype, &self.out)?;
        match &self.state {
            Some(state) => operator.device_cotangent("state", (state_len, DType::F32), state),
            None => Ok(()),
        }
    }
}

/// Checks a state, if there is one.
pub(crate) fn expect_state(
    operator: Operator,
    state_len: usize,
    state: Option<&DeviceBuffer>,
) -> Result<(), Error> {
    match state {
        Some(state) => operator.device_values("state", (state_len, DType::F32), state),
        None => Ok(()),
    }
}

/// Memory for `len` values of token rows that a kernel writes; zeros where some rows belong to no sequence.
pub(crate) fn token_buffer(
    client: &Client,
    sequences: &Sequences,
    len: usize,
    dtype: DType,
) -> Result<DeviceBuffer, Error> {
    match sequences {
        Sequences::LeftPadded(_) => DeviceBuffer::zeros(client, len, dtype),
        Sequences::Equal | Sequences::Packed(_) => DeviceBuffer::empty(client, len, dtype),
    }
}
