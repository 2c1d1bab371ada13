//! The recurrence of RWKV-4: per channel, a weighted mean of all values so far, weights decaying with distance.
//!
//! ```text
//! o_t = (N_{t-1} + e^{u+k_t} v_t) / (M_{t-1} + e^{u+k_t})       the present token comes in by the bonus u
//! N_t = e^w N_{t-1} + e^{k_t} v_t                               w ≤ 0, one per channel; the decay comes after the read
//! M_t = e^w M_{t-1} + e^{k_t}
//! ```
//!
//! (Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", 2023, equations 16 and 22 to 28.) Keys are exponents
//! without bound, so that N and M are kept divided by e^m with the running maximum m_t = max(m_{t-1} + w, k_t); the state is
//! (N e^{−m}, M e^{−m}, m). Every exponential in every form here has an exponent of 0 or less.

#[cfg(feature = "cube")]
pub mod cube;
mod problem;
pub mod reference;

pub use problem::{Cotangents, EMPTY_MAX, Gradients, Inputs, Operand, Problem, Wkv4Error};
