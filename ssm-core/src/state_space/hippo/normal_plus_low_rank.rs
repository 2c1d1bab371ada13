//! HiPPO matrices as a normal matrix less a low-rank one, and their modes in a gauge that no library chooses.
//!
//! A + Σ P_i P_iᵀ = dI + K with K real and skew (2111.00396, theorem 1), so −iK is Hermitian and a Hermitian solver finds its
//! modes to full precision. The eigenvectors of A itself would be useless: their condition is 4e13 for LegS with N = 16.
//!
//! | measure | rank | P | d |
//! |---|---|---|---|
//! | `legs` | 1 | √(n + ½) | −½ |
//! | `legt` | 2 | r_n/√2 on odd rows; on even rows | 0 |
//! | `lagt`, `tlagt`, `glagt` with α = 0 | 1 | √½ | 0, −β/2, −β/2 |
//! | `fourier` | 1 | b | 0 |
//! | `fourier2` | 1 | √2 b | 0 |
//! | `fourier_decay` | 1 | b/√2 | 0 |
//! | `fourier_diag`, `legsd` | 0 | | −½ |
//!
//! An eigenvector has a phase that a library chooses. The canonical gauge turns each so that B̃_n = (V*B)_n is real and
//! positive; P̃ of `legs` is then real, too. The pair of zero modes of a Fourier measure has no eigenvectors of its own: they are
//! (w₁ + i w₂)/√2 with w₁ along B in the null space and w₂ across it. Published code clips the imaginary part of B at ±2,
//! which depends on the phases; in this gauge there is nothing to clip.
//!
//! One of each conjugate pair is kept, that with Im λ ≤ 0, and they are ordered by Im λ from below, as published S4 code has it.

use super::super::diagonal::{Diagonal, Modes};
use super::super::dplr::Dplr;
use super::super::error::{Result, StateSpaceError, require_finite, require_length, require_pairs};
use super::measure::{Measure, Transition, root};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use num_complex::Complex64;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Eigenvalues below this share of the largest are 0.
const ZERO_MODE: f64 = 1e-12;
/// A mean of the diagonal below this share of the matrix is 0.
const ROUNDING: f64 = 1e-14;
/// How far, against the size of the matrix, A + Σ P Pᵀ may be from dI + K.
const NORMAL: f64 = 1e-10;

/// A = V (Λ − Σ P̃ P̃*) V*, B = V B̃, with one of each conjugate pair kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalPlusLowRank {
    /// Λ: N/2 numbers with Im λ ≤ 0, from below.
    pub eigenvalues: Vec<Complex64>,
    /// P̃ = V*P of every vector P.
    pub low_rank: Vec<Vec<Complex64>>,
    /// B̃ = V*B: real and positive, except where it is 0.
    pub input: Vec<Complex64>,
    /// V, N × N/2.
    pub vectors: DMatrix<Complex64>,
}

/// The vectors P of a measure by its name, and zeros up to `rank`.
///
/// # Errors
/// A rank below the measure's own; a measure without such a form (`lmu`, and `glagt` with α ≠ 0).
pub fn rank_correction(measure: Measure, n: usize, rank: usize) -> Result<Vec<DVector<f64>>> {
    let b = measure.transition(n)?.b;
    let mut vectors = match measure {
        Measure::Legs => vec![b / SQRT_2],
        Measure::Legt => {
            let part = |odd: bool| {
                let value = |i: usize, _| if i % 2 == usize::from(odd) { root(i) } else { 0.0 };
                DVector::from_fn(n, value) / SQRT_2
            };
            vec![part(true), part(false)]
        }
        Measure::Lagt { .. } | Measure::TiltedLagt { .. } | Measure::GeneralisedLagt { alpha: 0.0, .. } => {
            vec![DVector::from_element(n, FRAC_1_SQRT_2)]
        }
        Measure::Fourier => vec![b],
        // B is twice b here, and half of it below.
        Measure::Fourier2 => vec![b / SQRT_2],
        Measure::FourierDecay => vec![b * SQRT_2],
        Measure::FourierDiagonal | Measure::LegsDiagonal => Vec::new(),
        Measure::Lmu | Measure::GeneralisedLagt { .. } => {
            return Err(StateSpaceError::Form {
                measure: measure.name().into(),
                form: "rank correction",
                reason: "its matrix is normal plus low-rank only after its rows are scaled",
            });
        }
    };
    if rank < vectors.len() {
        return Err(StateSpaceError::Rank {
            measure: measure.name().into(),
            needed: vectors.len(),
            found: rank,
        });
    }
    vectors.resize(rank, DVector::zeros(n));
    Ok(vectors)
}

impl NormalPlusLowRank {
    /// The form of a measure with N coefficients, in the canonical gauge.
    ///
    /// ```
    /// use spillway_ssm_core::state_space::hippo::{Measure, NormalPlusLowRank};
    ///
    /// let form = NormalPlusLowRank::of_measure(Measure::Legs, 8, 1)?;
    /// assert!((form.eigenvalues[3].im + 0.42749).abs() < 1e-5);
    /// assert!((form.input[3].re - 0.79946).abs() < 1e-5 && form.input[3].im.abs() < 1e-12);
    /// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
    /// ```
    ///
    /// # Errors
    /// An odd N; as [`rank_correction`].
    pub fn of_measure(measure: Measure, n: usize, rank: usize) -> Result<Self> {
        let vectors = rank_correction(measure, n, rank)?;
        Self::of_matrix(measure.name(), &measure.transition(n)?, &vectors)
    }

    /// The form of any A and B with vectors P such that A + Σ P Pᵀ = dI + K with K skew.
    ///
    /// # Errors
    /// An odd N; vectors of another length; numbers that are not finite; A + Σ P Pᵀ that is not of this kind. `name` is for
    /// their messages.
    pub fn of_matrix(name: &str, system: &Transition, low_rank: &[DVector<f64>]) -> Result<Self> {
        let n = system.b.len();
        require_pairs("a normal plus low-rank form", n)?;
        require_finite("A and B", system.a.iter().chain(system.b.iter()).copied())?;
        let mut normal = system.a.clone();
        for p in low_rank {
            require_length("P", p.len(), n)?;
            require_finite("P", p.iter().copied())?;
            normal += p * p.transpose();
        }
        let mean = normal.trace() / n as f64;
        // A mean of 0 is that, and not what rounding leaves of it: its modes neither grow nor decay.
        let real = if mean.abs() <= ROUNDING * normal.norm() {
            0.0
        } else {
            mean
        };
        let skew = (&normal - normal.transpose()) / 2.0;
        let rest = &normal - DMatrix::identity(n, n) * real - &skew;
        if rest.norm() > NORMAL * normal.norm().max(1.0) {
            return Err(StateSpaceError::Form {
                measure: name.to_owned(),
                form: "normal plus low-rank form with these vectors P",
                reason: "A + Σ P Pᵀ is not a multiple of the identity plus a skew matrix",
            });
        }
        let (frequencies, mut vectors) = skew_modes(&skew, &system.b);
        fix_phases(&mut vectors, &system.b);
        let project = |v: &DVector<f64>| -> Vec<Complex64> {
            let projected = vectors.adjoint() * v.map(Complex64::from);
            projected.iter().copied().collect()
        };
        Ok(Self {
            eigenvalues: frequencies.iter().map(|w| Complex64::new(real, *w)).collect(),
            low_rank: low_rank.iter().map(project).collect(),
            input: project(&system.b),
            vectors,
        })
    }

    /// C in the basis of the modes, of a real output C on the coefficients: y = C c = 2 Re Σ C̃_n x_n.
    ///
    /// # Errors
    /// C of another length.
    pub fn output(&self, c: &[f64]) -> Result<Vec<Complex64>> {
        require_length("C", c.len(), self.vectors.nrows())?;
        let row = DVector::from_iterator(c.len(), c.iter().map(|&c| Complex64::from(c)));
        Ok(self.vectors.tr_mul(&row).iter().copied().collect())
    }

    /// The coefficients c = 2 Re V x of a state in the basis of the modes.
    ///
    /// # Errors
    /// A state of another length.
    pub fn coefficients(&self, state: &[Complex64]) -> Result<Vec<f64>> {
        require_length("the state", state.len(), self.vectors.ncols())?;
        let sum = &self.vectors * DVector::from_column_slice(state);
        Ok(sum.iter().map(|z| 2.0 * z.re).collect())
    }

    /// S4's system with this C (in the basis of the modes) and D.
    ///
    /// # Errors
    /// C of another length; numbers that are not finite.
    pub fn system(&self, output: Vec<Complex64>, skip: f64) -> Result<Dplr> {
        Dplr::new(
            self.eigenvalues.clone(),
            self.low_rank.clone(),
            self.input.clone(),
            output,
            skip,
        )
    }

    /// The diagonal system without the low-rank part: S4D's approximation of S4 when B is halved for `legs` (2206.11893).
    ///
    /// # Errors
    /// As [`NormalPlusLowRank::system`].
    pub fn diagonal(&self, output: Vec<Complex64>, skip: f64) -> Result<Diagonal> {
        let modes = Modes::ConjugatePairs;
        Diagonal::new(self.eigenvalues.clone(), self.input.clone(), output, skip, modes)
    }
}

/// The eigenvalues of A of a measure, where they are known without a solver for matrices that are not normal: the triangular
/// measures, and those without a rank correction. From below in Im λ, then in Re λ.
///
/// # Errors
/// A measure whose eigenvalues would need such a solver.
pub fn eigenvalues(measure: Measure, n: usize) -> Result<Vec<Complex64>> {
    let mut values: Vec<Complex64> = match measure {
        Measure::Legs
        | Measure::Lagt { .. }
        | Measure::TiltedLagt { .. }
        | Measure::GeneralisedLagt { .. } => {
            let a = measure.transition(n)?.a;
            a.diagonal().iter().map(|&x| Complex64::from(x)).collect()
        }
        Measure::FourierDiagonal | Measure::LegsDiagonal => {
            let half = NormalPlusLowRank::of_measure(measure, n, 0)?.eigenvalues;
            half.iter().flat_map(|z| [*z, z.conj()]).collect()
        }
        _ => {
            return Err(StateSpaceError::Form {
                measure: measure.name().into(),
                form: "eigenvalues in closed form",
                reason: "its matrix is neither triangular nor normal; its normal part has NormalPlusLowRank",
            });
        }
    };
    values.sort_by(|a, b| a.im.total_cmp(&b.im).then(a.re.total_cmp(&b.re)));
    Ok(values)
}

/// The N/2 modes of a real skew matrix with frequency ≤ 0, from below.
fn skew_modes(skew: &DMatrix<f64>, b: &DVector<f64>) -> (Vec<f64>, DMatrix<Complex64>) {
    let n = skew.nrows();
    let hermitian = skew.map(|x| Complex64::new(0.0, -x));
    let eigen = SymmetricEigen::new(hermitian);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| eigen.eigenvalues[i].total_cmp(&eigen.eigenvalues[j]));
    let largest = eigen.eigenvalues.amax();
    let is_zero = |i: usize| eigen.eigenvalues[i].abs() <= ZERO_MODE * largest;
    let mut frequencies: Vec<f64> = order[..n / 2].iter().map(|&i| eigen.eigenvalues[i]).collect();
    let columns: Vec<_> = order[..n / 2]
        .iter()
        .map(|&i| eigen.eigenvectors.column(i).into_owned())
        .collect();
    let mut vectors = DMatrix::from_columns(&columns);
    let zeros: Vec<usize> = order.iter().copied().filter(|&i| is_zero(i)).collect();
    if !zeros.is_empty() {
        let mut projector = DMatrix::zeros(n, n);
        for &i in &zeros {
            let v = eigen.eigenvectors.column(i);
            projector += (v * v.adjoint()).map(|z| z.re);
        }
        let pairs = null_pairs(&projector, b, zeros.len() / 2);
        // Zero is the largest of the frequencies that are kept.
        for (column, pair) in (n / 2 - pairs.len()..n / 2).zip(pairs) {
            vectors.set_column(column, &pair);
            frequencies[column] = 0.0;
        }
    }
    (frequencies, vectors)
}

/// (w₁ + i w₂)/√2 for an orthonormal basis w of a null space, the first along B.
fn null_pairs(projector: &DMatrix<f64>, b: &DVector<f64>, pairs: usize) -> Vec<DVector<Complex64>> {
    let mut real: Vec<DVector<f64>> = Vec::new();
    let candidates = std::iter::once(projector * b).chain(projector.column_iter().map(|c| c.into_owned()));
    for mut candidate in candidates {
        let size = candidate.norm();
        // Twice, since one pass of Gram and Schmidt leaves rounding behind.
        for _ in 0..2 {
            for w in &real {
                candidate -= w * w.dot(&candidate);
            }
        }
        let left = candidate.norm();
        if real.len() < 2 * pairs && left > 0.1 * size && left > 1e-8 {
            real.push(candidate / left);
        }
    }
    let pair = |w: &[DVector<f64>]| w[0].zip_map(&w[1], |x, y| Complex64::new(x, y) * FRAC_1_SQRT_2);
    real.chunks_exact(2).map(pair).collect()
}

/// Turns every column so that (V*B)_n is real and positive; where that is 0, so that its largest entry is.
fn fix_phases(vectors: &mut DMatrix<Complex64>, b: &DVector<f64>) {
    for mut column in vectors.column_iter_mut() {
        let projected: Complex64 = column.iter().zip(b.iter()).map(|(v, b)| v.conj() * b).sum();
        let largest = column
            .iter()
            .copied()
            .max_by(|x, y| x.norm().total_cmp(&y.norm()))
            .unwrap_or(Complex64::ONE);
        let reference = if projected.norm() > 1e-12 * b.norm() {
            projected
        } else {
            largest.conj()
        };
        // v e^{iθ} has (v e^{iθ})*b = e^{−iθ} v*b.
        let turn = reference / reference.norm();
        column *= turn;
    }
}
