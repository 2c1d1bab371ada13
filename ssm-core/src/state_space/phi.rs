//! The exponential and its quotient φ₁(z) = (eᶻ − 1)/z, to full precision near z = 0.

use num_complex::Complex64;

/// |z| below which φ₁(z) is its series: the next term is smaller than half a unit in the last place.
const SERIES: f64 = 1e-8;

/// eᶻ − 1, without cancellation for small z with Re z ≤ 0.
///
/// With z = x + iy: (eˣ − 1) cos y − 2 sin²(y/2) + i eˣ sin y.
///
/// ```
/// use spillway_ssm_core::state_space::{Complex64, phi::exp_minus_one};
///
/// let z = Complex64::new(-1e-12, 2e-12);
/// assert!((exp_minus_one(z) - z).norm() < 1e-23);
/// ```
pub fn exp_minus_one(z: Complex64) -> Complex64 {
    let half_sine = (z.im / 2.0).sin();
    Complex64::new(
        z.re.exp_m1() * z.im.cos() - 2.0 * half_sine * half_sine,
        z.re.exp() * z.im.sin(),
    )
}

/// φ₁(z) = (eᶻ − 1)/z, with φ₁(0) = 1.
///
/// A zero-order hold writes Δ φ₁(Δλ) b of a held input b into a mode λ; that is Δ b itself for λ = 0.
pub fn phi1(z: Complex64) -> Complex64 {
    if z.norm() < SERIES {
        1.0 + z / 2.0
    } else {
        exp_minus_one(z) / z
    }
}
