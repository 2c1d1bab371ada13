//! Eigenvalues of models whose lists hold every mode and not one of each pair ([`Modes::All`]).
//!
//! | model | Re λ | Im λ | source |
//! |---|---|---|---|
//! | DSS | −½ | the positive ones of the normal part of HiPPO-LegS with 2N coefficients | 2203.14343 |
//! | GSS | −e^z, z normal | e^z, z normal | 2206.13947, and HiPPO's `diagonal` for the real part |
//!
//! [`Modes::All`]: crate::state_space::Modes::All

use super::super::error::Result;
use super::super::hippo::{Measure, NormalPlusLowRank};
use num_complex::Complex64;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// N eigenvalues of DSS, from above in Im λ.
///
/// # Errors
/// N = 0.
pub fn dss_eigenvalues(state_size: usize) -> Result<Vec<Complex64>> {
    let form = NormalPlusLowRank::of_measure(Measure::Legs, 2 * state_size, 1)?;
    Ok(form.eigenvalues.iter().map(Complex64::conj).collect())
}

/// N eigenvalues of GSS.
pub fn gss_eigenvalues(state_size: usize, rng: &mut impl Rng) -> Vec<Complex64> {
    let mut positive = || f64::exp(StandardNormal.sample(rng));
    (0..state_size)
        .map(|_| Complex64::new(-positive(), positive()))
        .collect()
}
