//! Based: linear attention with the exponential's Taylor series to second order as similarity.
//!
//! ```text
//! y_t = Σ_{j ≤ t} (1 + x + x²/2) v_j / (Σ_{j ≤ t} (1 + x + x²/2) + ε)        x = q_t·k_j / √K
//! ```
//!
//! Source: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668),
//! section 4.1.

use crate::feature_map::taylor;
use crate::linear_attn;
use burn::tensor::Tensor;
use ssm_core::Gates;

/// ε of the denominator in flash-linear-attention; HazyResearch's own code has 1e-12.
pub const EPS: f32 = 1e-6;

/// The gates over raw queries and keys; run them by [`linear_attn::normalized`], or by the plain recurrence for the sum
/// without its denominator.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, K]`, `value` `[batch, time, heads, value_dim]`; the state has 1 + K + K² rows.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Gates {
    linear_attn::gates(taylor(query), taylor(key), value, 1.0)
}
