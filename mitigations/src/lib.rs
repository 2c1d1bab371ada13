//! Mitigations of state collapse, composable over every weighted-sum RNN.
//!
//! A recurrent model that was trained on T tokens often fails on more than T: its state keeps too much, grows out of the
//! range that training ever visited, and the loss explodes. Each module of this crate holds one cure that needs no training,
//! written once as an [`spillway_ssm_core::Intervention`], for every recurrence of the field, in prefill and decode alike, and
//! independent of how the tokens are split among calls. What is impossible at a recurrence is refused, with the reason and
//! what works instead.
//!
//! ```
//! use spillway_mitigations::Mitigation;
//!
//! let mitigation: Mitigation = "forget:0.9999+remember:0.75+window:8192".parse()?;
//! assert_eq!(mitigation.to_string(), "forget:0.9999+remember:0.75+window:8192");
//! let chain = mitigation.chain(); // what a model's layers take
//! assert_eq!(chain.interventions().len(), 3);
//!
//! let error = "forget:1.5".parse::<Mitigation>().unwrap_err();
//! assert!(error.to_string().contains("above 0 and at most 1"));
//! # Ok::<(), spillway_mitigations::ParseError>(())
//! ```
//!
//! | module | text | what it does |
//! |---|---|---|
//! | [`forget_and_remember`] | `forget:C`, `remember:C`, `rri:C,C` | multiply what a token keeps of the state, what it writes, or both |
//! | [`cap`] | `cap:T`, `cap-mean:T` | let no head remember for more than T tokens |
//! | [`a_scale`] | `a-scale:S` | multiply the logarithm of every decay |
//! | [`position_decay`] | `position-decay:T`, `position-spectrum:T` | let tokens beyond T forget less and less |
//! | [`delta_scale`], [`layer_scales`] | `delta-scale:S`, `scales:S,S,..` | multiply the step size of models that discretise, of all layers or each |
//! | [`delta_filter`] | `delta-filter:S` | heads that remember skip tokens with small steps |
//! | [`decimate`] | `decimate:SHARE` | layers skip tokens with small steps |
//! | [`state_norm`] | `state-norm:P`, `state-norm:auto*F` | bound the norm of every head's state |
//! | [`window_by_difference`] | `window:R` | only the last R tokens: the state minus the state R tokens ago, decayed |
//! | [`window_exact`] | `window-exact:R`, `window-jagged:Q` | only the last R tokens, rounded up to a chunk, without subtraction |
//! | [`window_of_writes`] | `window-writes:R` | only what the last R tokens of a delta rule wrote |
//! | [`reset`] | `reset:N`, `reset-overlap:N,M` | start again every N tokens; the baseline |
//! | [`fitted_noise`] | `fitted-noise:F` | start from noise of the size of trained states: a diagnosis |
//! | [`state_dtype`] | `state-dtype:T` | store states in fewer bits between tokens: a diagnosis |
//! | [`c_scale`] | `c-scale:S` | multiply what is read: a control |
//! | [`ablate`] | `ablate:LAYER.HEAD` | switch heads off: a diagnosis |
//! | [`log_attention`] | `log-attention:A`, `logn-attention:T` | multiply the queries of attention by a logarithm of the position |
//! | [`mitigation`], [`text`] | `a+b` | chains, what may be combined, and how all of it is written |
//! | [`form`], [`written`] | `name:a,b` | how one of them is written, and what reads its arguments |
//! | [`registry`] | | the table of all of them, to which a program adds its own |
//! | [`pieces`] | | what a mitigation with a state of its own is made from |
//! | [`calibrate`], [`observer`] | | what a model does inside its training length, for the parts that take numbers from it |
//! | [`fit`] | | numbers fitted without derivatives, judged by text that they were not fitted on |

pub mod a_scale;
pub mod ablate;
pub mod c_scale;
pub mod calibrate;
pub mod cap;
pub mod decimate;
pub mod delta_filter;
pub mod delta_scale;
pub mod fit;
pub mod fitted_noise;
pub mod forget_and_remember;
pub mod form;
mod gate_queue;
pub mod head_list;
pub mod histogram;
pub mod layer_scales;
pub mod log_attention;
pub mod mitigation;
pub mod observer;
pub mod pieces;
pub mod position_decay;
mod random;
pub mod registry;
pub mod reset;
pub mod state_dtype;
pub mod state_norm;
pub mod text;
mod tokens;
pub mod window_by_difference;
pub mod window_exact;
pub mod window_of_writes;
mod writes;
pub mod written;

pub use calibrate::Calibration;
pub use form::{Form, Parameter};
pub use mitigation::{Conflict, Mitigation, Part};
pub use observer::Observer;
pub use registry::register;
pub use written::ParseError;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
