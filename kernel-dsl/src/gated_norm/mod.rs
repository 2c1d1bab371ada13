//! Norms over groups of features: RMSNorm, LayerNorm per head and L2, plain, gated, and fused with the residual sum before.
//!
//! ```text
//! norm(y) = (y − μ) / √(σ + ε) ∘ weight (+ bias)            μ and σ over groups of `group_size` features
//! gate after:  out = norm(x) ∘ SiLU(z)                      gate before:  out = norm(x ∘ SiLU(z))
//! ```
//!
//! | [`Statistic`] | μ | σ | |
//! |---|---|---|---|
//! | `MeanSquare` | 0 | mean y² | RMSNorm. Mamba-2 gates before it, one mean per B/C group (Dao & Gu, 2405.21060, section 7) |
//! | `Variance` | mean y | mean (y − μ)² | LayerNorm of each head: RWKV-5 to 7 after their read-out, with ε = 64·10⁻⁵ |
//! | `SumOfSquares` | 0 | Σ y² | L2 norm of the queries and keys of DeltaNet and its kin |
//!
//! Backward. With r = 1/√(σ + ε), n = (y − μ) r, the cotangent ḡ of n, and ⟨·⟩ the statistic's own mean or sum over a group,
//! ∂σ/∂y = 2⟨y − μ⟩ gives
//!
//! ```text
//! ȳ = r (ḡ − mean(ḡ) − n ⟨ḡ ∘ n⟩)          mean(ḡ) only where μ was subtracted
//! ```
//!
//! The gate and the weight are products around it; the gradients of weight and bias are sums over rows.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{JointGradients, add_rms_norm, add_rms_norm_backward, backward, gated_norm};
pub use problem::{
    Cotangents, GateOrder, GradientBuffers, Gradients, Inputs, NormError, Operands, Outputs, Problem,
    Results, Statistic,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
