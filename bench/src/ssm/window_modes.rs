//! The eigenvalues of `legt`, which no solver for matrices finds: rounding moves most of them once N is above about 20.
//!
//! The output of `legt` that reads the end of its window θ = 2 is the Padé approximant [N − 1/N] of the delay e^{−θs} (Voelker et
//! al. 2019), so the eigenvalues are the zeros of its denominator. That is w(ξ) = ₁F₁(−N; 1 − 2N; ξ) with ξ = θs, and from Kummer's
//! equation ξ w″ + (1 − 2N − ξ) w′ + N w = 0 its zeros obey
//!
//! ```text
//! Σ_{k≠j} 2/(ξ_j − ξ_k) = w″(ξ_j)/w′(ξ_j) = 1 + (2N − 1)/ξ_j
//! ```
//!
//! which holds no cancellation, and which Newton's method solves from where the zeros lie for large N: on the curve Re η = 0 with
//! η(t) = √(1 + t²) + ln(t/(1 + √(1 + t²))) and ξ ≈ −2Nt (Saff and Varga 1978).

use spillway_ssm_core::state_space::{Complex64, DMatrix, DVector};
use std::f64::consts::PI;

/// Iterations, of which half a dozen do.
const ITERATIONS: usize = 60;
/// The length of the window.
const WINDOW: f64 = 2.0;

/// The N eigenvalues of `legt`; none if the iteration does not end.
pub fn legt(states: usize) -> Option<Vec<Complex64>> {
    let order = states as f64;
    let mut zeros: Vec<Complex64> = (0..states)
        .map(|j| -2.0 * order * on_curve(PI * ((j as f64 + 0.5) / order - 0.5)))
        .collect();
    for _ in 0..ITERATIONS {
        let step = newton_step(&zeros)?;
        let moved = zeros
            .iter()
            .zip(step.iter())
            .map(|(z, s)| s.norm() / z.norm())
            .fold(0.0, f64::max);
        // At first no zero goes further than a part of the way to its neighbour.
        let damping = if moved > 0.1 { 0.1 / moved } else { 1.0 };
        for (z, s) in zeros.iter_mut().zip(step.iter()) {
            *z -= damping * s;
        }
        if moved < 1e-13 {
            return Some(zeros.into_iter().map(|z| z / WINDOW).collect());
        }
    }
    None
}

/// t with η(t) = iθ.
fn on_curve(theta: f64) -> Complex64 {
    let mut t = Complex64::new(0.66 * theta.cos(), theta.sin());
    for _ in 0..ITERATIONS {
        let root = (1.0 + t * t).sqrt();
        let eta = root + (t / (1.0 + root)).ln();
        t -= (eta - Complex64::new(0.0, theta)) * t / root;
    }
    t
}

/// J⁻¹ F of F_j = Σ 2/(ξ_j − ξ_k) − 1 − (2N − 1)/ξ_j.
fn newton_step(zeros: &[Complex64]) -> Option<DVector<Complex64>> {
    let count = zeros.len();
    let weight = 2.0 * count as f64 - 1.0;
    let apart = |j: usize, k: usize| 1.0 / (zeros[j] - zeros[k]);
    let others = |j: usize| (0..count).filter(move |k| *k != j);
    let residual = DVector::from_fn(count, |j, _| {
        others(j).map(|k| 2.0 * apart(j, k)).sum::<Complex64>() - 1.0 - weight / zeros[j]
    });
    let jacobian = DMatrix::from_fn(count, count, |j, k| match j == k {
        true => {
            weight / (zeros[j] * zeros[j]) - others(j).map(|k| 2.0 * apart(j, k).powi(2)).sum::<Complex64>()
        }
        false => 2.0 * apart(j, k).powi(2),
    });
    jacobian.lu().solve(&residual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_ssm_core::state_space::hippo::Measure;

    #[test]
    fn they_are_those_of_the_matrix_where_a_solver_finds_them() {
        for states in [1, 2, 5, 8] {
            let matrix = Measure::Legt.transition(states).expect("a matrix").a;
            let zeros = legt(states).expect("zeros");
            for found in matrix.complex_eigenvalues().iter() {
                let nearest = zeros
                    .iter()
                    .map(|z| (z - found).norm())
                    .fold(f64::INFINITY, f64::min);
                assert!(
                    nearest < 1e-9,
                    "{states}: {found} is {nearest} from any of {zeros:?}"
                );
            }
        }
    }

    #[test]
    fn their_sum_and_product_are_trace_and_determinant_at_any_size() {
        for states in [16, 33, 64, 256] {
            let zeros = legt(states).expect("zeros");
            let sum: Complex64 = zeros.iter().sum();
            let trace = -0.5 * (states * states) as f64;
            assert!((sum - trace).norm() < 1e-9 * trace.abs(), "{states}: {sum}");
            // Π −ξ = (2N − 1)!/(N − 1)!
            let product: f64 = zeros.iter().map(|z| (WINDOW * z.norm()).ln()).sum();
            let factorials: f64 = (states..2 * states).map(|k| (k as f64).ln()).sum();
            assert!(
                (product - factorials).abs() < 1e-9 * factorials,
                "{states}: {product} {factorials}"
            );
            assert!(zeros.iter().all(|z| z.re < 0.0));
        }
    }
}
