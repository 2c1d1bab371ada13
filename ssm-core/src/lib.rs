//! The recurrence of every weighted-sum RNN on Burn tensors, the places where a model's state may be intervened on, and
//! the mixers of the SSM line.
//!
//! One layer is always the same chain:
//!
//! ```text
//! input ─► gates ─► [interventions on gates] ─► recurrence ─► [interventions on state] ─► output
//! ```
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use spillway_ssm_core::{Erase, Chunking, Gates, LogDecay, ReadOut, State, recurrence};
//!
//! let device = Device::flex();
//! let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
//! // One sequence of 5 tokens, 2 heads that share one query/key group, key_dim 4, value_dim 3, a constant decay per head.
//! let gates = Gates {
//!     log_decay: LogDecay::PerHead(Tensor::from_floats([-0.1, -0.01], &device)),
//!     ..Gates::new(random([1, 5, 1, 4]), random([1, 5, 1, 4]), random([1, 5, 2, 3]))
//! };
//! let mut state = State::zeros(&gates.dims(), &device);
//! let output = recurrence(gates, &mut state, Chunking::default())?;
//! assert_eq!(output.dims(), [1, 5, 2, 3]);
//! assert_eq!(state.position, 5);
//! # Ok::<(), spillway_ssm_core::Error>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`gates`], [`state`] | what a layer computes from its input, and what it carries |
//! | [`mod@recurrence`], [`chunking`] | the four forms: step, sequential, chunked, scan |
//! | [`element`] | the monoid element of a segment: compose, apply |
//! | [`intervention`] | the two places where a mitigation acts |
//! | [`linear`] | projections with packed or dense weights |
//! | [`mixer`], [`key_value_cache`] | what a layer of a model is, and what it carries |
//! | [`free_convolution`] | S4's block with a kernel of free taps, to compare with; over several axes too |
//! | [`mamba1`], [`mamba2`], [`mamba3`] | the mixers of Mamba-1, Mamba-2 and Mamba-3 |
//! | [`s4`], [`h3`] | those of S4 with S4D and DSS, and of H3 |
//! | [`s4nd`], [`image_shape`] | S4 on every axis of an image, and images at several resolutions |
//! | [`gss`], [`bigs`], [`diffussm`] | gated state spaces, read forwards or both ways |
//! | [`channel_filter`] | a diagonal state space or a kernel of free taps for every channel |
//! | [`hippo_rnn`] | the HiPPO-RNN cell and the Legendre memory unit |
//! | [`operators`] | the operators beside the recurrence, each with its gradient |
//! | [`short_conv`] | the short convolution of mixers |
//! | [`mod@state_space`] | linear state spaces in f64: their three views, HiPPO, S4, S4D, and where they start from |
//! | [`weights`] | where mixers take their weights from |
//! | [`sequences`] | sequences of different lengths in one batch |

/// The tensor library that everything here is made of, in the version and with the features that it is made of.
pub use burn;

mod backend;
pub mod bigs;
pub mod channel_filter;
pub mod chunking;
pub mod diffussm;
mod dispatch;
pub mod element;
mod element_of_gates;
pub mod error;
pub mod free_convolution;
pub mod gates;
pub mod gss;
pub mod h3;
pub mod hippo_rnn;
pub mod image_shape;
pub mod intervention;
pub mod key_value_cache;
pub mod linear;
pub mod mamba1;
pub mod mamba2;
pub mod mamba3;
pub mod mixer;
pub mod operators;
pub mod recurrence;
pub mod s4;
pub mod s4nd;
pub mod sequences;
pub mod short_conv;
pub mod state;
pub mod state_space;
pub mod tensor_map;
pub mod weights;
mod whole_sequences;

pub use chunking::Chunking;
pub use element::Element;
pub use error::{Error, Result};
pub use gates::{Dims, Erase, Gates, LogDecay, ReadOut, Rule};
pub use intervention::{Chain, Incompatible, Intervention, InterventionState, Next, Site, SiteState};
pub use key_value_cache::KeyValueCache;
pub use linear::{Linear, Weight};
pub use mixer::{Context, Mixer, MixerState, Padding, Prefix, PrefixMask, RecurrentState, Shared};
pub use recurrence::{recurrence, recurrence_bounded, recurrence_of_sequences};
pub use sequences::Sequences;
pub use short_conv::{ShortConv, ShortConvConfig};
pub use state::State;
pub use tensor_map::TensorMap;
pub use weights::{Init, WeightMap, WeightSource};

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the example of a layer of one's own as a test.
#[cfg(doctest)]
#[doc = concat!("```standalone_crate\n", include_str!("../examples/own_layer.rs"), "\n```")]
struct OwnLayer;
