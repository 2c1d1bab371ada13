//! Cross-entropy of each row of logits, in nats.
//!
//! ```text
//! loss = ln Σ_j e^{x_j} − x_target = m + ln Σ_j e^{x_j − m} − x_target,     m = max_j x_j
//! x̄_j = l̄ (softmax(x)_j − [j = target])                                   l̄ the cotangent of the loss
//! ```

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use host::{backward, cross_entropy};
pub use problem::{
    Cotangents, CrossEntropyError, GradientBuffers, Gradients, Inputs, Operands, Outputs, Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
