//! Linear state spaces in f64: one system that is continuous, recurrent and convolutional at once, and the HiPPO theory that
//! says where to start from.
//!
//! ```text
//! x′(t) = A x(t) + B u(t)        y(t) = C x(t) + D u(t)
//! ```
//!
//! | view | what it is | where it is |
//! |---|---|---|
//! | continuous | y = K ∗ u + D u with K(t) = C e^{tA} B | [`StateSpace::impulse_response`], [`StateSpace::respond_held`] |
//! | recurrent | x_k = Ā x_{k−1} + B̄ u_k, y_k = C x_k + D u_k | [`DiscreteStateSpace::respond`], [`StateSpace::respond_sampled`] |
//! | convolutional | y = K̄ ∗ u + D u with K̄_l = C Ā^l B̄ | [`DiscreteStateSpace::kernel`], [`DiscreteStateSpace::convolve`] |
//!
//! A step Δ only rescales time: (ΔA, ΔB) on unit steps. u_k reaches x_k at once, so that K̄₀ = C B̄. A state x before the first
//! sample adds C Ā^{k+1} x to output k ([`DiscreteStateSpace::state_kernel`]).
//!
//! | parameterisation | A | a step | models |
//! |---|---|---|---|
//! | [`Dense`] | any real matrix | N² | LSSL, HiPPO-RNN |
//! | [`Diagonal`] | Λ | N | S4D, DSS, S5, H3, GSS, BiGS |
//! | [`Dplr`] | Λ − P P* | N r | S4 |
//!
//! All are the same system in another basis: x = V x̃ leaves K as it is. Lists of modes hold one of each conjugate pair, and outputs
//! are then 2 Re Σ ([`Modes`]).
//!
//! ```
//! use spillway_ssm_core::state_space::hippo::{Measure, NormalPlusLowRank};
//! use spillway_ssm_core::state_space::{DiscreteStateSpace, Discretisation, StateSpace};
//!
//! // S4 as it is initialised: HiPPO-LegS with 16 coefficients, here with an output that reads the first of them.
//! let form = NormalPlusLowRank::of_measure(Measure::Legs, 16, 1)?;
//! let mut first = [0.0; 16];
//! first[0] = 1.0;
//! let s4 = form.system(form.output(&first)?, 0.0)?.discretise(Discretisation::BILINEAR, 0.01)?;
//! let by_recurrence = s4.kernel(100)?;
//! let by_cauchy_sums = s4.kernel_by_generating_function(100)?;
//! for (a, b) in by_recurrence.iter().zip(&by_cauchy_sums) {
//!     assert!((a - b).abs() < 1e-14);
//! }
//! # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`views`] | what every system answers; irregular and missing samples |
//! | [`dense`], [`diagonal`], [`dplr`] | the three parameterisations |
//! | [`dplr_kernel`] | S4's kernel by its generating function, and truncated outputs |
//! | [`discretisation`], [`phi`] | rules that make a system discrete |
//! | [`sampling_rate`] | another sampling rate, band limits |
//! | [`hippo`] | measures of the past, their matrices, functions and normal forms |
//! | [`init`] | fresh parameters by their published names |
//! | [`delay`] | how exactly a state remembers a signal, by least squares |
//!
//! Nothing here is fast, and everything is exact: kernels in f32 on devices are tested against it, models take their first
//! parameters from it, and figures are drawn by it. Systems that are wrong are errors ([`StateSpaceError`]), and no result holds
//! a number that is not finite.
//!
//! Sources: S4 2111.00396, HiPPO 2008.07669 and 2206.12037, S4D 2206.11893, DSS 2203.14343, S4ND 2210.06583, SaShiMi 2202.09729.

pub mod delay;
pub mod dense;
pub mod diagonal;
pub mod discretisation;
pub mod dplr;
pub mod dplr_kernel;
pub mod error;
pub mod hippo;
pub mod init;
pub mod phi;
pub mod sampling_rate;
pub mod views;

pub use dense::{Dense, DiscreteDense};
pub use diagonal::{Diagonal, DiscreteDiagonal, Modes};
pub use discretisation::{DiscreteMode, Discretisation};
pub use dplr::{DiscreteDplr, Dplr};
pub use dplr_kernel::TruncatedOutput;
pub use error::{Result, StateSpaceError};
pub use nalgebra::{DMatrix, DVector};
pub use num_complex::Complex64;
pub use sampling_rate::{band_limit, length_at_rate, step_at_rate};
pub use views::{DiscreteStateSpace, Gap, SampledState, StateSpace, bridge_gaps};
