//! The definition in f64.

use crate::Rows;

/// `out[r, n] = Σ_k x[r, k] · weight[n, k] + bias[n]`, one plain loop.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out_features, in]` row-major, `bias` `[out_features]`, result `[rows, out_features]`.
///
/// # Panics
/// When `weight` or `bias` is shorter than that, as slice indexing does.
pub fn linear(x: Rows, weight: &[f32], out_features: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let in_features = x.cols();
    let mut out = vec![0.0; x.rows() * out_features];
    for r in 0..x.rows() {
        for n in 0..out_features {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[n]));
            for (k, &value) in x.row(r).iter().enumerate() {
                sum += f64::from(value) * f64::from(weight[n * in_features + k]);
            }
            out[r * out_features + n] = sum;
        }
    }
    out
}
