//! The selective scan on a device: the same mathematics as CubeCL kernels.
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
//! same bits on the same device.

mod backward;
mod forward;
mod gradients;
mod operands;
mod plan;

pub use super::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
pub use backward::backward;
pub use forward::{chunked, forward, sequential, step};
