//! The operators of recurrent models on tensors, wherever these live, each with its gradient.
//!
//! | function | what it computes |
//! |---|---|
//! | [`recurrence`](crate::recurrence()) | the weighted-sum recurrence (in a module of its own) |
//! | [`causal_conv1d()`] | the short convolution before a recurrence |
//! | [`gated_norm`], [`add_rms_norm`] | norms over groups of features, gated or joined with a residual |
//! | [`step_size()`] | Δ and log α of a discretised recurrence |
//! | [`cross_entropy()`] | loss per token, without a softmax in memory |
//!
//! Token tensors may be f32, bf16 or f16; states and sums are f32. Every tensor of a call lives on one device; anything else
//! is an [`Error::Device`](crate::Error::Device) or [`Error::DType`](crate::Error::DType) before anything runs.

pub(crate) mod bounded;
pub mod causal_conv1d;
pub mod cross_entropy;
pub(crate) mod element;
pub(crate) mod heads;
pub mod norm;
pub(crate) mod recurrence;
pub mod step_size;

pub use causal_conv1d::causal_conv1d;
pub use cross_entropy::cross_entropy;
pub use norm::{add_rms_norm, gated_norm};
pub use step_size::step_size;
