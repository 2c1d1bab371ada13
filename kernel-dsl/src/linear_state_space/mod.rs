//! Linear state spaces as recurrences: S4D, S4 and the diagonal part of H3, for decoding and for prefill from a state.
//!
//! ```text
//! x_t = Ā x_{t-1} + B̄ u_t                    state  x ∈ C^N, one per (batch, channel h);  A, B of copy h mod S
//! y_t = w Re(C x_t) + D u_t                  w = 2 where a mode stands for a conjugate pair, else 1;  a C, D for each output
//! ```
//!
//! A = Λ is diagonal, or A = Λ − P P* with P of any rank r. Gu et al., "Efficiently Modeling Long Sequences with Structured State
//! Spaces" (2111.00396), sections 2.3 and 3; "On the Parameterization and Initialization of Diagonal State Space Models"
//! (2206.11893), section 3; the sign of P P* is that of SaShiMi (2202.09729), section 3.2, with which A stays stable.
//!
//! The operator takes Δ, A, B and P and makes the system discrete by itself, in f64 and once per call or once per [`System`]:
//! * A slow mode needs all digits of Ā − 1, which an Ā in f32 has lost: 3·10⁻⁸ at every token are 10⁻³ after 30 thousand.
//! * Where Δ depends on the token ([`Operands::token_step_size`], for samples at irregular times), Ā has a value per token, channel
//!   and mode, which would be N times what everything else takes; it is computed where it is used.
//! * Gradients are those by Δ, A, B and P, which no chain of another operator could give in less than a pass over the same values.
//!
//! Who has Ā and B̄ already takes [`Rule::Given`]; so has an exponential moving average, whose modes are real. A step size per mode
//! is Δ_n A_n and Δ_n B_n with a Δ of 1.
//!
//! | function | form | for |
//! |---|---|---|
//! | [`System::step`] | one token of a system that was made discrete before | decoding |
//! | [`sequential`] | token by token, O(N (r + 1)) each | any length, Δ of every token |
//! | [`chunked`] | products with powers of Ā inside of chunks of tokens | prefill |
//! | [`forward`] | whichever of the last two is faster | |
//! | [`backward`] | from the end, chunk by chunk with the states of each computed again | training |
//!
//! All take a state in and give the one after the last token. The same call gives the same bits, whatever the number of threads.
//!
//! Backward. With a derivative by a complex number as that by its real part plus i times that by its imaginary part, and x̄_t that
//! by x_t,
//!
//! ```text
//! x̄_t += w C̄ᵀ ȳ_t      ∂C += w ȳ_t conj(x_t)      ∂D += ȳ_t u_t      ∂u_t = D ȳ_t + Re(B̄ᴴ x̄_t)
//! x̄_{t-1} = Āᴴ x̄_t     ∂Ā += x̄_t conj(x_{t-1})    ∂B̄ += x̄_t u_t
//! ```
//!
//! and then from Ā and B̄ to Δ, A, B and P by the derivatives of the rule.
//!
//! ```
//! use spillway_kernel_dsl::linear_state_space::{Inputs, Outputs, Problem, Rule, Spectrum, sequential};
//! use spillway_kernel_dsl::{Rows, Sequences};
//!
//! // Two tokens, one channel with one real mode that halves at every token.
//! let problem = Problem {
//!     batch: 1, time: 2, sequences: Sequences::Equal, channels: 1, outputs: 1, state_dim: 1, copies: 1, rank: 0,
//!     rule: Rule::Given, spectrum: Spectrum::Complete,
//! };
//! let inputs = Inputs {
//!     input: Rows::contiguous(&[1.0, 1.0], 2, 1)?, token_step_size: None, step_size: None, a: &[0.5, 0.0], b: &[1.0, 0.0],
//!     c: &[1.0, 0.0], low_rank: None, skip: None, state: Some(&[4.0, 0.0]),
//! };
//! let (mut out, mut state) = ([0.0; 2], [0.0; 2]);
//! sequential(&problem, &inputs, &mut Outputs { out: &mut out, state: &mut state })?;
//! assert_eq!((out, state), ([3.0, 2.5], [2.5, 0.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod channel;
#[cfg(feature = "cube")]
pub mod cube;
mod discretise;
mod host;
mod problem;
pub mod reference;

pub use host::{DEFAULT_CHUNK_SIZE, System, backward, chunked, forward, sequential};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, Operands, Outputs, Problem, Results, Rule, Spectrum,
    StateSpaceError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
