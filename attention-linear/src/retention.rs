//! Retention: linear attention whose heads forget at fixed, different rates.
//!
//! ```text
//! h_t = γ_h h_{t-1} + k_t v_tᵀ          y_t = K^{-1/2} · q_tᵀ h_t          γ_h = 1 − 2^{−5−h},  h = 0, 1, …
//! ```
//!
//! Head 0 remembers about 32 tokens (−1/ln γ ≈ 31.5), and each further head twice as many. Source: Sun et al., *Retentive
//! Network* (2307.08621), equations 5 to 8.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Gates, LogDecay, Result};

/// ln γ_h for every head, `[num_heads]`.
///
/// Computed as ln(1 − x) in f64: at head 20 the decay differs from 1 by 3e-8, which f32 would round away.
pub fn log_decay(num_heads: usize, device: &Device) -> Tensor<1> {
    let logs: Vec<f32> = (0..num_heads)
        .map(|head| (-(-5.0 - head as f64).exp2()).ln_1p() as f32)
        .collect();
    Tensor::from_floats(logs.as_slice(), device)
}

/// The gates of a retention over queries and keys that already carry their positions.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]` (or fewer query/key groups), `value` `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Result<Gates> {
    let key_dim = key.dims()[3];
    let decay = log_decay(value.dims()[2], &value.device());
    let gates = Gates {
        log_decay: LogDecay::PerHead(decay),
        scale: (key_dim as f32).powf(-0.5),
        ..Gates::new(query, key, value)
    };
    gates.validate()?;
    Ok(gates)
}
