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
