//! Lightning attention: linear attention whose heads forget at constant rates that depend on head and layer.
//!
//! ```text
//! h_t = e^{s_h} h_{t-1} + k_t v_tᵀ        y_t = K^{-1/2} · q_tᵀ h_t        s_h = −(8/H)(1 − l/L) h,  h = 0 … H − 1
//! ```
//!
//! Head 0 never forgets. Source: Qin et al., *Lightning Attention-2* (2401.04658); slopes as in TransNormerLLM (2307.14995).

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Gates, LogDecay, Result};

/// s_h for every head of layer `layer` of `num_layers`, `[num_heads]`.
pub fn log_decay(num_heads: usize, layer: usize, num_layers: usize, device: &Device) -> Tensor<1> {
    let depth = 1.0 - layer as f64 / num_layers as f64;
    let slopes: Vec<f32> = (0..num_heads)
        .map(|head| (-8.0 / num_heads as f64 * depth * head as f64) as f32)
        .collect();
    Tensor::from_floats(slopes.as_slice(), device)
}

/// The gates of layer `layer` of `num_layers`.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]` (or fewer query/key groups), `value` `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn gates(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    layer: usize,
    num_layers: usize,
) -> Result<Gates> {
    let decay = log_decay(value.dims()[2], layer, num_layers, &value.device());
    let scale = (key.dims()[3] as f32).powf(-0.5);
    let gates = Gates {
        log_decay: LogDecay::PerHead(decay),
        ..crate::linear_attn::gates(query, key, value, scale)
    };
    gates.validate()?;
    Ok(gates)
}
