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
    max(x, 0.0f32) + (-x.abs()).exp().log1p()
}
