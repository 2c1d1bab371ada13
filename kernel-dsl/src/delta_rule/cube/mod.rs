//! The delta rule on a device: the same mathematics as CubeCL kernels.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token | short sequences |
//! | [`chunked`] | triangular systems of all chunks at once, then products of matrices | prefill |
//! | [`forward`] | whichever of the last two suits the device | |
//! | [`backward`] | gradients from the states at chunk boundaries | training |
//!
//! Inputs are f32, f16 or bf16; sums, states and gradients are f32. No sum is formed by atomics: the same call gives the
//! same bits on the same device.

mod backward;
mod chunked;
mod forward;
mod operands;
mod plan;
mod prepare;
mod sweep;

pub use super::problem::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, DeviceTransition,
    DeviceTransitionGradients,
};
pub use backward::backward;
pub use chunked::chunked;
pub use forward::{forward, sequential, step};

use super::problem::Problem;
use crate::cube::{Client, DType, DeviceBuffer, Error};
use crate::sequences::Sequences;

/// A state, or one without tokens.
fn state_or_zeros(
    client: &Client,
    problem: &Problem,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceBuffer, Error> {
    match state {
        Some(state) => Ok(state.clone()),
        None => DeviceBuffer::zeros(client, problem.state_len(), DType::F32),
    }
}

/// Memory for `columns` values of every token; zeros where a kernel does not write all of them.
fn token_buffer(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    columns: usize,
    dtype: DType,
) -> Result<DeviceBuffer, Error> {
    let len = problem.rows(&inputs.sequences) * columns;
    match inputs.sequences {
        Sequences::Equal | Sequences::Packed(_) if problem.state_len() > 0 => {
            DeviceBuffer::empty(client, len, dtype)
        }
        _ => DeviceBuffer::zeros(client, len, dtype),
    }
}
