//! The kernel of a diagonal plus low-rank system by its generating function.
//!
//! K̂(ω) = Σ_{l<L} K̄_l ω^l = C̃ (I − Āω)⁻¹ B̄ with the *truncated* output C̃ = C (I − Ā^L). Written out for A = Λ − P P* under the
//! generalised bilinear rule, with f(ω) = Δ(α + (1 − α)ω) and d_n(ω) = 1 − ω − f(ω) λ_n, it is four Cauchy sums
//!
//! ```text
//! k₀₀ = Σ C̃_n B_n / d_n   k₀₁ = Σ C̃_n P_n / d_n   k₁₀ = Σ P̄_n B_n / d_n   k₁₁ = Σ P̄_n P_n / d_n
//! K̂(ω) = Δ (k₀₀ − f · k₀₁ (I + f · k₁₁)⁻¹ k₁₀)
//! ```
//!
//! over both members of all pairs, at the L roots of unity ω_j = e^{−2πij/L}; an inverse Fourier transform gives K̄. Nothing is
//! divided by 1 + ω, which is 0 at the last node of an even L, as it is in the usual form with z = 2(1 − ω)/(1 + ω).
//!
//! Source: 2111.00396, appendix C.3, in this form for every α and rank.

use super::diagonal::require_complex;
use super::dplr::{DiscreteDplr, paired_output};
use super::error::{Result, StateSpaceError, require_length};
use super::views::finite;
use nalgebra::{DMatrix, DVector};
use num_complex::Complex64;
use std::f64::consts::PI;

/// Below this share of the largest, a denominator has lost too many digits for Woodbury's identity.
const SMALL_DENOMINATOR: f64 = 1e-8;

/// C̃ = C (I − Ā^L), and the L that it is for: what S4's checkpoints hold, as `C` and `l_kernel`.
#[derive(Clone, Debug, PartialEq)]
pub struct TruncatedOutput {
    /// C̃ of one of each conjugate pair; C itself while `length` is 0.
    pub output: Vec<Complex64>,
    /// L, the taps of the kernels that `output` is for; 0 where it is C.
    pub length: usize,
}

impl DiscreteDplr {
    /// C̃ = C (I − Ā^L) for kernels of `length` taps.
    ///
    /// # Errors
    /// As [`DiscreteDplr::to_dense`].
    pub fn truncate(&self, length: usize) -> Result<TruncatedOutput> {
        let plain = TruncatedOutput {
            output: self.continuous().output().to_vec(),
            length: 0,
        };
        self.extend(&plain, length)
    }

    /// C from C̃, the inverse of [`DiscreteDplr::truncate`]: C = C̃ (I − Ā^L)⁻¹.
    ///
    /// It loses digits where slow modes have not decayed over L steps: |1 − ā^L| falls to .03 for Δ = 1e-3 and L = 64.
    ///
    /// # Errors
    /// A mode that does not decay at all; another number of modes.
    pub fn untruncate(&self, truncated: &TruncatedOutput) -> Result<Vec<Complex64>> {
        let row = self.output_row(&truncated.output)?;
        if truncated.length == 0 {
            return Ok(truncated.output.clone());
        }
        let power = self.to_dense()?.transition_power(truncated.length);
        let matrix = (DMatrix::identity(power.nrows(), power.ncols()) - power).transpose();
        let solved = matrix.lu().solve(&row).ok_or_else(|| StateSpaceError::Singular {
            what: "I − Ā^L",
            place: format!("L = {}", truncated.length),
            instead: "a mode with eigenvalue 0 cannot be had back from a truncated output",
        })?;
        Ok(paired_output(&solved))
    }

    /// A truncated output for longer kernels, as S4 extends its own: from 0 to exactly `length`, and else by doubling,
    /// C̃_{2L} = C̃_L (I + Ā^L), until it covers `length`.
    ///
    /// # Errors
    /// Another number of modes; as [`DiscreteDplr::to_dense`].
    pub fn extend(&self, truncated: &TruncatedOutput, length: usize) -> Result<TruncatedOutput> {
        let mut row = self.output_row(&truncated.output)?;
        if truncated.length >= length {
            return Ok(truncated.clone());
        }
        let dense = self.to_dense()?;
        let mut reached = truncated.length;
        if reached == 0 {
            row -= dense.transition_power(length).tr_mul(&row);
            reached = length;
        }
        while reached < length {
            row += dense.transition_power(reached).tr_mul(&row);
            reached = reached.saturating_mul(2);
        }
        Ok(TruncatedOutput {
            output: paired_output(&row),
            length: reached,
        })
    }

    /// The kernel of `length` taps by the generating function, from C itself.
    ///
    /// # Errors
    /// A node at which the system has no solution, as a mode with λ = 0 gives it; a tap that is not finite.
    pub fn kernel_by_generating_function(&self, length: usize) -> Result<Vec<f64>> {
        self.kernel_of_truncated(&self.truncate(length)?.output, length)
    }

    /// The inverse transform of K̂ at M = `nodes` roots of unity with this C̃, which is C̃ (I − Ā^M)⁻¹ Ā^l B̄: all laps of the full
    /// response on top of each other.
    ///
    /// It is the kernel where C̃ was truncated at M taps of this very step. S4 keeps C̃ as it is when it changes the
    /// sampling rate, and so computes this sum, which is the exact kernel of the new rate only approximately.
    ///
    /// # Errors
    /// As [`DiscreteDplr::kernel_by_generating_function`]; another number of modes.
    pub fn kernel_of_truncated(&self, truncated: &[Complex64], nodes: usize) -> Result<Vec<f64>> {
        self.output_row(truncated)?;
        let sums = CauchySums::new(self, truncated);
        // The kernel is real, so K̂ at the conjugate nodes is the conjugate.
        let half: Vec<Complex64> = (0..nodes / 2 + usize::from(nodes > 0))
            .map(|j| sums.at(root_of_unity(j, nodes), j, nodes))
            .collect::<Result<_>>()?;
        inverse_transform(&half, nodes)
    }

    /// A given output on real coordinates.
    fn output_row(&self, output: &[Complex64]) -> Result<DVector<f64>> {
        require_length("C̃", output.len(), self.continuous().eigenvalues().len())?;
        require_complex("C̃", output)?;
        Ok(super::dplr::dense_output(output))
    }
}

/// The lists of a system with both members of every pair.
struct CauchySums {
    eigenvalues: Vec<Complex64>,
    low_rank: Vec<Vec<Complex64>>,
    input: Vec<Complex64>,
    output: Vec<Complex64>,
    alpha: f64,
    step: f64,
}

impl CauchySums {
    fn new(discrete: &DiscreteDplr, output: &[Complex64]) -> Self {
        let system = discrete.continuous();
        Self {
            eigenvalues: both(system.eigenvalues()),
            low_rank: system.low_rank().iter().map(|p| both(p)).collect(),
            input: both(system.input()),
            output: both(output),
            alpha: discrete.alpha(),
            step: discrete.step(),
        }
    }

    /// K̂(ω), at node `j` of `nodes`.
    fn at(&self, omega: Complex64, j: usize, nodes: usize) -> Result<Complex64> {
        let f = self.step * (self.alpha + (1.0 - self.alpha) * omega);
        let denominators: Vec<Complex64> = self.eigenvalues.iter().map(|z| 1.0 - omega - f * z).collect();
        let norms = || denominators.iter().map(|d| d.norm());
        let smallest = norms().fold(f64::INFINITY, f64::min);
        let value = if smallest < SMALL_DENOMINATOR * norms().fold(0.0, f64::max) {
            self.by_elimination(f, &denominators)
        } else {
            self.by_woodbury(f, &denominators)
        };
        value.ok_or_else(|| StateSpaceError::Singular {
            what: "I − Āω",
            place: format!("node {j} of {nodes}"),
            instead: "compute the kernel by the recurrence",
        })
    }

    /// Σ a_n b_n / d_n.
    fn cauchy(a: &[Complex64], b: &[Complex64], denominators: &[Complex64]) -> Complex64 {
        a.iter()
            .zip(b)
            .zip(denominators)
            .map(|((a, b), d)| a * b / d)
            .sum()
    }

    fn by_woodbury(&self, f: Complex64, denominators: &[Complex64]) -> Option<Complex64> {
        let rank = self.low_rank.len();
        let conjugate: Vec<Vec<Complex64>> = self
            .low_rank
            .iter()
            .map(|p| p.iter().map(Complex64::conj).collect())
            .collect();
        let k00 = Self::cauchy(&self.output, &self.input, denominators);
        let k01 = DVector::from_fn(rank, |r, _| {
            Self::cauchy(&self.output, &self.low_rank[r], denominators)
        });
        let k10 = DVector::from_fn(rank, |r, _| {
            Self::cauchy(&conjugate[r], &self.input, denominators)
        });
        let middle = DMatrix::from_fn(rank, rank, |r, s| {
            let k11 = Self::cauchy(&conjugate[r], &self.low_rank[s], denominators);
            f * k11 + if r == s { Complex64::ONE } else { Complex64::ZERO }
        });
        let solved = if rank == 0 { k10 } else { middle.lu().solve(&k10)? };
        Some(self.step * (k00 - f * k01.dot(&solved)))
    }

    /// K̂(ω) from the matrix diag(d) + f P P* itself, where a denominator of Woodbury's identity all but vanishes.
    fn by_elimination(&self, f: Complex64, denominators: &[Complex64]) -> Option<Complex64> {
        let mut matrix = DMatrix::from_diagonal(&DVector::from_column_slice(denominators));
        for p in &self.low_rank {
            let p = DVector::from_column_slice(p);
            matrix += (&p * p.adjoint()) * f;
        }
        let solver = matrix.full_piv_lu();
        // A pivot at the size of rounding means that there is no solution.
        let pivots = solver.u().diagonal().map(|pivot| pivot.norm());
        if pivots.min() <= f64::EPSILON * pivots.len() as f64 * pivots.max() {
            return None;
        }
        let solved = solver.solve(&DVector::from_column_slice(&self.input))?;
        Some(self.step * DVector::from_column_slice(&self.output).dot(&solved))
    }
}

/// A list followed by its conjugates.
fn both(half: &[Complex64]) -> Vec<Complex64> {
    half.iter()
        .copied()
        .chain(half.iter().map(Complex64::conj))
        .collect()
}

/// ω_j = e^{−2πij/L} with L = `length`.
fn root_of_unity(j: usize, length: usize) -> Complex64 {
    Complex64::cis(-2.0 * PI * j as f64 / length as f64)
}

/// The real sequence of `length` numbers whose transform begins with these; a plain sum over a table of the roots.
fn inverse_transform(half: &[Complex64], length: usize) -> Result<Vec<f64>> {
    let roots: Vec<Complex64> = (0..length).map(|j| root_of_unity(j, length).conj()).collect();
    (0..length)
        .map(|l| {
            let mut sum = 0.0;
            for (j, value) in half.iter().enumerate() {
                // Nodes 0 and L/2 are their own conjugates; the others stand for two.
                let times = if j == 0 || 2 * j == length { 1.0 } else { 2.0 };
                sum += times * (value * roots[j * l % length]).re;
            }
            finite("the kernel", l, sum / length as f64)
        })
        .collect()
}
