//! Systems with a diagonal plus a low-rank matrix, A = Λ − P P*: what S4 is made of.
//!
//! Lists hold one of each conjugate pair; the system itself has both, [x, x̄], and its inner products run over both, so that
//! P*x = 2 Re Σ P̄_n x_n is real. With D_n = 1/(1 − αΔλ_n), the generalised bilinear rule costs O(N) a step for any rank r
//! (Woodbury's identity):
//!
//! ```text
//! t  = x + (1 − α)Δ A x + ΔB u = (1 + (1 − α)Δλ) x − (1 − α)Δ P (P*x) + ΔB u
//! x⁺ = (I − αΔA)⁻¹ t           = D t − αΔ D P (I + αΔ P*D P)⁻¹ (P*D t)
//! ```
//!
//! The matrix in the middle is real of r × r. Source: Gu, Goel, Ré, 2111.00396, appendix C.2; with Λ − P P* in place of
//! Λ − P Q* from Goel et al., 2202.09729, which keeps every eigenvalue in the left half-plane.

use super::dense::{Dense, DiscreteDense};
use super::diagonal::{Diagonal, Modes, dot, require_complex};
use super::discretisation::Discretisation;
use super::error::{Result, StateSpaceError, require_finite, require_length, require_states};
use super::views::{DiscreteStateSpace, StateSpace, finite};
use nalgebra::{DMatrix, DVector};
use num_complex::Complex64;
use std::f64::consts::SQRT_2;

/// How far above 0, against its size, rounding may carry an eigenvalue that does not decay.
const ROUNDING: f64 = 1e-12;

/// x′ = (Λ − P P*) x + B u, y = 2 Re Σ C_n x_n + D u, in conjugate pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Dplr {
    eigenvalues: Vec<Complex64>,
    low_rank: Vec<Vec<Complex64>>,
    input: Vec<Complex64>,
    output: Vec<Complex64>,
    skip: f64,
}

/// A [`Dplr`] under a bilinear rule, with O(N) a step.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscreteDplr {
    continuous: Dplr,
    alpha: f64,
    step: f64,
    /// D_n = 1/(1 − αΔλ_n) of one of each conjugate pair.
    resolvent: Vec<Complex64>,
    /// (I + αΔ P*D P)⁻¹.
    core: DMatrix<f64>,
}

impl Dplr {
    /// Λ, the r vectors P, B and C of one of each conjugate pair (N/2 numbers each), and D.
    ///
    /// # Errors
    /// No mode; lengths that differ; a number that is not finite.
    pub fn new(
        eigenvalues: Vec<Complex64>,
        low_rank: Vec<Vec<Complex64>>,
        input: Vec<Complex64>,
        output: Vec<Complex64>,
        skip: f64,
    ) -> Result<Self> {
        require_states("a diagonal plus low-rank system", eigenvalues.len())?;
        require_length("B", input.len(), eigenvalues.len())?;
        require_length("C", output.len(), eigenvalues.len())?;
        for vector in &low_rank {
            require_length("P", vector.len(), eigenvalues.len())?;
            require_complex("P", vector)?;
        }
        require_complex("the eigenvalues", &eigenvalues)?;
        require_complex("B", &input)?;
        require_complex("C", &output)?;
        require_finite("D", [skip])?;
        Ok(Self {
            eigenvalues,
            low_rank,
            input,
            output,
            skip,
        })
    }

    /// The eigenvalues of Λ, one of each conjugate pair.
    pub fn eigenvalues(&self) -> &[Complex64] {
        &self.eigenvalues
    }

    /// The r vectors P, of one of each conjugate pair.
    pub fn low_rank(&self) -> &[Vec<Complex64>] {
        &self.low_rank
    }

    /// B of one of each conjugate pair.
    pub fn input(&self) -> &[Complex64] {
        &self.input
    }

    /// C of one of each conjugate pair.
    pub fn output(&self) -> &[Complex64] {
        &self.output
    }

    /// The system with another C.
    ///
    /// # Errors
    /// Another length; a number that is not finite.
    pub fn with_output(mut self, output: Vec<Complex64>) -> Result<Self> {
        require_length("C", output.len(), self.eigenvalues.len())?;
        require_complex("C", &output)?;
        self.output = output;
        Ok(self)
    }

    /// The diagonal system that is left without P, as S4D takes it from S4.
    ///
    /// # Errors
    /// None for a system that was made.
    pub fn without_low_rank(&self) -> Result<Diagonal> {
        Diagonal::new(
            self.eigenvalues.clone(),
            self.input.clone(),
            self.output.clone(),
            self.skip,
            Modes::ConjugatePairs,
        )
    }

    /// The same system with a real matrix of N × N, on the state ξ = √2 [Re x, Im x].
    ///
    /// The change of basis is unitary, so nothing is lost by it. A pair λ = a + bi is the block [[a, −b], [b, a]], and each
    /// vector P takes p pᵀ with p = √2 [Re P, Im P] from the whole.
    ///
    /// # Errors
    /// None for a system that was made.
    pub fn to_dense(&self) -> Result<Dense> {
        let half = self.eigenvalues.len();
        let mut a = DMatrix::zeros(2 * half, 2 * half);
        for (n, z) in self.eigenvalues.iter().enumerate() {
            a[(n, n)] = z.re;
            a[(n, n + half)] = -z.im;
            a[(n + half, n)] = z.im;
            a[(n + half, n + half)] = z.re;
        }
        for vector in &self.low_rank {
            let p = real_basis(vector);
            a -= &p * p.transpose();
        }
        Dense::new(a, real_basis(&self.input), dense_output(&self.output), self.skip)
    }

    /// P*x of every vector P, over both members of the pairs.
    fn project(&self, x: &[Complex64]) -> DVector<f64> {
        let product = |p: &Vec<Complex64>| p.iter().zip(x).map(|(p, x)| p.conj() * x).sum::<Complex64>();
        DVector::from_iterator(
            self.low_rank.len(),
            self.low_rank
                .iter()
                .map(|p| Modes::ConjugatePairs.output(product(p))),
        )
    }

    /// Σ_r P_r q_r with the `coefficients` q, of one of each conjugate pair.
    fn expand(&self, coefficients: &DVector<f64>) -> Vec<Complex64> {
        let mut sum = vec![Complex64::ZERO; self.eigenvalues.len()];
        for (vector, &q) in self.low_rank.iter().zip(coefficients.iter()) {
            for (s, p) in sum.iter_mut().zip(vector) {
                *s += p * q;
            }
        }
        sum
    }
}

impl StateSpace for Dplr {
    type Scalar = Complex64;
    type Discrete = DiscreteDplr;

    fn state_len(&self) -> usize {
        self.eigenvalues.len()
    }

    fn skip(&self) -> f64 {
        self.skip
    }

    /// Through [`Dplr::to_dense`]: Λ − P P* has no exponential of its own form.
    fn impulse_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        self.to_dense()?.impulse_response(times)
    }

    fn step_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        self.to_dense()?.step_response(times)
    }

    /// The system under a generalised bilinear rule; the others have no O(N) form, and are had through [`Dplr::to_dense`].
    fn discretise(&self, rule: Discretisation, step: f64) -> Result<DiscreteDplr> {
        rule.check(step)?;
        let Discretisation::GeneralisedBilinear { alpha } = rule else {
            return Err(StateSpaceError::Rule {
                rule: rule.name(),
                system: "a diagonal plus low-rank system",
                instead: "use a bilinear rule, or the dense form of the system",
            });
        };
        if let Some(mode) = self.eigenvalues.iter().position(|z| z.re > ROUNDING * z.norm()) {
            return Err(StateSpaceError::Unstable {
                mode,
                rule: rule.name(),
                step,
                magnitude: rule.mode(self.eigenvalues[mode], step)?.transition.norm(),
            });
        }
        DiscreteDplr::new(self.clone(), alpha, step)
    }
}

impl DiscreteDplr {
    fn new(continuous: Dplr, alpha: f64, step: f64) -> Result<Self> {
        let resolvent: Vec<Complex64> = continuous
            .eigenvalues
            .iter()
            .map(|z| 1.0 / (1.0 - alpha * step * z))
            .collect();
        let rank = continuous.low_rank.len();
        let mut middle = DMatrix::identity(rank, rank);
        for (column, vector) in continuous.low_rank.iter().enumerate() {
            let resolved = times(&resolvent, vector);
            let products = continuous.project(&resolved) * (alpha * step);
            middle.set_column(column, &(middle.column(column) + products));
        }
        // P*D P has a positive real part for Re λ ≤ 0, so the matrix is never singular there.
        let core = middle.try_inverse().ok_or_else(|| StateSpaceError::Singular {
            what: "I + αΔ P*D P",
            place: format!("Δ = {step}"),
            instead: "choose another step size",
        })?;
        Ok(Self {
            continuous,
            alpha,
            step,
            resolvent,
            core,
        })
    }

    /// The continuous system that this is a recurrence of.
    pub fn continuous(&self) -> &Dplr {
        &self.continuous
    }

    /// α of the rule.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The step size Δ of the recurrence.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// The same recurrence with real matrices, on ξ = √2 [Re x, Im x].
    ///
    /// # Errors
    /// I − αΔA that is singular.
    pub fn to_dense(&self) -> Result<DiscreteDense> {
        let rule = Discretisation::GeneralisedBilinear { alpha: self.alpha };
        self.continuous.to_dense()?.discretise(rule, self.step)
    }

    /// (I − αΔA)⁻¹ t.
    fn solve(&self, t: &[Complex64]) -> Vec<Complex64> {
        let mut solved = times(&self.resolvent, t);
        let weights = &self.core * self.continuous.project(&solved) * (self.alpha * self.step);
        let correction = times(&self.resolvent, &self.continuous.expand(&weights));
        for (x, c) in solved.iter_mut().zip(correction) {
            *x -= c;
        }
        solved
    }

    /// B̄ = (I − αΔA)⁻¹ ΔB.
    pub fn input(&self) -> Vec<Complex64> {
        let scaled: Vec<Complex64> = self.continuous.input.iter().map(|b| b * self.step).collect();
        self.solve(&scaled)
    }
}

impl DiscreteStateSpace for DiscreteDplr {
    type Scalar = Complex64;

    fn state_len(&self) -> usize {
        self.resolvent.len()
    }

    fn skip(&self) -> f64 {
        self.continuous.skip
    }

    fn shift(&self) -> &[Complex64] {
        &[]
    }

    fn advance(&self, state: &mut [Complex64], input: f64) {
        let system = &self.continuous;
        let forward = (1.0 - self.alpha) * self.step;
        let low_rank = system.expand(&(system.project(state) * forward));
        let t: Vec<Complex64> = state
            .iter()
            .zip(&system.eigenvalues)
            .zip(low_rank)
            .zip(&system.input)
            .map(|(((x, z), p), b)| (1.0 + forward * z) * x - p + b * (self.step * input))
            .collect();
        state.copy_from_slice(&self.solve(&t));
    }

    fn read(&self, state: &[Complex64]) -> f64 {
        Modes::ConjugatePairs.output(dot(&self.continuous.output, state))
    }

    /// The kernel by the recurrence, O(N) a tap. [`DiscreteDplr::kernel_by_generating_function`] is the other way.
    fn kernel(&self, length: usize) -> Result<Vec<f64>> {
        let mut state = self.zero_state();
        (0..length)
            .map(|l| {
                self.advance(&mut state, if l == 0 { 1.0 } else { 0.0 });
                finite("the kernel", l, self.read(&state))
            })
            .collect()
    }
}

/// √2 [Re x, Im x]: the real coordinates of a state or of B.
pub(crate) fn real_basis(x: &[Complex64]) -> DVector<f64> {
    let parts = x.iter().map(|z| z.re).chain(x.iter().map(|z| z.im));
    DVector::from_iterator(2 * x.len(), parts.map(|part| SQRT_2 * part))
}

/// √2 [Re C, −Im C]: C on real coordinates.
pub(crate) fn dense_output(c: &[Complex64]) -> DVector<f64> {
    let conjugate: Vec<Complex64> = c.iter().map(Complex64::conj).collect();
    real_basis(&conjugate)
}

/// C in conjugate pairs from C on real coordinates.
pub(crate) fn paired_output(c: &DVector<f64>) -> Vec<Complex64> {
    let half = c.len() / 2;
    (0..half)
        .map(|n| Complex64::new(c[n], -c[n + half]) / SQRT_2)
        .collect()
}

/// The products of two lists, one by one.
fn times(a: &[Complex64], b: &[Complex64]) -> Vec<Complex64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}
