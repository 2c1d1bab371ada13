//! Systems of any measure of the past, from its orthonormal polynomials.
//!
//! Let w be a weight on ages from 0 to T (or without end), and p_n the polynomials that are orthonormal under it. The
//! coefficients c_n(t) = ∫ w(a) p_n(a) u(t − a) da follow c′ = A c + B u with
//!
//! ```text
//! A_nk = −w(0) p_n(0) p_k(0) − ∫ w(a) p_n(a) p_k′(a) da        B_n = w(0) p_n(0)
//! ```
//!
//! This is ∫ K_n′ p_k with K_n = w p_n, less the jump at T where u(t − T) is not known any more and the expansion stands in for it;
//! both ends together leave no derivative of w. Where the functions K_n are closed under differentiation, K′ = A K exactly.
//!
//! The polynomials come from their recurrence √β_{n+1} p_{n+1} = (a − α_n) p_n − √β_n p_{n−1}, and the integral from Gauss's
//! quadrature with N nodes, which is exact here: the nodes are the eigenvalues of the symmetric tridiagonal matrix of α and √β
//! (Golub and Welsch 1969).

use super::super::error::{Result, StateSpaceError, require_finite, require_length, require_positive};
use super::measure::Transition;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Quadrature nodes for a weight that is given as a function: this many, and this many for each polynomial.
const FIXED_NODES: usize = 64;
const NODES_PER_DEGREE: usize = 8;

/// The polynomials that are orthonormal under a weight on ages.
#[derive(Clone, Debug, PartialEq)]
pub struct OrthonormalPolynomials {
    /// α_0 to α_{N−1} of the polynomials' recurrence.
    alpha: Vec<f64>,
    /// β_0 = ∫ w, and β_1 to β_{N−1}.
    beta: Vec<f64>,
    weight_at_zero: f64,
}

impl OrthonormalPolynomials {
    /// Polynomials of degree 0 to N − 1 from their recurrence: α, β with β_0 = ∫ w, and w(0).
    ///
    /// # Errors
    /// Lengths that differ; β that is not positive; numbers that are not finite.
    pub fn new(alpha: Vec<f64>, beta: Vec<f64>, weight_at_zero: f64) -> Result<Self> {
        require_length("β", beta.len(), alpha.len())?;
        require_finite("α", alpha.iter().copied())?;
        for (n, &b) in beta.iter().enumerate() {
            require_positive("β", || format!("degree {n}"), b)?;
        }
        require_finite("the weight at age 0", [weight_at_zero])?;
        Ok(Self {
            alpha,
            beta,
            weight_at_zero,
        })
    }

    /// Uniform weight 1/T on [0, T].
    ///
    /// # Errors
    /// T that is not finite and positive.
    pub fn legendre(n: usize, end: f64) -> Result<Self> {
        require_positive("the window", || "a Legendre measure".into(), end)?;
        let beta = |k: usize| {
            let k = k as f64;
            end * end / 4.0 * k * k / (4.0 * k * k - 1.0)
        };
        Self::new(
            vec![end / 2.0; n],
            (0..n).map(|k| if k == 0 { 1.0 } else { beta(k) }).collect(),
            1.0 / end,
        )
    }

    /// Weight a^α e^{−a} without end.
    ///
    /// # Errors
    /// α < 0: the weight at age 0 is then infinite.
    pub fn laguerre(n: usize, alpha: f64) -> Result<Self> {
        if !(alpha >= 0.0 && alpha.is_finite()) {
            return Err(StateSpaceError::Value {
                what: "α",
                place: "a Laguerre measure".into(),
                expected: "a finite number that is not negative",
                found: alpha,
            });
        }
        let beta = |k: usize| k as f64 * (k as f64 + alpha);
        let mass = libm::tgamma(1.0 + alpha);
        Self::new(
            (0..n).map(|k| 2.0 * k as f64 + 1.0 + alpha).collect(),
            (0..n).map(|k| if k == 0 { mass } else { beta(k) }).collect(),
            if alpha == 0.0 { 1.0 } else { 0.0 },
        )
    }

    /// Any weight on [0, T], as a function of the age, by Stieltjes's procedure on Gauss–Legendre nodes.
    ///
    /// Exact to rounding for smooth weights. A weight on all ages is one that is cut where it has become negligible.
    ///
    /// # Errors
    /// T that is not finite and positive; a weight that is negative or not finite somewhere, or 0 everywhere.
    pub fn of_weight(n: usize, end: f64, weight: impl Fn(f64) -> f64) -> Result<Self> {
        let nodes = Self::legendre(FIXED_NODES + NODES_PER_DEGREE * n, end)?.quadrature();
        let mut points = Vec::with_capacity(nodes.len());
        for (age, share) in nodes {
            let w = weight(age);
            if !(w.is_finite() && w >= 0.0) {
                return Err(StateSpaceError::Value {
                    what: "the weight",
                    place: format!("age {age}"),
                    expected: "a finite number that is not negative",
                    found: w,
                });
            }
            points.push((age, w * share * end));
        }
        let (alpha, beta) = stieltjes(n, &points);
        Self::new(alpha, beta, weight(0.0))
    }

    /// N, the number of polynomials.
    pub fn len(&self) -> usize {
        self.alpha.len()
    }

    /// Whether there is no polynomial.
    pub fn is_empty(&self) -> bool {
        self.alpha.is_empty()
    }

    /// p_0(a) to p_{N−1}(a), the polynomials at the age a.
    pub fn values(&self, age: f64) -> Vec<f64> {
        self.with_derivatives(age).into_iter().map(|(p, _)| p).collect()
    }

    /// p_n(a) and p_n′(a) of every polynomial, n from 0 to N − 1, at the age a.
    fn with_derivatives(&self, age: f64) -> Vec<(f64, f64)> {
        let mut values = Vec::with_capacity(self.len());
        let (mut previous, mut current) = ((0.0, 0.0), (0.0, 0.0));
        for (n, beta) in self.beta.iter().enumerate() {
            let root = beta.sqrt();
            let next = if n == 0 {
                (1.0 / root, 0.0)
            } else {
                let before = self.beta[n - 1].sqrt() * f64::from(u8::from(n > 1));
                let centre = age - self.alpha[n - 1];
                (
                    (centre * current.0 - before * previous.0) / root,
                    (current.0 + centre * current.1 - before * previous.1) / root,
                )
            };
            (previous, current) = (current, next);
            values.push(current);
        }
        values
    }

    /// Gauss's quadrature ∫ w f ≈ Σ w_j f(a_j) with N nodes, exact for polynomials of degree below 2N.
    pub fn quadrature(&self) -> Vec<(f64, f64)> {
        let n = self.len();
        if n == 0 {
            return Vec::new();
        }
        let mut jacobi = DMatrix::from_diagonal(&DVector::from_column_slice(&self.alpha));
        for k in 1..n {
            jacobi[(k, k - 1)] = self.beta[k].sqrt();
            jacobi[(k - 1, k)] = jacobi[(k, k - 1)];
        }
        let mut nodes: Vec<f64> = SymmetricEigen::new(jacobi).eigenvalues.iter().copied().collect();
        nodes.sort_by(f64::total_cmp);
        // Christoffel's numbers: 1/Σ p_n(a_j)².
        let weight = |&a: &f64| 1.0 / self.values(a).iter().map(|p| p * p).sum::<f64>();
        nodes.iter().map(|a| (*a, weight(a))).collect()
    }

    /// A and B of c′ = A c + B u, as in [this module](self).
    pub fn transition(&self) -> Transition {
        let n = self.len();
        let at_zero = self.values(0.0);
        let mut a = DMatrix::from_fn(n, n, |i, k| -self.weight_at_zero * at_zero[i] * at_zero[k]);
        for (age, weight) in self.quadrature() {
            let values = self.with_derivatives(age);
            for i in 0..n {
                // p_k′ has only terms below k.
                for k in i + 1..n {
                    a[(i, k)] -= weight * values[i].0 * values[k].1;
                }
            }
        }
        Transition {
            a,
            b: DVector::from_iterator(n, at_zero.iter().map(|p| self.weight_at_zero * p)),
        }
    }

    /// The remembered signal û(t − a) = Σ c_n p_n(a) at these ages.
    ///
    /// # Errors
    /// A number of coefficients that is not that of the polynomials; numbers that are not finite.
    pub fn reconstruct(&self, coefficients: &[f64], ages: &[f64]) -> Result<Vec<f64>> {
        require_length("the coefficients", coefficients.len(), self.len())?;
        require_finite("the coefficients", coefficients.iter().copied())?;
        require_finite("the ages", ages.iter().copied())?;
        let at = |&age: &f64| {
            coefficients
                .iter()
                .zip(self.values(age))
                .map(|(c, p)| c * p)
                .sum()
        };
        Ok(ages.iter().map(at).collect())
    }
}

/// α and β of the polynomials that are orthogonal under point masses (age, mass).
fn stieltjes(n: usize, points: &[(f64, f64)]) -> (Vec<f64>, Vec<f64>) {
    let (mut alpha, mut beta) = (Vec::new(), Vec::new());
    let mass: f64 = points.iter().map(|(_, m)| m).sum();
    // Values of the two last orthonormal polynomials at the points.
    let mut previous = vec![0.0; points.len()];
    let mut current = vec![1.0 / mass.sqrt(); points.len()];
    let mut square = mass;
    for _ in 0..n {
        beta.push(square);
        let moment = |p: &[f64]| -> f64 { points.iter().zip(p).map(|((a, m), p)| m * a * p * p).sum() };
        let centre = moment(&current);
        alpha.push(centre);
        let back = if alpha.len() > 1 { square.sqrt() } else { 0.0 };
        let next: Vec<f64> = points
            .iter()
            .zip(&current)
            .zip(&previous)
            .map(|(((a, _), p), q)| (a - centre) * p - back * q)
            .collect();
        square = points.iter().zip(&next).map(|((_, m), p)| m * p * p).sum();
        previous = current;
        current = next.into_iter().map(|p| p / square.sqrt()).collect();
    }
    (alpha, beta)
}
