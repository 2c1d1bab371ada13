//! How the parameters of fresh state spaces are drawn, by the names of the published code.
//!
//! | file | what is in it |
//! |---|---|
//! | [`spectrum`] | Λ, B and P: `diag-lin`, `dplr-inv`, `legs`, `fourier`, … |
//! | [`mixture`] | copies of several of them: `hippo`, `diag`, `all` |
//! | [`all_modes`] | λ of DSS and GSS, whose lists hold every mode |
//! | [`step_size`] | Δ, and how a parameter stands for a positive number |
//!
//! Every random number comes from a generator that the caller seeds. C and D have no name of their own: C is
//! [`complex_normal`], or [`spectrum::Initial`]'s `first_coefficient` where runs are to be alike, and D is [`real_normal`].

pub mod all_modes;
pub mod mixture;
pub mod spectrum;
pub mod step_size;

pub use all_modes::{dss_eigenvalues, gss_eigenvalues};
pub use mixture::{copies, mixture_parts};
pub use spectrum::{Initial, InputInit, SpectrumOptions, initialise};
pub use step_size::{StepRange, Transform};

use num_complex::Complex64;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use std::f64::consts::FRAC_1_SQRT_2;

/// Independent complex normal numbers of variance 1, ½ in each part: C of S4 and S4D.
pub fn complex_normal(count: usize, rng: &mut impl Rng) -> Vec<Complex64> {
    let mut normal = || -> f64 { StandardNormal.sample(rng) };
    let mut number = || Complex64::new(normal(), normal()) * FRAC_1_SQRT_2;
    (0..count).map(|_| number()).collect()
}

/// Independent normal numbers: D of everything but BiGS and GSS, where it is 1.
pub fn real_normal(count: usize, rng: &mut impl Rng) -> Vec<f64> {
    (0..count).map(|_| StandardNormal.sample(rng)).collect()
}
