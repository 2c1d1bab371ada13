//! The weighted-sum recurrence: the state of Mamba-2, RetNet, GLA, RWKV-5, RWKV-6 and linear attention.
//!
//! ```text
//! h_t = a_t ∘ h_{t-1} + k_t (δ_t v_t)ᵀ                            state  h ∈ R^{K×V}, one per (batch, head)
//! y_t = scale · q_tᵀ h_t + D ∘ v_t                                 inclusive read-out
//! y_t = scale · q_tᵀ (h_{t-1} + (u∘k_t)(δ_t v_t)ᵀ) + D ∘ v_t       bonus read-out
//! ```
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token | any length; what the others must equal |
//! | [`sequential_bounded`] | token by token, states clipped to a norm | interventions that need every state |
//! | [`chunked`] | matrix products over chunks of tokens | prefill |
//! | [`backward`] | gradients, chunk by chunk | training |
//! | [`normalized`] | all of these with a normaliser | linear attention, Based |
//! | [`element`], [`compose`], [`apply`] | the monoid (A, G) of a segment: h ↦ A∘h + G | scans over threads, machines, windows |
//!
//! All take a state in and leave the new one in its place. Sequences may be equally long, left-padded or packed end to end
//! ([`Inputs::sequences`]). The same call gives the same bits, whatever the number of
//! threads.
//!
//! A token writes one outer product. Writes of a higher rank, h_t = a_t ∘ h_{t-1} + Σ_r k_tr (δ_t v_tr)ᵀ with a read-out for each r, as
//! in Mamba-3's MIMO form, would be a `rank` of [`Problem`] beside `groups`: query and key get `groups·rank·key_dim` columns, value and
//! output `heads·rank·value_dim` in the declaration of `problem.rs`, and state, decays and monoid stay what they are. In a chunk, the
//! `rank` products of a token are as many rows of the matrices of keys and values under one decay; token by token, they are a loop
//! around the update and the read.
//!
//! ```
//! use spillway_kernel_dsl::{Rows, Sequences};
//! use spillway_kernel_dsl::recurrence::{Inputs, Problem, ReadOut, sequential};
//! use spillway_kernel_dsl::{DecayKind, LogDecay};
//!
//! // Two tokens, one head, a 1×1 state that halves at every token.
//! let problem = Problem {
//!     batch: 1, time: 2, heads: 1, groups: 1, key_dim: 1, value_dim: 1,
//!     decay: DecayKind::PerHead, read_out: ReadOut::Inclusive,
//! };
//! let ones = Rows::contiguous(&[1.0, 1.0], 2, 1)?;
//! let inputs = Inputs {
//!     query: ones, key: ones, value: ones, log_decay: LogDecay::Constant(&[-std::f32::consts::LN_2]),
//!     step_size: None, bonus: None, skip: None, scale: 1.0, sequences: Sequences::Equal,
//! };
//! let (mut state, mut out) = ([4.0], [0.0; 2]);
//! sequential(&problem, &inputs, &mut state, &mut out)?;
//! assert_eq!((out, state), ([3.0, 2.5], [2.5]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "cube")]
pub mod cube;
pub(crate) mod host;
pub mod monoid;
pub mod normalized;
mod problem;
pub mod reference;

pub use host::{
    BACKWARD_CHUNK_SIZE, DEFAULT_CHUNK_SIZE, backward, chunked, element, preferred_chunk_size, sequential,
    sequential_bounded, step,
};
pub use monoid::{Element, ElementMut, apply, compose};
pub use problem::{
    Cotangents, DecayIndex, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState, Problem, ReadOut,
    RecurrenceError, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
