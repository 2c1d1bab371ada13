//! Rotary position embedding: pairs of a query or key turned by an angle that grows with the position.
//!
//! ```text
//! θ_j = p · base^(−2j/R),   j = 0 … R/2 − 1             p the token's position, R = rotary_dim
//! (a, b) ↦ (a cos θ_j − b sin θ_j,  b cos θ_j + a sin θ_j)
//! ```
//!
//! | [`Pairing`] | pair j of a head | |
//! |---|---|---|
//! | `Halves` | (j, j + R/2) | GPT-NeoX, Llama, flash-linear-attention's RetNet |
//! | `Interleaved` | (2j, 2j + 1) | GPT-J, torchscale's RetNet |
//!
//! Values of a head from R on stay as they are. A rotation is orthogonal: the backward pass turns the cotangent back by the same
//! angles. Angles are computed in f64, so that position 10⁶ is as exact as position 1. Source: Su et al., 2104.09864.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{backward, rotary};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, Operands, Outputs, Pairing, Positions, Problem, Results,
    RotaryError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
