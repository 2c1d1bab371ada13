//! Portable kernels for weighted-sum recurrences: what Mamba-2, RWKV, RetNet, GLA and their kin spend their time in.
//!
//! This crate knows slices and problem shapes. It knows no tensor library and no model. Every operator lives in a
//! folder of its own, with the same file names in each:
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the mathematics, and the public functions |
//! | `problem.rs` | sizes and choices; the operands with their shapes, declared once ([`operands`]); every check and every error |
//! | `reference.rs` | the definition in f64, one plain loop: what everything else is tested against |
//! | `monoid.rs` | the element of a segment of tokens, and how two are composed, where there is a recurrence |
//! | `host/` | the native CPU implementation: SIMD by run-time dispatch, threads; `host.rs` where one file is enough |
//! | `cube/` | the same as CubeCL kernels, with the feature `cube`; `cube.rs` likewise |
//!
//! Below `host/` and `cube/`:
//!
//! | file | what it holds |
//! |---|---|
//! | `forward.rs` | the forward pass; of an operator with several large forms, a file for each: |
//! | `sequential.rs`, `chunked.rs` | token by token; by chunks of tokens |
//! | `backward.rs` | the backward pass |
//! | `operands.rs` | on devices: the operands and sizes as kernels see them, and the choices that make another kernel |
//! | `plan.rs` | on devices: how a problem is cut into cubes and units |
//!
//! Any other file there is a part of these, and its name says which.

pub mod aligned;
mod blocks;
pub mod cauchy;
pub mod causal_conv1d;
mod channels;
mod complex;
pub mod cross_entropy;
#[cfg(feature = "cube")]
pub mod cube;
pub mod decay;
pub mod delta_rule;
pub mod feature_map;
pub mod gated_norm;
pub mod half_precision;
pub mod linear;
pub mod linear_state_space;
pub mod long_convolution;
pub mod math;
mod matrix;
pub mod operands;
pub mod pointwise;
pub mod recurrence;
pub mod roofline;
pub mod rotary;
pub mod rows;
pub mod selective_scan;
pub mod sequences;
pub mod shape;
pub mod shift_state_space;
pub mod simd;
pub mod softmax_attention;
pub mod step_size;
pub mod taylor_attention;
pub mod vandermonde;
mod vector;
pub mod wkv4;

pub use decay::{DecayKind, LogDecay};
pub use rows::Rows;
pub use sequences::Sequences;
pub use shape::ShapeError;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
