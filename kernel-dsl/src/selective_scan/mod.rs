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
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token, channels side by side | any length |
//! | [`backward`] | chunk by chunk from the end, states recomputed | training |
//! | [`element`], [`compose`], [`apply`] | the monoid (ΣΔ, U) of a segment | scans over threads, machines, windows |
//!
//! There is no form in matrix products: every state value has a decay of its own. All take a state in and leave the new one
//! in its place. The same call gives the same bits, whatever the number of threads.
//!
//! ```
//! use spillway_kernel_dsl::{Rows, Sequences};
//! use spillway_kernel_dsl::selective_scan::{Inputs, Problem, sequential};
//!
//! // Two tokens, one channel, one state value that halves at every token.
//! let problem = Problem { batch: 1, time: 2, channels: 1, state_dim: 1, groups: 1 };
//! let ones = Rows::contiguous(&[1.0, 1.0], 2, 1)?;
//! let inputs = Inputs {
//!     input: ones, step_size: ones, a: &[-std::f32::consts::LN_2], b: ones, c: ones, skip: None, gate: None,
//!     sequences: Sequences::Equal,
//! };
//! let (mut state, mut out) = ([4.0], [0.0; 2]);
//! sequential(&problem, &inputs, &mut state, &mut out)?;
//! assert_eq!((out, state), ([3.0, 2.5], [2.5]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "cube")]
pub mod cube;
mod host;
pub mod monoid;
mod problem;
pub mod reference;

pub use host::{DEFAULT_CHUNK_SIZE, backward, element, sequential, step};
pub use monoid::{Element, ElementMut, apply, compose};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState, Problem, Results, ScanError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
