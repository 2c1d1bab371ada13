//! Feature maps: what turns a similarity of query and key into an inner product.
//!
//! | function | φ(q)·φ(k) | features |
//! |---|---|---|
//! | [`taylor`] | 1 + x + x²/2 with x = q·k / √K, the exponential to second order | 1 + K + K² |
//! | [`square`] | (q·k)² | K² |

use burn::tensor::Tensor;

/// φ(x) = \[1, x / K^¼, vec(x xᵀ) / √(2K)\], the second-order Taylor map of Based.
///
/// Source: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668).
///
/// # Shapes
/// `x` `[batch, time, heads, K]`; result `[batch, time, heads, 1 + K + K²]`.
pub fn taylor(x: Tensor<4>) -> Tensor<4> {
    let [batch, time, heads, dim] = x.dims();
    let one = Tensor::<4>::ones([batch, time, heads, 1], &x.device()).cast(x.dtype());
    let root = (dim as f64).sqrt();
    let linear = x.clone() / root.sqrt();
    let second_order = square(x) / (2f64.sqrt() * root);
    Tensor::cat(vec![one, linear, second_order], 3)
}

/// φ(x) = vec(x xᵀ), row by row.
///
/// # Shapes
/// `x` `[batch, time, heads, K]`; result `[batch, time, heads, K²]`.
pub fn square(x: Tensor<4>) -> Tensor<4> {
    let [batch, time, heads, dim] = x.dims();
    let product = x.clone().unsqueeze_dim::<5>(4) * x.unsqueeze_dim::<5>(3);
    product.reshape([batch, time, heads, dim * dim])
}
