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

//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token | decoding |
//! | [`sequential`] | token by token, channels side by side | any length |
//! | [`backward`] | chunk by chunk from the end, states recomputed | training |
//! | [`element`], [`compose`], [`apply`] | the monoid of a segment | scans over threads, machines, windows |
//!
//! All take a state in and leave the new one in its place. The same call gives the same bits, whatever the number of threads.
//!
//! ```
//! use spillway_kernel_dsl::{Rows, Sequences};
//! use spillway_kernel_dsl::wkv4::{Inputs, Problem, sequential};
//!
//! // Two tokens of one channel with equal keys, no bonus, no decay: the plain mean so far.
//! let problem = Problem { batch: 1, time: 2, channels: 1 };
//! let inputs = Inputs {
//!     log_decay: &[0.0], bonus: &[0.0],
//!     key: Rows::contiguous(&[0.0, 0.0], 2, 1)?, value: Rows::contiguous(&[1.0, 3.0], 2, 1)?,
//!     sequences: Sequences::Equal,
//! };
//! let (mut state, mut out) = (problem.empty_state(), [0.0; 2]);
//! sequential(&problem, &inputs, &mut state, &mut out)?;
//! assert_eq!((out, &state[..]), ([1.0, 2.0], &[4.0, 2.0, 0.0][..]));
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
    Cotangents, EMPTY_MAX, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState, Problem, Results,
    Wkv4Error,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
