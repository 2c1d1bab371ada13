//! The recurrence on a device: the same mathematics as CubeCL kernels.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token | short sequences |
//! | [`chunked`] | matrix products over chunks of tokens | prefill and training |
//! | [`chunked_autotuned`] | the same, by the fastest of several plans | shapes that come again and again |
//! | [`backward`] | the gradients of the chunked form | training |
//!
//! Inputs are f32, f16 or bf16; sums and states are f32. No sum is formed by atomics: the same call gives the same bits on
//! the same device.

#![allow(
    clippy::collapsible_if,
    reason = "the outer condition chooses the kernel when it is compiled, the inner one runs in it"
)]

mod autotune;
mod backward;
mod chunked;
mod gradients;
mod operands;
mod plan;
mod read_keys;
mod read_values;
mod scores;
mod sequential;
mod staging;
mod states;

pub use super::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
pub use autotune::chunked_autotuned;
pub use backward::backward;
pub use chunked::chunked;
pub use plan::Plan;
pub use sequential::{sequential, step};
