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
//! | model | transition | decay |
//! |---|---|---|
//! | DeltaNet | delta | none |
//! | Gated DeltaNet | delta | per head and token |
//! | KDA (Kimi Linear) | delta | per head, key and token |
//! | RWKV-7 | low rank with p = −κ, b = κ∘η | per head, key and token |
//!
//! The delta transition is the low-rank one with p = a∘k and b = −β k, and β k in the place of the written key: all forms
//! compute with one algebra.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token | any length; small states |
//! | [`chunked`] | a triangular system and matrix products over chunks of tokens | prefill with large states |
//! | [`backward`] | the same, from the last chunk to the first | gradients by every input |
//! | [`element`], [`compose`], [`apply`] | the monoid (M, U) of a segment: S ↦ M S + U | scans over threads, machines, windows |
//!
//! All take a state in and leave the new one in its place. The same call gives the same bits, whatever the number of
//! threads.
//!
//! Sources: Yang et al., "Parallelizing linear transformers with the delta rule over sequence length", 2024, equation 3;
//! Yang et al., "Gated delta networks", 2024, equation 10; Peng et al., "RWKV-7 Goose", 2025, section 3; Kimi Team, "Kimi
//! Linear", 2025, equation 1.
//!
//! ```
//! use spillway_kernel_dsl::delta_rule::{Inputs, Problem, Transition, TransitionKind, sequential};
//! use spillway_kernel_dsl::{DecayKind, LogDecay, Rows, Sequences};
//!
//! // Two tokens with the same key: with β = 1 the second value takes the place of the first.
//! let problem = Problem {
//!     batch: 1, time: 2, heads: 1, groups: 1, key_dim: 1, value_dim: 1,
//!     transition: TransitionKind::Delta, decay: DecayKind::None,
//! };
//! let ones = Rows::contiguous(&[1.0, 1.0], 2, 1)?;
//! let inputs = Inputs {
//!     query: ones, key: ones, value: Rows::contiguous(&[5.0, 7.0], 2, 1)?,
//!     transition: Transition::Delta { beta: ones }, log_decay: LogDecay::None, scale: 1.0, sequences: Sequences::Equal,
//! };
//! let (mut state, mut out) = ([4.0], [0.0; 2]);
//! sequential(&problem, &inputs, &mut state, &mut out)?;
//! assert_eq!((out, state), ([5.0, 7.0], [7.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "cube")]
pub mod cube;
mod host;
pub mod monoid;
mod problem;
pub mod reference;
mod transition;

pub use host::{DEFAULT_CHUNK_SIZE, backward, chunked, element, preferred_chunk_size, sequential, step};
pub use monoid::{Element, ElementMut, apply, compose};
pub use problem::{
    Cotangents, DeltaRuleError, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState, Problem,
    Results, TransitionGradients,
};
#[cfg(feature = "cube")]
pub use problem::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, DeviceTransition,
    DeviceTransitionGradients,
};
pub use transition::{Transition, TransitionKind};
