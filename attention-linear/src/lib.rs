//! The mixers of the linear-attention line, on the recurrence of [`ssm_core`].
//!
//! A mixer of this line is a way of computing gates from an input: queries, keys, values and a decay. The recurrence, its
//! state, its four forms and every intervention come from [`ssm_core`] and are the same for all.
//!
//! | room | what is in it |
//! |---|---|
//! | [`retention`] | RetNet's recurrence: one constant decay per head |
//!
//! ```
//! use attention_linear::retention;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use ssm_core::{Form, State, recurrence};
//!
//! let device = Device::flex();
//! let random = || Tensor::<4>::random([1, 7, 4, 8], Distribution::Normal(0.0, 1.0), &device);
//! let gates = retention::gates(random(), random(), random())?;
//! let mut state = State::zeros(&gates.dims(), &device);
//! let output = recurrence(gates, &mut state, Form::default())?;
//! assert_eq!(output.dims(), [1, 7, 4, 8]);
//! # Ok::<(), ssm_core::Error>(())
//! ```

pub mod retention;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
