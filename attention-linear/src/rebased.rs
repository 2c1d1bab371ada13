//! ReBased: linear attention with a squared similarity.
//!
//! ```text
//! y_t = Σ_{j ≤ t} x² v_j / (Σ_{j ≤ t} x² + ε)        x = q_t·k_j / √K
//! ```
//!
//! Source: Aksenov et al., *Linear Transformers with Learnable Kernel Functions are Better In-Context Models* (2402.10644);
//! their affine map and norm before the square belong to the layer.

use crate::feature_map::square;
use crate::linear_attn;
use burn::tensor::Tensor;
use spillway_ssm_core::Gates;

/// ε of the denominator.
pub const EPS: f32 = 1e-6;

/// The gates; run them by [`linear_attn::normalized`].
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, K]`, `value` `[batch, time, heads, value_dim]`; the state has K² rows.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Gates {
    let scale = 1.0 / key.dims()[3] as f32;
    linear_attn::gates(square(query), square(key), value, scale)
}
