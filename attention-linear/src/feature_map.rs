//! Feature maps: what turns a similarity of query and key into an inner product.
//!
//! | function | φ(q)·φ(k) | features |
//! |---|---|---|
//! | [`taylor`] | 1 + x + x²/2 with x = q·k / √K, the exponential to second order | 1 + K + K² |
//! | [`taylor_packed`] | the same, with each product of two entries once | 1 + K + K (K + 1)/2 |
//! | [`square`] | (q·k)² | K² |
//! | [`square_packed`] | (q·k)² / K, with each product of two entries once | K (K + 1)/2 |
//!
//! [`FeatureMapKind`] lists the maps that published models of linear attention name, those with learned matrices among them;
//! a [`FeatureMap`] is one of them with its matrices.

use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Int, Tensor};
use spillway_ssm_core::operators::pointwise::{exp, sigmoid, silu};
use spillway_ssm_core::{Linear, Result, WeightSource};

/// A kind of feature map φ of queries or keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureMapKind {
    /// φ(x) = x.
    Identity,
    /// φ(x) = max(x, 0).
    Relu,
    /// φ(x) = x σ(x).
    Silu,
    /// φ(x) = σ(x).
    Sigmoid,
    /// ELU(x) + 1: x + 1 above 0, e^x below.
    EluPlusOne,
    /// (W₁ x + b₁) ∘ (W₂ x + b₂).
    Product,
    /// softmax(2 \[W x + b, −W x − b\]) (Hedgehog, 2402.04347); twice as many features.
    Hedgehog,
    /// max(W x, 0) (T2R, 2103.13076).
    LinearRelu,
    /// With r = \[max(x, 0), −max(x, 0)\]: r ∘ r rotated by 1, …, ν places (DPFP, 2102.11174, as flash-linear-attention has it,
    /// with ν = 4); 2ν times as many features.
    Dpfp,
}

impl FeatureMapKind {
    /// Features of a head of `dim` values.
    pub fn features(self, dim: usize) -> usize {
        match self {
            Self::Hedgehog => 2 * dim,
            Self::Dpfp => 2 * DPFP_ROTATIONS * dim,
            _ => dim,
        }
    }
}

/// A map of queries or keys, head by head, with its matrices; its variants are those of [`FeatureMapKind`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists per layer; a box would cost more"
)]
pub enum FeatureMap {
    /// φ(x) = x.
    Identity,
    /// φ(x) = max(x, 0).
    Relu,
    /// φ(x) = x σ(x).
    Silu,
    /// φ(x) = σ(x).
    Sigmoid,
    /// φ(x) = ELU(x) + 1.
    EluPlusOne,
    /// φ(x) = (W₁ x + b₁) ∘ (W₂ x + b₂), with W₁ and W₂.
    Product(Linear, Linear),
    /// φ(x) = softmax(2 \[W x + b, −W x − b\]), with W.
    Hedgehog(Linear),
    /// φ(x) = max(W x, 0), with W.
    LinearRelu(Linear),
    /// φ of [`FeatureMapKind::Dpfp`], which has no matrix.
    Dpfp,
}

/// ν of [`FeatureMapKind::Dpfp`], the number of its rotations.
const DPFP_ROTATIONS: usize = 4;

impl FeatureMap {
    /// The map of heads of `dim` values whose matrices, `dim` × `dim`, are `NAME.layer1` and `NAME.layer2` (with biases) of a
    /// product, and `NAME.layer` (with a bias but for T2R) of others that have one.
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        kind: FeatureMapKind,
        dim: usize,
        source: &mut S,
        name: &str,
    ) -> Result<Self, S::Error> {
        let mut layer = |part: &str, bias| source.linear(&format!("{name}.{part}"), [dim, dim], bias);
        Ok(match kind {
            FeatureMapKind::Identity => Self::Identity,
            FeatureMapKind::Relu => Self::Relu,
            FeatureMapKind::Silu => Self::Silu,
            FeatureMapKind::Sigmoid => Self::Sigmoid,
            FeatureMapKind::EluPlusOne => Self::EluPlusOne,
            FeatureMapKind::Product => Self::Product(layer("layer1", true)?, layer("layer2", true)?),
            FeatureMapKind::Hedgehog => Self::Hedgehog(layer("layer", true)?),
            FeatureMapKind::LinearRelu => Self::LinearRelu(layer("layer", false)?),
            FeatureMapKind::Dpfp => Self::Dpfp,
        })
    }

    /// φ(x) of every head.
    ///
    /// # Shapes
    /// `x` `[batch, time, heads, dim]`; result `[batch, time, heads, features]`.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when a learned matrix is of another width.
    pub fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        Ok(match self {
            Self::Identity => x,
            Self::Relu => relu(x),
            Self::Silu => silu(x),
            Self::Sigmoid => sigmoid(x),
            // max(x, 0) + e^{min(x, 0)}: both parts at once, and no overflow.
            Self::EluPlusOne => relu(x.clone()) + exp(x.clamp_max(0.0)),
            Self::Product(first, second) => per_head(first, x.clone())? * per_head(second, x)?,
            Self::LinearRelu(linear) => relu(per_head(linear, x)?),
            Self::Hedgehog(linear) => {
                let twice = per_head(linear, x)? * 2.0;
                softmax(Tensor::cat(vec![twice.clone(), -twice], 3), 3)
            }
            Self::Dpfp => {
                let positive = relu(x);
                let both = Tensor::cat(vec![positive.clone(), -positive], 3);
                let rotated = (1..=DPFP_ROTATIONS).map(|places| both.clone() * rotated(both.clone(), places));
                Tensor::cat(rotated.collect(), 3)
            }
        })
    }
}

/// A matrix applied to every head.
fn per_head(linear: &Linear, x: Tensor<4>) -> Result<Tensor<4>> {
    let [batch, time, heads, dim] = x.dims();
    let mapped = linear.forward(x.reshape([batch, time * heads, dim]))?;
    let features = mapped.dims()[2];
    Ok(mapped.reshape([batch, time, heads, features]))
}

/// The last dimension rotated to the right.
fn rotated(x: Tensor<4>, places: usize) -> Tensor<4> {
    let width = x.dims()[3];
    match places % width {
        0 => x,
        places => Tensor::cat(
            vec![
                x.clone().narrow(3, width - places, places),
                x.narrow(3, 0, width - places),
            ],
            3,
        ),
    }
}

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

/// As [`taylor`] with the entries of x xᵀ on and above the diagonal alone, those above it times √2: the same inner products.
///
/// # Shapes
/// `x` `[batch, time, heads, K]`; result `[batch, time, heads, 1 + K + K (K + 1)/2]`.
pub fn taylor_packed(x: Tensor<4>) -> Tensor<4> {
    let [batch, time, heads, dim] = x.dims();
    let root = (dim as f64).sqrt();
    let one = Tensor::<4>::ones([batch, time, heads, 1], &x.device()).cast(x.dtype());
    let linear = x.clone() / root.sqrt();
    Tensor::cat(vec![one, linear, packed(x, 1.0 / (2f64.sqrt() * root))], 3)
}

/// φ(x) = vec(x xᵀ) / √K of the entries on and above the diagonal alone, those above it times √2: φ(q)·φ(k) = (q·k)² / K.
///
/// Source: Aksenov et al., *Linear Transformers with Learnable Kernel Functions are Better In-Context Models* (2402.10644).
///
/// # Shapes
/// `x` `[batch, time, heads, K]`; result `[batch, time, heads, K (K + 1)/2]`.
pub fn square_packed(x: Tensor<4>) -> Tensor<4> {
    let factor = (x.dims()[3] as f64).powf(-0.5);
    packed(x, factor)
}

/// The entries of x xᵀ on and above the diagonal, row by row, those on it times `factor` and those above it times √2 `factor`.
fn packed(x: Tensor<4>, factor: f64) -> Tensor<4> {
    let [batch, time, heads, dim] = x.dims();
    let device = x.device();
    let pairs = || (0..dim).flat_map(move |i| (i..dim).map(move |j| (i, j)));
    let count = dim * (dim + 1) / 2;
    if [batch, time, heads].contains(&0) {
        return Tensor::<4>::zeros([batch, time, heads, count], &device).cast(x.dtype());
    }
    let places: Vec<i64> = pairs().map(|(i, j)| (i * dim + j) as i64).collect();
    let of_pair = |(i, j)| if i == j { factor } else { factor * 2f64.sqrt() };
    let factors: Vec<f32> = pairs().map(|pair| of_pair(pair) as f32).collect();
    let places = Tensor::<1, Int>::from_data(places.as_slice(), &device);
    let factors = Tensor::<1>::from_floats(factors.as_slice(), &device).cast(x.dtype());
    square(x).select(3, places) * factors.reshape([1, 1, 1, count])
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
