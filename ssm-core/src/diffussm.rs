//! The DiffuSSM block: an hourglass around a state space that reads both ways, told by a condition how to shift, scale and gate.
//!
//! ```text
//! shift, scale, gate = W_mod SiLU(c) + b                      one of each per channel of the stream
//! I = LayerNorm(x) ∘ (1 + scale) + shift
//! U_{jM+k} = GELU(W_up,k GELU(W_0 I_j))                       k < M: a sequence M times as long, and narrower
//! Y_l = Σ_{s≥0} K_s U_{l−s} + Σ_{s≥0} K′_s U_{l+s} + (D + D′) U_l
//! J_j = GELU(W_down [Y_{jM}; …; Y_{jM+M−1}])
//! y = x + gate ∘ W_3 (GELU(W_2 J) ∘ GELU(W_1 I))
//! ```
//!
//! Projections have biases, and the norm has neither weight nor bias and ε = 10⁻⁶. Nothing of the authors is public but the text: the
//! activation GELU, the form of the condition (that of DiT) and both directions' reading the token itself are our reading. Source: Yan, Gu &
//! Rush, *Diffusion Models Without Attention* (2311.18257); Peebles & Xie (2212.09748), section 3.2, for the condition.

use crate::channel_filter::{ChannelFilter, FilterKind};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::linear::Linear;
use crate::operators::long_convolution::{Later, Method};
use crate::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use crate::operators::pointwise::{gelu, silu};
use crate::operators::{LongConvolutionInputs, gated_norm, long_convolution, split};
use crate::weights::{Init, WeightSource};
use burn::tensor::Tensor;

/// ε of the norm.
const NORM_EPS: f32 = 1e-6;

/// The shape of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiffuSsmConfig {
    /// Width of the stream.
    pub model_dim: usize,
    /// Width of the long sequence, D.
    pub inner_dim: usize,
    /// How much longer the state space's sequence is than the stream, M.
    pub factor: usize,
    /// Width of the condition, E.
    pub condition_dim: usize,
    /// What the long sequence is filtered by, in either direction.
    pub filter: FilterKind,
}

/// A DiffuSSM block: an hourglass around a state space that reads both ways.
#[derive(Clone, Debug)]
pub struct DiffuSsm {
    config: DiffuSsmConfig,
    modulation: Linear,
    /// The rows of W_0, then those of W_1. One product reads both.
    inputs: Linear,
    up: Linear,
    down: Linear,
    of_inner: Linear,
    out: Linear,
    directions: [ChannelFilter; 2],
}

impl DiffuSsm {
    /// The block of the weights of `source`, with S = `model_dim`, D = `inner_dim`, M = `factor`, E = `condition_dim`; projections have
    /// biases:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `mod`, the rows of shift, scale and gate | 3S × E |
    /// | `W0`, `W1` | 2S × S |
    /// | `Wup`, the rows of k = 0 first | M · D × 2S |
    /// | `Wdown` | 2S × M · D |
    /// | `W2`, `W3` | 2S × 2S, S × 2S |
    /// | `f.NAME`, `b.NAME` | as [`ChannelFilter::read`] of D channels |
    ///
    /// A fresh block is the identity, its gates being 0.
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0; as [`ChannelFilter::read`]; the source's for a tensor that is missing or of another
    /// shape.
    pub fn read<S: WeightSource>(config: DiffuSsmConfig, source: &mut S) -> Result<Self, S::Error> {
        let DiffuSsmConfig {
            model_dim,
            inner_dim,
            factor,
            condition_dim,
            filter,
        } = config;
        if [model_dim, inner_dim, factor, condition_dim].contains(&0) {
            return Err(S::Error::from(Error::Value {
                what: "dimensions of a DiffuSSM block",
                expected: "all at least 1",
                found: format!("{config:?}"),
            }));
        }
        let (wide, long) = (2 * model_dim, factor * inner_dim);
        Ok(Self {
            config,
            modulation: source.linear_with("mod", [3 * model_dim, condition_dim], true, Init::Zeros)?,
            inputs: source.stacked(&[("W0", wide), ("W1", wide)], model_dim, true)?,
            up: source.linear("Wup", [long, wide], true)?,
            down: source.linear("Wdown", [wide, long], true)?,
            of_inner: source.linear("W2", [wide, wide], true)?,
            out: source.linear("W3", [model_dim, wide], true)?,
            directions: [
                ChannelFilter::read(filter, inner_dim, &mut source.below("f", &[]))?,
                ChannelFilter::read(filter, inner_dim, &mut source.below("b", &[]))?,
            ],
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> DiffuSsmConfig {
        self.config
    }

    /// y from x `[batch, time, model_dim]` and the condition c `[batch, condition_dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when either is of another shape; as [`ChannelFilter::kernel`].
    pub fn forward(&self, x: Tensor<3>, condition: Tensor<2>) -> Result<Tensor<3>> {
        let DiffuSsmConfig {
            model_dim,
            condition_dim,
            ..
        } = self.config;
        let [batch, time, _] = x.dims();
        expect_shape("input of a DiffuSSM block", &[batch, time, model_dim], &x.dims())?;
        expect_shape(
            "condition of a DiffuSSM block",
            &[batch, condition_dim],
            &condition.dims(),
        )?;
        if batch * time == 0 {
            return Ok(x);
        }
        let modulation = self.modulation.forward(silu(condition.unsqueeze_dim(1)))?;
        let [shift, scale, gate] = split(modulation, [model_dim; 3])?;
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: NORM_EPS,
            group_size: model_dim,
            order: GateOrder::NormAfterGate,
        };
        let normed = gated_norm(x.clone(), NormWeights::default(), plan)?;
        let input = normed * (scale + 1.0) + shift;
        let joined = gelu(self.inputs.forward(input)?);
        let [narrowing, skipping] = split(joined, [2 * model_dim; 2])?;
        let inner = gelu(self.of_inner.forward(self.hourglass(narrowing)?)?);
        Ok(x + self.out.forward(inner * skipping)? * gate)
    }

    /// J from GELU(W_0 I).
    fn hourglass(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        let DiffuSsmConfig {
            inner_dim, factor, ..
        } = self.config;
        let [batch, time, _] = x.dims();
        let long = gelu(self.up.forward(x)?).reshape([batch, factor * time, inner_dim]);
        let filtered = self.both_ways(long)?;
        let folded = filtered.reshape([batch, time, factor * inner_dim]);
        Ok(gelu(self.down.forward(folded)?))
    }

    /// Y from U, `[batch, M · time, inner_dim]` both: the filters of both directions, and their skips.
    fn both_ways(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let length = input.dims()[1];
        let [forward, backward] = &self.directions;
        let skips = forward.skip().into_iter().chain(backward.skip());
        let inputs = LongConvolutionInputs {
            input,
            kernel: forward.kernel(length)?,
            later_kernel: Some((Later::Current, backward.kernel(length)?)),
            skip: skips.reduce(|one, other| one + other),
            response: None,
        };
        long_convolution(inputs, Method::Auto)
    }
}
