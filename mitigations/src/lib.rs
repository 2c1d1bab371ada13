//! Mitigations of state collapse, composable over every weighted-sum RNN.
//!
//! A recurrent model that was trained on T tokens often fails on more than T: its state keeps too much, grows out of the
//! range that training ever visited, and the loss explodes. Each room of this crate holds one cure that needs no training,
//! written once as an [`ssm_core::Intervention`], for every model whose state is a weighted sum of what its tokens wrote, in
//! prefill and decode alike, and independent of how the tokens are split among calls.
//!
//! ```
//! use mitigations::Mitigation;
//!
//! let mitigation: Mitigation = "forget:0.9999+remember:0.75+window:8192".parse()?;
//! assert_eq!(mitigation.to_string(), "forget:0.9999+remember:0.75+window:8192");
//! let chain = mitigation.chain(); // what a model's layers take
//! assert_eq!(chain.interventions().len(), 3);
//!
//! let error = "forget:1.5".parse::<Mitigation>().unwrap_err();
//! assert!(error.to_string().contains("above 0 and at most 1"));
//! # Ok::<(), mitigations::ParseError>(())
//! ```
//!
//! | room | text | what it does |
//! |---|---|---|
//! | [`forget_and_remember`] | `forget:C`, `remember:C`, `rri:C,C` | multiply what a token keeps of the state, what it writes, or both |
//! | [`delta_scale`] | `delta-scale:S` | multiply the step size of models that discretise |
//! | [`state_norm`], [`calibrate`] | `state-norm:P`, `state-norm:auto*F` | bound the norm of every head's state |
//! | [`window_by_difference`] | `window:R` | only the last R tokens: the state minus the state R tokens ago, decayed |
//! | [`window_exact`] | `window-exact:R` | only the last R tokens, rounded up to a chunk, without subtraction |
//! | [`reset`] | `reset:N`, `reset-overlap:N,M` | start again every N tokens; the baseline |
//! | [`mitigation`], [`text`] | `a+b` | chains, what may be combined, and how all of it is written |

pub mod calibrate;
pub mod delta_scale;
pub mod forget_and_remember;
mod gate_queue;
pub mod mitigation;
mod pieces;
pub mod reset;
pub mod state_norm;
pub mod text;
pub mod window_by_difference;
pub mod window_exact;

pub use mitigation::{Conflict, Mitigation, NothingToCalibrate, Part};
pub use text::ParseError;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
