//! Elementary functions as kernels compute them, in f32.

use cubecl::prelude::*;

/// σ(x) = 1 / (1 + e⁻ˣ).
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    // Both signs use e^{−|x|} ≤ 1, so that nothing overflows and small results keep their digits.
    let e = (-x.abs()).exp();
    let mut numerator = 1.0f32;
    if x < 0.0f32 {
        numerator = e;
    }
    numerator / (1.0f32 + e)
}

/// SiLU(x) = x σ(x).
#[cube]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// SiLU′(x) = σ(x) (1 + x σ(−x)).
#[cube]
pub(crate) fn silu_derivative(x: f32) -> f32 {
    sigmoid(x) * (1.0f32 + x * sigmoid(-x))
}

/// softplus(x) = ln(1 + eˣ) = max(x, 0) + ln(1 + e^{−|x|}).
#[cube]
pub(crate) fn softplus(x: f32) -> f32 {
    max(x, 0.0f32) + ln_1p_unit((-x.abs()).exp())
}

/// ln(1 + u) for 0 ≤ u ≤ 1, by ln(1 + u) = 2 artanh(u / (2 + u)); the coefficients are the host's. Some devices compute
/// `log1p` as ln(1 + u), which leaves a small step size no digits.
#[cube]
fn ln_1p_unit(u: f32) -> f32 {
    let s = u / (2.0f32 + u);
    let w = s * s;
    let mut p = 1.219_695_5e-1f32;
    p = p * w + 1.069_928e-1f32;
    p = p * w + 1.431_010_4e-1f32;
    p = p * w + 1.999_935_5e-1f32;
    p = p * w + 3.333_334e-1f32;
    let twice = s + s;
    twice + twice * w * p
}

/// sin h and cos h for |h| ≤ π/2. Devices give sines of their own at their own precision, which may be three digits; the series here
/// have all.
#[cube]
#[allow(clippy::approx_constant)]
pub(crate) fn sin_cos(half: f32) -> Array<f32> {
    let square = half * half;
    let s5 = square * 1.605_904_4e-10f32 - 2.505_210_8e-8f32;
    let s4 = square * s5 + 2.755_731_9e-6f32;
    let s3 = square * s4 - 1.984_127e-4f32;
    let s2 = square * s3 + 8.333_333e-3f32;
    let s1 = square * s2 - 1.666_666_7e-1f32;
    let sin = half + half * square * s1;
    let c6 = square * -1.147_074_6e-11f32 + 2.087_675_7e-9f32;
    let c5 = square * c6 - 2.755_732e-7f32;
    let c4 = square * c5 + 2.480_158_7e-5f32;
    let c3 = square * c4 - 1.388_888_9e-3f32;
    let c2 = square * c3 + 4.166_666_7e-2f32;
    let c1 = square * c2 - 0.5f32;
    let cos = square * c1 + 1.0f32;
    let mut waves = Array::<f32>::new(2usize);
    waves[0] = sin;
    waves[1] = cos;
    waves
}
