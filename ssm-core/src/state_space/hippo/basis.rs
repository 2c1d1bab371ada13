//! The functions that coefficients are the coefficients of, and the signal that a state remembers.

use super::super::error::{Result, StateSpaceError, require_finite};
use super::super::views::require_times;
use super::measure::{Measure, generalised_input_scale, laguerre_scales, root};
use std::f64::consts::{PI, SQRT_2};

/// P_0(x) to P_{n−1}(x), the Legendre polynomials, by (k + 1) P_{k+1} = (2k + 1) x P_k − k P_{k−1}.
pub fn legendre(n: usize, x: f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(n);
    let (mut previous, mut current) = (0.0, 1.0);
    for k in 0..n {
        values.push(current);
        let k = k as f64;
        (previous, current) = (
            current,
            ((2.0 * k + 1.0) * x * current - k * previous) / (k + 1.0),
        );
    }
    values
}

/// L_0^{(α)}(x) to L_{n−1}^{(α)}(x), the Laguerre polynomials, by
/// (k + 1) L_{k+1} = (2k + 1 + α − x) L_k − (k + α) L_{k−1}.
pub fn laguerre(n: usize, alpha: f64, x: f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(n);
    let (mut previous, mut current) = (0.0, 1.0);
    for k in 0..n {
        values.push(current);
        let k = k as f64;
        (previous, current) = (
            current,
            ((2.0 * k + 1.0 + alpha - x) * current - (k + alpha) * previous) / (k + 1.0),
        );
    }
    values
}

/// The ages that a measure looks at: from 0 to this, or all of them.
pub fn window(measure: Measure) -> Option<f64> {
    match measure {
        Measure::Legt | Measure::Fourier | Measure::FourierDecay => Some(2.0),
        Measure::Lmu | Measure::Fourier2 | Measure::FourierDiagonal => Some(1.0),
        Measure::Legs
        | Measure::LegsDiagonal
        | Measure::Lagt { .. }
        | Measure::TiltedLagt { .. }
        | Measure::GeneralisedLagt { .. } => None,
    }
}

/// p_0(a) to p_{N−1}(a) of a measure at an age a ≥ 0, as in the table of [the module](super): û(t − a) = Σ c_n p_n(a).
///
/// Beyond the [`window`] they are the same functions, and say nothing about the signal.
///
/// # Errors
/// An age that is negative or not finite; parameters or an N that the measure is not defined for.
pub fn basis(measure: Measure, n: usize, age: f64) -> Result<Vec<f64>> {
    require_times(&[age])?;
    measure.check(n)?;
    Ok(match measure {
        Measure::Legs | Measure::LegsDiagonal => scaled_legendre(n, 2.0 * (-age).exp() - 1.0),
        Measure::Legt => scaled_legendre(n, 1.0 - age),
        Measure::Lmu => legendre(n, 2.0 * age - 1.0),
        Measure::Lagt { beta } => scaled_laguerre(n, age, 1.0, beta),
        Measure::TiltedLagt { beta } => scaled_laguerre(n, age, 1.0 - beta, beta),
        Measure::GeneralisedLagt { alpha, beta } => {
            let weight = age.powf(alpha) * (-(1.0 - beta) * age / 2.0).exp();
            let values = laguerre(n, alpha, age).into_iter().zip(laguerre_scales(n, alpha));
            let scale = weight / generalised_input_scale(alpha, beta);
            values.map(|(value, norm)| scale * value / norm).collect()
        }
        Measure::Fourier | Measure::FourierDecay => sinusoids(n, PI * age, 1.0),
        Measure::Fourier2 => sinusoids(n, 2.0 * PI * age, 1.0),
        Measure::FourierDiagonal => sinusoids(n, 2.0 * PI * age, (age / 2.0).exp()),
    })
}

/// K_n(a) = p_n(a) ω(a) inside the window and 0 beyond it: what c_n = ∫ K_n(a) u(t − a) da weighs the past by.
///
/// Where these functions are closed under differentiation (`legs`, the Laguerre measures, `fourier_diag`) they are
/// e^{aA} B exactly; for `fourier_diag` at all ages, as an echo. For the others e^{aA} B is close to them.
///
/// # Errors
/// As [`basis`].
pub fn kernel_functions(measure: Measure, n: usize, age: f64) -> Result<Vec<f64>> {
    let values = basis(measure, n, age)?;
    let inside = window(measure).is_none_or(|end| age <= end);
    let weight = match measure {
        Measure::Legs | Measure::LegsDiagonal | Measure::FourierDiagonal => (-age).exp(),
        Measure::Legt | Measure::Fourier | Measure::FourierDecay if inside => 0.5,
        Measure::Fourier2 if inside => 1.0,
        // The functions of the LMU are not of norm 1.
        Measure::Lmu if inside => {
            let values = values.into_iter().enumerate();
            return Ok(values.map(|(i, value)| (2 * i + 1) as f64 * value).collect());
        }
        Measure::Lagt { beta } => beta * beta,
        Measure::TiltedLagt { beta } => beta * beta * (-beta * age).exp(),
        Measure::GeneralisedLagt { alpha, beta } => {
            // Without the factor a^α of the weight, so that age 0 is no quotient of zeros.
            let scale = generalised_input_scale(alpha, beta) * (-(1.0 + beta) * age / 2.0).exp();
            let values = laguerre(n, alpha, age).into_iter().zip(laguerre_scales(n, alpha));
            return Ok(values.map(|(value, norm)| scale * value / norm).collect());
        }
        _ => 0.0,
    };
    Ok(values.into_iter().map(|value| weight * value).collect())
}

/// The remembered signal û(t − a) = Σ c_n p_n(a) at these ages.
///
/// ```
/// use spillway_ssm_core::state_space::{DiscreteStateSpace, Discretisation, StateSpace};
/// use spillway_ssm_core::state_space::hippo::{Measure, reconstruct};
///
/// // A window of length 2 that is read 200 times hears a slow wave.
/// let memory = Measure::Legt.transition(16)?.states_only()?.discretise(Discretisation::BILINEAR, 0.01)?;
/// let wave = |t: f64| (2.0 * t).sin();
/// let heard: Vec<f64> = (1..=400).map(|k| wave(k as f64 * 0.01)).collect();
/// let mut state = memory.zero_state();
/// memory.respond(&mut state, &heard)?;
/// let remembered = reconstruct(Measure::Legt, &state, &[0.5, 1.0])?;
/// assert!((remembered[0] - wave(3.5)).abs() < 0.02);
/// assert!((remembered[1] - wave(3.0)).abs() < 0.02);
/// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
/// ```
///
/// # Errors
/// As [`basis`]; a coefficient that is not finite.
pub fn reconstruct(measure: Measure, coefficients: &[f64], ages: &[f64]) -> Result<Vec<f64>> {
    require_finite("the coefficients", coefficients.iter().copied())?;
    let at = |&age: &f64| Ok(sum(coefficients, &basis(measure, coefficients.len(), age)?));
    ages.iter().map(at).collect()
}

/// The signal on all of [0, t] that the time-varying LegS system remembers: û(s) = Σ c_n r_n P_n(2s/t − 1), at these shares
/// s/t of the time that has passed.
///
/// # Errors
/// A share outside [0, 1]; a coefficient that is not finite.
pub fn reconstruct_scaled(coefficients: &[f64], shares: &[f64]) -> Result<Vec<f64>> {
    require_finite("the coefficients", coefficients.iter().copied())?;
    let at = |(i, &share): (usize, &f64)| {
        if !(0.0..=1.0).contains(&share) {
            return Err(StateSpaceError::Value {
                what: "the share s/t",
                place: format!("index {i}"),
                expected: "a number from 0 to 1",
                found: share,
            });
        }
        Ok(sum(
            coefficients,
            &scaled_legendre(coefficients.len(), 2.0 * share - 1.0),
        ))
    };
    shares.iter().enumerate().map(at).collect()
}

/// r_k P_k(x) for k from 0 to n − 1, with the Legendre polynomials P_k and r_k = √(2k + 1).
pub(crate) fn scaled_legendre(n: usize, x: f64) -> Vec<f64> {
    let values = legendre(n, x).into_iter().enumerate();
    values.map(|(i, value)| root(i) * value).collect()
}

/// e^{−rate·a/2} L_k(a)/β for k from 0 to n − 1, with the Laguerre polynomials L_k, at the age a.
fn scaled_laguerre(n: usize, age: f64, rate: f64, beta: f64) -> Vec<f64> {
    let scale = (-rate * age / 2.0).exp() / beta;
    let values = laguerre(n, 0.0, age).into_iter();
    values.map(|value| scale * value).collect()
}

/// `scale` times 1, 0, √2 cos x, √2 sin x, √2 cos 2x, √2 sin 2x, …
fn sinusoids(n: usize, x: f64, scale: f64) -> Vec<f64> {
    let value = |i: usize| match i {
        0 => 1.0,
        1 => 0.0,
        i if i % 2 == 0 => SQRT_2 * ((i / 2) as f64 * x).cos(),
        i => SQRT_2 * ((i / 2) as f64 * x).sin(),
    };
    (0..n).map(|i| scale * value(i)).collect()
}

fn sum(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
