//! Ā − 1 and B̄ of a token whose step size is its own.

use pulp::Simd;

use crate::linear_state_space::problem::Rule;
use crate::math;
use crate::simd::mul_add_one;

/// What the modes of a channel are made of at every token: rows of real parts and then imaginary parts.
#[derive(Clone, Copy)]
pub(super) struct Rates<'a> {
    /// Rates Λ of the modes.
    pub a: &'a [f32],
    /// B, or B / Λ where the input is held.
    pub gain: &'a [f32],
    /// B where the input is held and Λ is 0, so that there is no quotient; else 0.
    pub rest: &'a [f32],
}

/// Writes the rows of the [`Modes`](super::token::Modes) of a step size: re, im and input, one after another.
#[inline(always)]
pub(super) fn discretise<S: Simd>(simd: S, rule: Rule, rates: &Rates, step: f32, modes: &mut [f32]) {
    let width = rates.a.len();
    let (a_re, a_im) = rates.a.split_at(width / 2);
    let (gain_re, gain_im) = rates.gain.split_at(width / 2);
    let (rest_re, rest_im) = rates.rest.split_at(width / 2);
    let (re, others) = modes.split_at_mut(width);
    let (im, input) = others.split_at_mut(width);
    let turns = f64::from(step) * (0.5 * std::f64::consts::FRAC_1_PI);
    for n in 0..width / 2 {
        let gain = (gain_re[n], gain_im[n]);
        let (change, b) = match rule {
            Rule::Bilinear => {
                let (change, scale) = bilinear(step, (a_re[n], a_im[n]));
                (change, product(scale, gain))
            }
            Rule::ZeroOrderHold => {
                let change = exp_m1(simd, step * a_re[n], turns * f64::from(a_im[n]));
                let held = product(change, gain);
                (change, (held.0 + step * rest_re[n], held.1 + step * rest_im[n]))
            }
            Rule::Mixed | Rule::Given => {
                let change = exp_m1(simd, step * a_re[n], turns * f64::from(a_im[n]));
                (change, (step * gain.0, step * gain.1))
            }
        };
        (re[2 * n], re[2 * n + 1]) = (change.0, change.0);
        (im[2 * n], im[2 * n + 1]) = (-change.1, change.1);
        (input[2 * n], input[2 * n + 1]) = b;
    }
}

#[inline(always)]
fn product(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// z / (1 − z/2) and Δ / (1 − z/2) with z = ΔΛ.
#[inline(always)]
fn bilinear(step: f32, a: (f32, f32)) -> ((f32, f32), (f32, f32)) {
    let (re, im) = (1.0 - 0.5 * step * a.0, 0.5 * step * a.1);
    let scale = step / (re * re + im * im);
    let inverse = (scale * re, scale * im);
    (product(inverse, a), inverse)
}

/// e^z − 1 for z of non-positive real part and of an imaginary part in turns.
///
/// A phase of many turns keeps its digits: whole turns are taken off in f64. With h half of the phase, which may be off by half
/// turns, e^z − 1 = (e^{Re z} − 1) − 2 e^{Re z} sin h sin h + 2i e^{Re z} sin h cos h.
#[inline(always)]
fn exp_m1<S: Simd>(simd: S, re: f32, turns: f64) -> (f32, f32) {
    /// Adding this number rounds an f64 of magnitude below 2⁵¹ to an integer.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let part = (turns - ((turns + ROUND) - ROUND)) as f32;
    let half = part * std::f32::consts::PI;
    let (sin, cos) = (sin(simd, half), cos(simd, half));
    let (rounded, off) = math::exp_in_two_parts(simd, re);
    let growth = 2.0 * rounded * sin;
    (((rounded - 1.0) + off) - growth * sin, growth * cos)
}

/// sin x for |x| ≤ π/2, by its series.
#[inline(always)]
fn sin<S: Simd>(simd: S, x: f32) -> f32 {
    let square = x * x;
    let mut sum = 1.605_904_4e-10;
    for coefficient in [
        -2.505_210_8e-8,
        2.755_731_9e-6,
        -1.984_127e-4,
        8.333_333e-3,
        -1.666_666_7e-1,
    ] {
        sum = mul_add_one(simd, sum, square, coefficient);
    }
    mul_add_one(simd, x * square, sum, x)
}

/// cos x for |x| ≤ π/2, by its series.
#[inline(always)]
fn cos<S: Simd>(simd: S, x: f32) -> f32 {
    let square = x * x;
    let mut sum = -1.147_074_6e-11;
    for coefficient in [
        2.087_675_7e-9,
        -2.755_732e-7,
        2.480_158_7e-5,
        -1.388_888_9e-3,
        4.166_666_7e-2,
        -0.5,
    ] {
        sum = mul_add_one(simd, sum, square, coefficient);
    }
    mul_add_one(simd, square, sum, 1.0)
}
