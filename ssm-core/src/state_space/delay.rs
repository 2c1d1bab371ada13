//! A delay line by least squares: what a state remembers of a signal, with nothing trained but C.
//!
//! ```text
//! u: white noise of L samples, none of it above a limit, heard once round and then once more
//! minimise over c   Σ_t (u_{t − lag} − c · x_t / s)² + ρ |c|²        s_n² = Σ_t x_{t,n}²
//! ```
//!
//! Source: Gu et al., *How to Train Your HiPPO* (2206.12037), whose experiment this is without its training.

use nalgebra::{DMatrix, DVector};
use rand::Rng;
use std::f64::consts::TAU;

use super::discretisation::Discretisation;
use super::error::{Result, StateSpaceError};
use super::init::{Initial, real_normal};
use super::views::{DiscreteStateSpace, StateSpace};

/// ρ, beside columns of size 1.
const RIDGE: f64 = 1e-3;

/// A delay that a state is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delay {
    /// L, the samples of the signal.
    pub length: usize,
    /// Cycles per sample up to which there is noise.
    pub limit: f64,
    /// Samples between what is heard and when it is asked for.
    pub lag: usize,
}

impl Delay {
    /// The root of the mean square error over that of the signal, of the system's states at steps Δ = `step` apart under the zero-order
    /// hold.
    ///
    /// # Errors
    /// [`StateSpaceError::Length`] for a signal without a frequency below the limit, or shorter than the lag; a step that is no
    /// positive number.
    pub fn error(&self, system: &Initial, step: f64, rng: &mut impl Rng) -> Result<f64> {
        let input = self.noise(rng)?;
        let half = system.real.len();
        let system = system.diagonal(vec![0.0.into(); half], 0.0)?;
        let discrete = system.discretise(Discretisation::ZeroOrderHold, step)?;
        // The noise repeats, and is heard once before it counts: its start from nothing is a jump, which no signal of this band has.
        let mut state = discrete.zero_state();
        discrete.respond(&mut state, &input)?;
        let states = discrete.states(&mut state, &input)?;
        let rows = DMatrix::from_fn(self.length, 2 * half, |t, n| {
            let x = states[t][n % half];
            if n < half { x.re } else { x.im }
        });
        let scale = DVector::from_fn(2 * half, |n, _| rows.column(n).norm().max(1e-12));
        let rows = DMatrix::from_fn(self.length, 2 * half, |t, n| rows[(t, n)] / scale[n]);
        let target = DVector::from_fn(self.length, |t, _| {
            input[(t + self.length - self.lag) % self.length]
        });
        let gram = rows.tr_mul(&rows) + DMatrix::identity(2 * half, 2 * half) * RIDGE;
        let weights = gram.cholesky().ok_or_else(|| StateSpaceError::Singular {
            what: "the matrix of the states' products",
            place: format!("lag {}", self.lag),
            instead: "take a step at which the states stay finite",
        })?;
        let weights = weights.solve(&rows.tr_mul(&target));
        Ok((rows * weights - &target).norm() / target.norm())
    }

    /// White noise below the limit, with a period of L.
    fn noise(&self, rng: &mut impl Rng) -> Result<Vec<f64>> {
        let bins = (self.length as f64 * self.limit.clamp(0.0, 0.5)) as usize;
        if bins < 2 || self.lag >= self.length {
            return Err(StateSpaceError::Length {
                what: "a signal that is delayed, longer than its lag and than one cycle at its limit",
                expected: (self.lag + 1).max((2.0 / self.limit.clamp(1e-9, 0.5)).ceil() as usize),
                found: self.length,
            });
        }
        let parts = real_normal(2 * bins, rng);
        let value = |t: usize| {
            let part = |k: usize| {
                let phase = TAU * (k * t) as f64 / self.length as f64;
                parts[2 * k] * phase.cos() + parts[2 * k + 1] * phase.sin()
            };
            (1..bins).map(part).sum::<f64>()
        };
        Ok((0..self.length)
            .map(|t| value(t) / (bins as f64).sqrt())
            .collect())
    }
}
