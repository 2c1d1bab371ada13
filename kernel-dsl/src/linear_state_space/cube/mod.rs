//! Linear state spaces on a device: the same mathematics as CubeCL kernels, for a diagonal A.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`forward`] | token by token, a cube per sequence and channel, modes in its units | any length |
//! | [`backward`] | from the end, chunk by chunk with the states of each computed again | training |
//!
//! Tokens are f32, f16 or bf16, with the output and gradients in their type; constants and states are f32. The system is made
//! discrete in f32, phases with whole turns taken off. No sum is formed by atomics: the same call gives the same bits on the same
//! device. Values are not looked at on a device: modes that grow and step sizes below 0 give results without sense, where the host
//! refuses them. With a low rank both functions compute on the CPU, and wait for the device.

mod backward;
mod discretise_backward;
mod forward;
mod low_rank;
mod operands;

pub use backward::backward;
pub use forward::forward;
