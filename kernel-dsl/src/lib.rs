//! Portable kernels for weighted-sum recurrences: what Mamba-2, RWKV, RetNet, GLA and their kin spend their time in.
//!
//! This crate knows slices and problem shapes. It knows no tensor library and no model. Every operator lives in a
//! folder of its own, with the same file names in each:
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the mathematics, and the public functions |
//! | `problem.rs` | shapes and choices, validated once; every error is there |
//! | `reference.rs` | the definition in f64, one plain loop: what everything else is tested against |
//! | `host/` | the native CPU implementation: SIMD by run-time dispatch, threads |
//! | `cube/` | the same as CubeCL kernels, with the feature `cube` |

pub mod aligned;
pub mod causal_conv1d;
mod cotangents;
pub mod cross_entropy;
#[cfg(feature = "cube")]
pub mod cube;
pub mod decay;
pub mod delta_rule;
pub mod feature_map;
pub mod gated_norm;
pub mod half_precision;
pub mod linear;
pub mod math;
pub mod operands;
pub mod pointwise;
pub mod recurrence;
pub mod roofline;
pub mod rotary;
pub mod rows;
pub mod selective_scan;
pub mod sequences;
pub mod shape;
pub mod simd;
pub mod softmax_attention;
pub mod step_size;
pub mod taylor_attention;
mod vector;
pub mod wkv4;

pub use cotangents::Cotangents;
pub use decay::{DecayKind, LogDecay};
pub use rows::Rows;
pub use sequences::Sequences;
pub use shape::ShapeError;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
