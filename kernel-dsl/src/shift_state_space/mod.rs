//! The shift system of H3: a state of the last N inputs, each weighted by where it is.
//!
//! ```text
//! s_t = shift(s_{t-1}) + B u_t       shift(s)_0 = 0, shift(s)_n = s_{n-1};   state  s ∈ R^N, one per (batch, channel)
//! y_t = C · s_t + D u_t              a C and a D for each output of a channel
//! ```
//!
//! As a convolution it has a kernel of N values, which is the correlation of B with C, and a part that an initial state gives:
//!
//! ```text
//! y_t = Σ_{l < N} K_l u_{t-l} + Σ_n s_{-1,n} C_{n+t+1} + D u_t         K_l = Σ_{n < N-l} B_n C_{n+l}
//! ```
//!
//! (Fu et al., "Hungry Hungry Hippos: Towards Language Modeling with State Space Models", 2212.14052, section 3.1; with B = e_0, which
//! is its initial value, the state is the last N inputs and K is C.)
//!
//! | function | form | for |
//! |---|---|---|
//! | [`step`] | one token, O(N) | decoding |
//! | [`sequential`] | token by token | short sequences |
//! | [`convolved`] | by the kernel, with vectors over tokens | prefill, training |
//! | [`forward`] | whichever of the last two is faster | |
//! | [`kernel`] | K | other forms of convolution |
//! | [`backward`] | gradients of either | training |
//!
//! Backward. With ȳ_t and s̄ the derivatives of the loss by outputs and by the last state, L tokens, and sums over outputs,
//!
//! ```text
//! ∂u_t  = Σ_l K_l ȳ_{t+l} + D ȳ_t + Σ_n s̄_{n+L-1-t} B_n         ∂K_l = Σ_t ȳ_t u_{t-l}
//! ∂B_n  = Σ_l ∂K_l C_{n+l} + Σ_j s̄_{n+j} u_{L-1-j}               ∂C_n = Σ_l ∂K_l B_{n-l} + Σ_t ȳ_t s_{-1,n-t-1}
//! ∂s_{-1,n} = Σ_t ȳ_t C_{n+t+1} + s̄_{n+L}
//! ```
//!
//! ```
//! use spillway_kernel_dsl::shift_state_space::{Inputs, Outputs, Problem, sequential};
//! use spillway_kernel_dsl::{Rows, Sequences};
//!
//! // The sum of a token and twice the one before, in one channel.
//! let problem = Problem { batch: 1, time: 2, sequences: Sequences::Equal, channels: 1, outputs: 1, state_dim: 2 };
//! let inputs = Inputs {
//!     input: Rows::contiguous(&[1.0, 10.0], 2, 1)?, b: &[1.0, 0.0], c: &[1.0, 2.0], skip: None, state: Some(&[100.0, 0.0]),
//! };
//! let (mut out, mut state) = ([0.0; 2], [0.0; 2]);
//! sequential(&problem, &inputs, &mut Outputs { out: &mut out, state: &mut state })?;
//! assert_eq!((out, state), ([201.0, 12.0], [10.0, 1.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod host;
mod problem;
pub mod reference;

pub use host::{backward, convolved, forward, kernel, sequential, step};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, Operands, Outputs, Problem, Results, ShiftError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
