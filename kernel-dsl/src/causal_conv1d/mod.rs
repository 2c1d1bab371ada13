//! Depthwise causal convolution over time, with the state it carries.
//!
//! ```text
//! y_t[c] = act( bias[c] + Σ_j weight[c, j] · x_{t + j − (W − 1)}[c] ),     j = 0 … W − 1
//! ```
//!
//! The last tap meets the current token; tokens before the first are the state's: the last W − 1 inputs, oldest first. It is
//! what Mamba, Mamba-2, H3 and DeltaNet put before their recurrence (Gu & Dao, *Mamba*, 2312.00752, section 3.4).
//!
//! Backward. Let p_t be the argument of act, and δ_t = ȳ_t act′(p_t) for the cotangent ȳ of the output. Write s for the state
//! followed by the inputs, so that p_t = bias + Σ_j weight_j s_{t+j}. Then
//!
//! ```text
//! s̄_i = Σ_j weight_j δ_{i−j} (+ the cotangent of the final state where i ≥ T),    w̄_j = Σ_t δ_t s_{t+j},    b̄ = Σ_t δ_t
//! ```
//!
//! The first W − 1 of s̄ are the gradient of the initial state, the rest that of the input. δ is computed again from the inputs.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{backward, causal_conv1d};
pub use problem::{
    Activation, ConvError, Cotangents, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState,
    Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
