//! RMSNorm, plain, gated, and fused with the residual sum before it.
//!
//! ```text
//! norm(y) = y / √(mean(y²) + ε) ∘ weight (+ bias)          mean over groups of `group_size` features
//! gate after:  out = norm(x) ∘ SiLU(z)                      gate before:  out = norm(x ∘ SiLU(z))
//! ```
//!
//! Mamba-2 gates before the norm and, with several B/C groups, takes one mean per group (Dao & Gu, 2405.21060, section 7).

mod host;
mod problem;
pub mod reference;

pub use host::{add_rms_norm, gated_rms_norm};
pub use problem::{GateOrder, NormError, Problem};
