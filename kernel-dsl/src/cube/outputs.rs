//! What an operator with a state gives on a device, and the derivatives by it.

use super::{Client, DType, DeviceBuffer, DeviceRows, Error};
use crate::sequences::Sequences;

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
        (rows, cols): (usize, usize),
        dtype: DType,
        state_len: usize,
    ) -> Result<(), Error> {
        let argument = "the cotangent of out";
        self.out.expect(argument, rows, cols)?;
        self.out.expect_type(argument, dtype)?;
        expect_state("the cotangent of state", state_len, self.state.as_ref())
    }
}

/// Checks a state, if there is one.
pub(crate) fn expect_state(
    argument: &'static str,
    state_len: usize,
    state: Option<&DeviceBuffer>,
) -> Result<(), Error> {
    state.map_or(Ok(()), |state| state.expect(argument, state_len, DType::F32))
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
