//! States that operators take on a device, and memory for the rows that they give.

use super::{Client, DType, DeviceBuffer, Error};
use crate::sequences::Sequences;
use crate::shape::Operator;

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
