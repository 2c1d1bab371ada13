//! Step sizes and decays of a discretised recurrence whose decay is one scalar per head and token.
//!
//! ```text
//! Δ = clamp(softplus(raw + bias), low, high)          log α = −Δ e^{A_log}
//! ```
//!
//! The clamp comes after the softplus. Source: Dao & Gu, 2405.21060, section 7; the decay is a zero-order hold of A = −e^{A_log}.
//!
//! Backward. With x = raw + bias and the cotangents Δ̄ and l̄ of the two outputs,
//!
//! ```text
//! x̄ = (Δ̄ − e^{A_log} l̄) σ(x)   where the clamp let Δ pass, else 0;      Ā_log = Σ l̄ log α
//! ```

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{backward, step_size};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, Operands, Outputs, Problem, Results, StepSizeError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
