//! Random stable systems of every parameterisation.

use rand::{Rng, SeedableRng, rngs::StdRng};
use spillway_ssm_core::state_space::init::{complex_normal, real_normal};
use spillway_ssm_core::state_space::{Complex64, DMatrix, Dense, Diagonal, Dplr, Modes};

/// A generator of this seed.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// A real matrix K − Q Qᵀ with K skew, so that every mode decays.
pub fn dense(n: usize, rng: &mut StdRng) -> Dense {
    let square =
        |rng: &mut StdRng| DMatrix::from_iterator(n, n, real_normal(n * n, rng)) / (n.max(1) as f64).sqrt();
    let (k, q) = (square(rng), square(rng));
    let a = (&k - k.transpose()) * 3.0 - &q * q.transpose();
    let row = |rng: &mut StdRng| real_normal(n, rng).into();
    Dense::new(a, row(rng), row(rng), rng.random::<f64>()).expect("a system")
}

/// Modes with rates from 0.01 to 2 and frequencies to 20.
pub fn eigenvalues(n: usize, rng: &mut StdRng) -> Vec<Complex64> {
    let mut mode = || Complex64::new(-rng.random_range(0.01..2.0), rng.random_range(-20.0..20.0));
    (0..n).map(|_| mode()).collect()
}

/// A diagonal system.
pub fn diagonal(n: usize, modes: Modes, rng: &mut StdRng) -> Diagonal {
    let eigenvalues = eigenvalues(n, rng);
    let (b, c) = (complex_normal(n, rng), complex_normal(n, rng));
    Diagonal::new(eigenvalues, b, c, rng.random::<f64>(), modes).expect("a system")
}

/// A diagonal plus low-rank system of n conjugate pairs.
pub fn dplr(n: usize, rank: usize, rng: &mut StdRng) -> Dplr {
    let eigenvalues = eigenvalues(n, rng);
    let low_rank = (0..rank).map(|_| complex_normal(n, rng)).collect();
    let (b, c) = (complex_normal(n, rng), complex_normal(n, rng));
    Dplr::new(eigenvalues, low_rank, b, c, rng.random::<f64>()).expect("a system")
}

/// The rules that every parameterisation has.
pub const BILINEAR_RULES: [f64; 3] = [0.5, 1.0, 0.7];
