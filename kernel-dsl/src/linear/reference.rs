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

/// The gradients of Σ cotangent ∘ out by x, weight and bias, one plain loop.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out_features, in]` row-major, `cotangent` `[rows, out_features]`; each gradient like its tensor.
///
/// # Panics
/// When `weight` is shorter than that or `cotangent` has fewer rows, as slice indexing does.
pub fn backward(x: Rows, weight: &[f32], cotangent: Rows) -> [Vec<f64>; 3] {
    let (in_features, out_features) = (x.cols(), cotangent.cols());
    let mut of_x = vec![0.0; x.rows() * in_features];
    let mut of_weight = vec![0.0; out_features * in_features];
    let mut of_bias = vec![0.0; out_features];
    for r in 0..x.rows() {
        for (n, &g) in cotangent.row(r).iter().enumerate() {
            let g = f64::from(g);
            of_bias[n] += g;
            for (k, &value) in x.row(r).iter().enumerate() {
                of_x[r * in_features + k] += g * f64::from(weight[n * in_features + k]);
                of_weight[n * in_features + k] += g * f64::from(value);
            }
        }
    }
    [of_x, of_weight, of_bias]
}
