//! The definition in f64.

/// (Δ, log α) of one token of one head.
pub fn step_size(raw: f32, bias: f32, a_log: f32, limit: (f32, f32)) -> (f64, f64) {
    let x = f64::from(raw) + f64::from(bias);
    let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
    let step = softplus.clamp(f64::from(limit.0), f64::from(limit.1));
    (step, -step * f64::from(a_log).exp())
}

/// Derivatives of Δ̄ Δ + l̄ log α by (raw or bias, A_log), for one token of one head and the cotangents (Δ̄, l̄).
pub fn backward(raw: f32, bias: f32, a_log: f32, limit: (f32, f32), cotangent: (f32, f32)) -> (f64, f64) {
    let x = f64::from(raw) + f64::from(bias);
    let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
    let free = f64::from(limit.0) <= softplus && softplus <= f64::from(limit.1);
    let slope = if free { 1.0 / (1.0 + (-x).exp()) } else { 0.0 };
    let (by_step, by_log) = (f64::from(cotangent.0), f64::from(cotangent.1));
    let (_, log_decay) = step_size(raw, bias, a_log, limit);
    (
        (by_step - f64::from(a_log).exp() * by_log) * slope,
        by_log * log_decay,
    )
}
