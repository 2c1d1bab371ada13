//! The selective scan of Mamba-1: a diagonal state per channel, whose decay and input depend on the token.
//!
//! ```text
//! h_t = exp(Δ_t A) ∘ h_{t-1} + Δ_t u_t B_t          state  h ∈ R^N, one per (batch, channel);  A ∈ R^N per channel, negative
//! y_t = C_t · h_t + D u_t                           Δ_t, u_t scalars of the channel;  B_t, C_t ∈ R^N of the channel's group
//! out_t = y_t SiLU(z_t)                             where there is a gate z
//! ```
//!
//! (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, equation 2 with algorithm 2: the
//! decay is discretised by a zero-order hold, the input by Euler's rule.) The decays `[batch, time, channels, state_dim]` are
//! never materialised.

#[cfg(feature = "cube")]
pub mod cube;
mod problem;
pub mod reference;

pub use problem::{Cotangents, Gradients, Inputs, Operand, Problem, ScanError};
