//! The operators of recurrent models on tensors, wherever these live, each with its gradient.
//!
//! | function | what it computes |
//! |---|---|
//! | [`recurrence`](crate::recurrence()) | every recurrence of gates: weighted sums, delta rules, means (in a module of its own) |
//! | [`selective_scan()`] | the recurrence of Mamba |
//! | [`taylor_attention()`] | Based, ReBased and prefix linear attention without their features in memory |
//! | [`wkv4()`] | the recurrence of RWKV-4 |
//! | [`causal_conv1d()`] | the short convolution before a recurrence |
//! | [`long_convolution()`], [`long_convolution_piece`] | a time-invariant state space by its kernel: as long as the sequence, whole or in pieces |
//! | [`long_convolution_nd()`] | the same over one to three axes, with a sum of outer products of kernels: S4ND |
//! | [`gated_norm`], [`add_rms_norm`] | norms over groups of features, gated or joined with a residual |
//! | [`softmax_attention()`] | causal softmax attention over a key-value cache |
//! | [`pointwise`] | activations and gates |
//! | [`rotary()`] | rotary position embedding |
//! | [`split()`], [`split_to_heads`] | the parts of what a projection gives |
//! | [`step_size()`] | Δ and log α of a discretised recurrence |
//! | [`linear_state_space()`], [`FixedLinearSystem`] | a time-invariant state space by its recurrence: S4D, S4, H3, from any state |
//! | [`vandermonde_kernel`], [`vandermonde_response`] | the convolution kernel of a diagonal state space (S4D, DSS), with states |
//! | [`cauchy_kernel`], [`cauchy_response`] | that of a diagonal and low-rank one (S4) |
//! | [`cross_entropy()`] | loss per token, without a softmax in memory |
//!
//! Token tensors may be f32, bf16 or f16; states and sums are f32. Every tensor of a call lives on one device; anything else
//! is an [`Error::Device`](crate::Error::Device) or [`Error::DType`](crate::Error::DType) before anything runs.

pub(crate) mod bounded;
pub mod cauchy;
pub mod causal_conv1d;
pub mod cross_entropy;
pub(crate) mod delta_rule;
pub(crate) mod element;
pub mod linear_state_space;
pub mod long_convolution;
pub mod long_convolution_nd;
pub mod norm;
pub mod pointwise;
pub(crate) mod recurrence;
pub mod rotary;
pub mod selective_scan;
pub mod softmax_attention;
pub mod split;
pub mod step_size;
pub mod taylor_attention;
pub mod vandermonde;
pub mod wkv4;

pub use cauchy::{LowRankSystem, cauchy_kernel, cauchy_response};
pub use causal_conv1d::causal_conv1d;
pub use cross_entropy::cross_entropy;
pub use linear_state_space::{FixedLinearSystem, LinearSystem, linear_state_space};
pub use long_convolution::{LongConvolutionInputs, long_convolution, long_convolution_piece};
pub use long_convolution_nd::{AxisKernel, long_convolution_nd};
pub use norm::{add_rms_norm, gated_norm};
pub use rotary::{Pairing, RotaryPlan, RotaryScaling, rotary};
pub use selective_scan::{ScanInputs, selective_scan};
pub use softmax_attention::softmax_attention;
pub use split::{split, split_to_heads};
pub use step_size::step_size;
pub use taylor_attention::{TaylorInputs, TaylorPlan, TaylorPrefix, taylor_attention};
pub use vandermonde::{
    DiagonalPlan, DiagonalResponse, DiagonalSystem, vandermonde_kernel, vandermonde_response,
};
pub use wkv4::{wkv4, wkv4_state};
