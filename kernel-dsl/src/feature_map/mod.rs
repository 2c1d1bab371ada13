//! Polynomial feature maps, whose inner products are a polynomial of q·k.
//!
//! ```text
//! φ(x) = [ √c₀,  √(c₁ s) x,  √c₂ s vec(x xᵀ) ],      φ(q)·φ(k) = c₀ + c₁ (s q·k) + c₂ (s q·k)²
//! ```
//!
//! | [`Expansion`] | c₀, c₁, c₂ | |
//! |---|---|---|
//! | `Taylor` | 1, 1, ½ | eˣ to second order: Based (Arora et al., 2402.18668, section 4), with s = 1/√K |
//! | `Square` | 0, 0, 1 | the square alone: ReBased (Aksenov et al., 2402.10644). Parts with c = 0 are left out |
//!
//! x xᵀ is symmetric: [`Packing::Symmetric`] keeps its upper triangle, row by row, the entries off the diagonal times √2. Inner
//! products stay what they are with little more than half of the K² values.
//!
//! Attention through these maps need not form them for every token: see [`taylor_attention`](crate::taylor_attention).

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{backward, forward};
pub(crate) use host::{expand_rows, pull_back_rows};
pub use problem::{
    Cotangents, Expansion, FeatureMap, FeatureMapError, GradientBuffers, Gradients, Inputs, Operands,
    Outputs, Packing, Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
