//! WKV-4 on a device: the same mathematics as CubeCL kernels.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token | short or many sequences |
//! | [`chunked`] | all chunks at once, in three passes | long sequences that are too few to fill the device |
//! | [`forward`] | whichever of the last two suits the device | |
//! | [`backward`] | gradients from the states at chunk boundaries | training |
//!
//! Inputs are f32, f16 or bf16; sums, states and gradients are f32. No sum is formed by atomics: the same call gives the
//! same bits on the same device. Log decays are not looked at on a device: positive ones or NaN give results without sense,
//! where the host refuses them.

mod backward;
mod forward;
mod inputs;
mod operands;

pub use backward::{DeviceGradients, backward};
pub use forward::{chunked, forward, sequential, step};
pub use inputs::{DeviceCotangents, DeviceInputs};

use super::problem::Problem;
use crate::cube::{Client, DType, DeviceBuffer, Error};
use crate::sequences::Sequences;

/// What a forward call computes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// `[rows, channels]`, in the type of the inputs. Rows of no sequence are 0.
    pub out: DeviceBuffer,
    /// The state after the last token, `[batch, 3, channels]` in f32.
    pub state: DeviceBuffer,
}

/// Memory for a value of every token and channel; zeros where some rows belong to no sequence.
fn token_buffer(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    dtype: DType,
) -> Result<DeviceBuffer, Error> {
    let len = inputs.rows(problem) * problem.channels;
    match inputs.sequences {
        Sequences::LeftPadded(_) => DeviceBuffer::zeros(client, len, dtype),
        Sequences::Equal | Sequences::Packed(_) => DeviceBuffer::empty(client, len, dtype),
    }
}
