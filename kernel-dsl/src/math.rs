//! Elementary functions on slices of f32, vectorised for the processor that runs them.
//!
//! The functions here are written once as branch-free scalar code that compilers turn into SIMD; [`dispatch`]
//! picks the instruction set at run time. Errors were measured against f64 over the whole finite range: [`exp`] stays
//! within 1.1 units in the last place, [`sigmoid`] within 2.5, [`silu`], [`softplus`] and [`tanh`] within 3 (see the tests).
//! Results of [`silu`] below 2⁻¹²⁰ (x < −79) are exact to 2⁻¹⁴³ instead.
//!
//! The scalar forms belong inside a [`WithSimd`] body, which gives them its `simd`: it says whether the instructions there have
//! fused multiply-adds, and the compiler vectorises the loop around them.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

use crate::simd::{dispatch, mul_add_one};

/// Adding this number rounds an f32 of magnitude below 2²² to an integer, held in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts. The first has nine significant bits, so that its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -0.000_212_194_44;
/// Below this, eˣ is less than half of the smallest subnormal number.
const EXP_LOWEST: f32 = -104.0;
/// Above this, eˣ exceeds the largest f32.
const EXP_HIGHEST: f32 = 89.0;

/// eˣ, subnormal results included. `-inf` gives 0, NaN gives NaN.
///
/// eˣ = 2ⁿ eʳ with n = round(x / ln 2) and |r| ≤ ln 2 / 2; eʳ = 1 + r + r² p(r), p interpolated at Chebyshev nodes.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: f32) -> f32 {
    // Comparisons rather than `max` and `min`: those would drop a NaN.
    let x = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let x = if x > EXP_HIGHEST { EXP_HIGHEST } else { x };
    let rounded = mul_add_one(simd, x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = mul_add_one(simd, n, -LN_2_LOW, mul_add_one(simd, n, -LN_2_HIGH, x));
    let e_to_r = exp_m1_reduced(simd, r) + 1.0;
    // 2ⁿ in two factors, each a normal number, so that results down to the smallest subnormal come out right.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = exponent >> 1;
    e_to_r * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// eʳ − 1 for |r| ≤ ln 2 / 2.
#[inline(always)]
fn exp_m1_reduced<S: Simd>(simd: S, r: f32) -> f32 {
    let mut p = 1.392_618_2e-3_f32;
    p = mul_add_one(simd, p, r, 8.363_178e-3);
    p = mul_add_one(simd, p, r, 4.166_655_6e-2);
    p = mul_add_one(simd, p, r, 1.666_657_6e-1);
    p = mul_add_one(simd, p, r, 0.5);
    mul_add_one(simd, r * r, p, r)
}

/// eˣ as an f32 and what rounding took off, so that their sum has a relative error of about 10⁻⁷·|x| for small x.
///
/// A factor that multiplies the same number thousands of times needs that: the nearest f32 to e^(−0.0001) is off by up to
/// 3·10⁻⁸ each time. The second part is 0 for |x| > 0.34, where nothing lives that long.
#[inline(always)]
pub fn exp_in_two_parts<S: Simd>(simd: S, x: f32) -> (f32, f32) {
    let e_minus_1 = exp_m1_reduced(simd, x);
    let rounded = 1.0 + e_minus_1;
    let rest = e_minus_1 - (rounded - 1.0);
    if x.abs() <= 0.34 {
        (rounded, rest)
    } else {
        (exp(simd, x), 0.0)
    }
}

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// σ(x) = 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: f32) -> f32 {
    // Both branches of the sign use e^{−|x|} ≤ 1, so that nothing overflows and small results keep their digits.
    let e = exp(simd, -x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// SiLU(x) = x σ(x). `-inf` gives 0.
#[inline(always)]
pub fn silu<S: Simd>(simd: S, x: f32) -> f32 {
    let y = x * sigmoid(simd, x);
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// SiLU′(x) = σ(x) (1 + x (1 − σ(x))), where 1 − σ(x) is taken as σ(−x) to keep its digits.
#[inline(always)]
pub fn silu_derivative<S: Simd>(simd: S, x: f32) -> f32 {
    // Beyond 200 it is 0 or 1, and an infinity would meet a 0.
    let x = bounded_magnitude(x, 200.0).copysign(x);
    let e = exp(simd, -x.abs());
    let (low, high) = (e / (1.0 + e), 1.0 / (1.0 + e));
    let (sigmoid, rest) = if x < 0.0 { (low, high) } else { (high, low) };
    sigmoid * mul_add_one(simd, x, rest, 1.0)
}

/// ln(1 + u) for 0 ≤ u ≤ 1, by ln(1 + u) = 2 artanh(u / (2 + u)).
#[inline(always)]
fn ln_1p_unit<S: Simd>(simd: S, u: f32) -> f32 {
    let s = u / (2.0 + u);
    let w = s * s;
    let mut p = 1.219_695_5e-1_f32;
    p = mul_add_one(simd, p, w, 1.069_928e-1);
    p = mul_add_one(simd, p, w, 1.431_010_4e-1);
    p = mul_add_one(simd, p, w, 1.999_935_5e-1);
    p = mul_add_one(simd, p, w, 3.333_334e-1);
    let twice = s + s;
    mul_add_one(simd, twice * w, p, twice)
}

/// softplus(x) = ln(1 + eˣ) = max(x, 0) + ln(1 + e^{−|x|}).
#[inline(always)]
pub fn softplus<S: Simd>(simd: S, x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + ln_1p_unit(simd, exp(simd, -x.abs()))
}

/// tanh(x) = (e²ˣ − 1) / (e²ˣ + 1).
#[inline(always)]
pub fn tanh<S: Simd>(simd: S, x: f32) -> f32 {
    let twice = 2.0 * x.abs();
    // Near 0, e²ˣ − 1 from the rounded e²ˣ would have lost its digits.
    let e_minus_1 = if twice <= 0.34 {
        exp_m1_reduced(simd, twice)
    } else {
        exp(simd, if twice > 40.0 { 40.0 } else { twice }) - 1.0
    };
    (e_minus_1 / (e_minus_1 + 2.0)).copysign(x)
}

/// σ′(x) = σ(x) σ(−x).
#[inline(always)]
pub fn sigmoid_derivative<S: Simd>(simd: S, x: f32) -> f32 {
    let e = exp(simd, -x.abs());
    let high = 1.0 / (1.0 + e);
    e * high * high
}

/// tanh′(x) = 1 − tanh²(x) = 4 σ′(2x).
#[inline(always)]
pub fn tanh_derivative<S: Simd>(simd: S, x: f32) -> f32 {
    4.0 * sigmoid_derivative(simd, 2.0 * x)
}

/// Beyond this, Φ(−|x|) and its density are 0 in f32, and squares would overflow.
const NORMAL_HIGHEST: f32 = 20.0;

/// |x|, and no more than `highest`; NaN stays.
#[inline(always)]
fn bounded_magnitude(x: f32, highest: f32) -> f32 {
    // A comparison rather than `min`, which would drop a NaN.
    if x.abs() > highest { highest } else { x.abs() }
}

/// Φ(−|x|) of the standard normal, and e^(−x²/2), for a magnitude of at most [`NORMAL_HIGHEST`].
///
/// Φ(−|x|) = ½ erfc(|x|/√2) with erfc(z) = t exp(−z² + p(t)), t = 1/(1 + z/2), whose relative error is below 1.2·10⁻⁷ for every z ≥ 0
/// (Press et al., *Numerical Recipes*, section 6.2).
#[inline(always)]
fn normal_tail<S: Simd>(simd: S, bounded: f32) -> (f32, f32) {
    let z = bounded * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / mul_add_one(simd, z, 0.5, 1.0);
    let mut p = 0.170_872_77_f32;
    p = mul_add_one(simd, p, t, -0.822_152_23);
    p = mul_add_one(simd, p, t, 1.488_515_9);
    p = mul_add_one(simd, p, t, -1.135_204);
    p = mul_add_one(simd, p, t, 0.278_868_07);
    p = mul_add_one(simd, p, t, -0.186_288_06);
    p = mul_add_one(simd, p, t, 0.096_784_18);
    p = mul_add_one(simd, p, t, 0.374_091_96);
    p = mul_add_one(simd, p, t, 1.000_023_7);
    p = mul_add_one(simd, p, t, -1.265_512_2);
    // z² = x²/2 from x itself, apart from p, and with what rounding takes off it: otherwise three bits would be lost.
    let square = bounded * bounded;
    let rest = mul_add_one(simd, bounded, bounded, -square);
    let bell = exp(simd, -0.5 * square) * (1.0 - 0.5 * rest);
    (0.5 * t * exp(simd, p) * bell, bell)
}

/// GELU(x) = x Φ(x) with the distribution function Φ of the standard normal. `-inf` gives 0.
#[inline(always)]
pub fn gelu<S: Simd>(simd: S, x: f32) -> f32 {
    let (tail, _) = normal_tail(simd, bounded_magnitude(x, NORMAL_HIGHEST));
    let y = x * if x < 0.0 { tail } else { 1.0 - tail };
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// GELU′(x) = Φ(x) + x φ(x) with the density φ = Φ′.
#[inline(always)]
pub fn gelu_derivative<S: Simd>(simd: S, x: f32) -> f32 {
    /// Density φ(0) = 1/√(2π) of the standard normal distribution.
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let bounded = bounded_magnitude(x, NORMAL_HIGHEST);
    let (tail, bell) = normal_tail(simd, bounded);
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    mul_add_one(simd, bounded.copysign(x), DENSITY_AT_0 * bell, below)
}

/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the form of GELU that GPT-2 and its descendants use. `-inf` gives 0.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(simd: S, x: f32) -> f32 {
    let argument = x * mul_add_one(simd, 0.044_715 * x, x, 1.0);
    // (1 + tanh(a))/2 = σ(2a).
    let y = x * sigmoid(simd, 1.595_769 * argument);
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// The derivative of [`gelu_tanh`]: with y = x σ(b), b = √(8/π) (x + 0.044715 x³), it is σ(b) + x σ′(b) b′.
#[inline(always)]
pub fn gelu_tanh_derivative<S: Simd>(simd: S, x: f32) -> f32 {
    let x = bounded_magnitude(x, NORMAL_HIGHEST).copysign(x);
    let b = 1.595_769 * x * mul_add_one(simd, 0.044_715 * x, x, 1.0);
    let slope = 1.595_769 * mul_add_one(simd, 0.134_145 * x, x, 1.0);
    mul_add_one(simd, x * sigmoid_derivative(simd, b), slope, sigmoid(simd, b))
}

/// eˣ outside of a [`WithSimd`] body, for a value now and then.
pub(crate) fn exp_once(x: f32) -> f32 {
    let mut value = [x];
    exp_in_place(&mut value);
    value[0]
}

/// A function of single values, for the loops below and in [`pointwise`](crate::pointwise).
pub(crate) trait Function {
    /// The function's value at `x`, inside the instruction set of `simd`.
    fn at<S: Simd>(simd: S, x: f32) -> f32;
    /// The function's derivative at `x`, inside the instruction set of `simd`.
    fn derivative_at<S: Simd>(simd: S, x: f32) -> f32;
}

/// Names functions as types, which, unlike closures, stay generic over the instruction set.
macro_rules! functions {
    ($($name:ident $function:ident $derivative:ident),* $(,)?) => {$(
        #[doc = concat!("[`", stringify!($function), "`].")]
        pub(crate) struct $name;

        impl Function for $name {
            #[inline(always)]
            fn at<S: Simd>(simd: S, x: f32) -> f32 {
                $function(simd, x)
            }

            #[inline(always)]
            fn derivative_at<S: Simd>(simd: S, x: f32) -> f32 {
                $derivative(simd, x)
            }
        }
    )*};
}
functions!(
    Exp exp exp,
    Gelu gelu gelu_derivative,
    GeluTanh gelu_tanh gelu_tanh_derivative,
    Sigmoid sigmoid sigmoid_derivative,
    Silu silu silu_derivative,
    Softplus softplus sigmoid,
    Tanh tanh tanh_derivative,
);

/// Applies a function to every value of a slice.
struct Map<'a, F> {
    values: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Function> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for value in self.values {
            *value = F::at(simd, *value);
        }
    }
}

fn map<F: Function>(values: &mut [f32]) {
    dispatch(Map {
        values,
        function: PhantomData::<F>,
    });
}

/// x ← eˣ for every value.
pub fn exp_in_place(values: &mut [f32]) {
    map::<Exp>(values);
}

/// x ← σ(x) for every value.
pub fn sigmoid_in_place(values: &mut [f32]) {
    map::<Sigmoid>(values);
}

/// x ← x σ(x) for every value.
pub fn silu_in_place(values: &mut [f32]) {
    map::<Silu>(values);
}

/// x ← ln(1 + eˣ) for every value.
pub fn softplus_in_place(values: &mut [f32]) {
    map::<Softplus>(values);
}

/// x ← tanh(x) for every value.
pub fn tanh_in_place(values: &mut [f32]) {
    map::<Tanh>(values);
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::*;

    /// Largest error in units of the last place of the f64 result, over a grid that is dense near zero and reaches
    /// beyond the points where f32 overflows and underflows. Results below `smallest` count with its spacing.
    fn worst_error(in_place: fn(&mut [f32]), exact: fn(f64) -> f64, smallest: f32) -> f64 {
        let mut inputs: Vec<f32> = (-110_000..=110_000).map(|i| i as f32 * 1e-3).collect();
        inputs.extend((0..200_000).flat_map(|i| {
            let magnitude = (-(i as f32) * 1e-4).exp();
            [magnitude, -magnitude]
        }));
        let mut outputs = inputs.clone();
        in_place(&mut outputs);
        let mut worst = 0.0_f64;
        for (&x, &y) in inputs.iter().zip(&outputs) {
            let expected = exact(f64::from(x));
            if expected.abs() > f64::from(f32::MAX) {
                assert!(y.is_infinite(), "{x} gave {y}, expected an overflow");
                continue;
            }
            let size = expected.abs().max(f64::from(smallest));
            let spacing = 2.0_f64.powi(size.log2().floor() as i32 - 23);
            let error = (f64::from(y) - expected).abs() / spacing;
            assert!(error.is_finite(), "{x} gave {y}, expected {expected}");
            worst = worst.max(error);
        }
        println!("worst error: {worst} units in the last place");
        worst
    }

    #[test]
    fn exp_stays_within_its_error_bound() {
        assert!(worst_error(exp_in_place, f64::exp, f32::MIN_POSITIVE) < 1.1);
    }

    #[test]
    fn sigmoid_stays_within_its_error_bound() {
        assert!(worst_error(sigmoid_in_place, |x| 1.0 / (1.0 + (-x).exp()), f32::MIN_POSITIVE) < 2.5);
    }

    #[test]
    fn silu_stays_within_its_error_bound() {
        assert!(worst_error(silu_in_place, |x| x / (1.0 + (-x).exp()), 2.0_f32.powi(-120)) < 3.0);
    }

    #[test]
    fn softplus_stays_within_its_error_bound() {
        assert!(
            worst_error(
                softplus_in_place,
                |x| x.max(0.0) + (-x.abs()).exp().ln_1p(),
                f32::MIN_POSITIVE
            ) < 3.0
        );
    }

    #[test]
    fn tanh_stays_within_its_error_bound() {
        assert!(worst_error(tanh_in_place, f64::tanh, f32::MIN_POSITIVE) < 3.0);
    }

    #[test]
    fn two_parts_hold_more_than_one() {
        for i in 1..=10_000 {
            let x = -(i as f32) * 3.4e-5;
            let (rounded, rest) = exp_in_two_parts(Scalar, x);
            let error = (f64::from(rounded) + f64::from(rest) - f64::from(x).exp()).abs();
            assert!(error <= 1.5e-7 * f64::from(x.abs()), "{x}: {error:e}");
        }
        assert_eq!(exp_in_two_parts(Scalar, f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(exp_in_two_parts(Scalar, -0.5), (exp(Scalar, -0.5), 0.0));
        assert!(exp_in_two_parts(Scalar, f32::NAN).0.is_nan());
    }

    #[test]
    fn infinities_and_nan_give_their_limits() {
        let special = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0];
        let on_special = |f: fn(&mut [f32])| {
            let mut values = special;
            f(&mut values);
            values
        };
        let [low, high, nan, zero] = on_special(exp_in_place);
        assert_eq!((low, high, zero), (0.0, f32::INFINITY, 1.0));
        assert!(nan.is_nan());
        let [low, high, nan, zero] = on_special(sigmoid_in_place);
        assert_eq!((low, high, zero), (0.0, 1.0, 0.5));
        assert!(nan.is_nan());
        let [low, high, nan, zero] = on_special(silu_in_place);
        assert_eq!((low, high, zero), (0.0, f32::INFINITY, 0.0));
        assert!(nan.is_nan());
        let [low, high, nan, zero] = on_special(tanh_in_place);
        assert_eq!((low, high, zero), (-1.0, 1.0, 0.0));
        assert!(nan.is_nan());
        let [low, high, nan, _] = on_special(softplus_in_place);
        assert_eq!((low, high), (0.0, f32::INFINITY));
        assert!(nan.is_nan());
    }
}
