//! The delta rule: the state of DeltaNet, Gated DeltaNet, KDA, RWKV-7 and other low-rank transitions.
//!
//! A token first removes what the state holds under its key, then writes. With decays a_t ≤ 1 per head or per key:
//!
//! ```text
//! delta      R_t = a_t ∘ S_{t−1}     S_t = R_t + β_t k_t (v_t − R_tᵀ k_t)ᵀ              state S ∈ R^{K×V}, one per (batch, head)
//! low rank   S_t = a_t ∘ S_{t−1} + b_t (p_tᵀ S_{t−1}) + k_t v_tᵀ
//!            y_t = scale · S_tᵀ q_t
//! ```
//!
//! The first is the second with p = a∘k and b = −β k, and β k in the place of the written key: all forms compute with one
//! algebra. Sources: Yang et al., "Parallelizing linear transformers with the delta rule over sequence length", 2024,
//! equation 3; Yang et al., "Gated delta networks", 2024, equation 10; Peng et al., "RWKV-7 Goose", 2025, section 3;
//! Kimi Team, "Kimi Linear", 2025, equation 1.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
pub mod monoid;
mod problem;
pub mod reference;

pub use host::{DEFAULT_CHUNK_SIZE, backward, chunked, element, sequential, step};
pub use monoid::{Element, ElementMut, apply, compose};
pub use problem::{
    Cotangents, DecayKind, DeltaRuleError, Gradients, Inputs, Operand, Problem, Transition,
    TransitionGradients, TransitionKind,
};
