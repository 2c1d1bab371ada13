//! What RWKV-5, 6 and 7 have in common: the shape of their heads, and the norm of each head's read-out.

use crate::expect;
use burn::tensor::Tensor;
use spillway_ssm_core::operators::gated_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::{Init, Result, Site, WeightSource};

/// The shape of a layer with heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Number of heads.
    pub heads: usize,
    /// Rows of a head's state.
    pub key_dim: usize,
    /// Columns of a head's state.
    pub value_dim: usize,
}

impl HeadShape {
    /// Keys of all heads together.
    pub fn keys(&self) -> usize {
        self.heads * self.key_dim
    }

    /// Values of all heads together.
    pub fn values(&self) -> usize {
        self.heads * self.value_dim
    }

    /// Elements of the layer's state.
    pub(super) fn state_len(&self) -> u64 {
        self.keys() as u64 * self.value_dim as u64
    }

    /// `[batch, time, keys]` by heads.
    pub(super) fn split_keys(&self, tensor: Tensor<3>) -> Tensor<4> {
        let [batch, time, _] = tensor.dims();
        tensor.reshape([batch, time, self.heads, self.key_dim])
    }

    /// `[batch, time, values]` by heads.
    pub(super) fn split_values(&self, tensor: Tensor<3>) -> Tensor<4> {
        let [batch, time, _] = tensor.dims();
        tensor.reshape([batch, time, self.heads, self.value_dim])
    }

    /// Where interventions act on a weighted sum with a decay per key row over these heads.
    pub(super) fn site(&self, layer: usize) -> Site {
        Site {
            per_key_decay: true,
            ..Site::weighted_sum(layer, self.heads, self.key_dim, self.value_dim)
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        expect::positive(
            "dimensions of an RWKV layer",
            &[self.model_dim, self.heads, self.key_dim, self.value_dim],
        )
    }
}

/// LayerNorm of each head's read-out, with weights of its own per channel (`ln_x`; a GroupNorm with a group per head).
#[derive(Clone, Debug)]
pub(super) struct HeadNorm {
    /// Weight of every channel after the normalisation, `[values]`.
    weight: Tensor<1>,
    /// Bias of every channel after the normalisation, `[values]`.
    bias: Tensor<1>,
    /// Added to the variance: 64·10⁻⁵ in BlinkDL's checkpoints.
    eps: f32,
}

impl HeadNorm {
    /// `ln_x.weight`, drawn as `init`, and `ln_x.bias`.
    pub(super) fn read<S: WeightSource>(
        shape: &HeadShape,
        eps: f32,
        init: Init,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        expect::epsilon(eps)?;
        Ok(Self {
            weight: source.vector("ln_x.weight", shape.values(), init)?,
            bias: source.vector("ln_x.bias", shape.values(), Init::Zeros)?,
            eps,
        })
    }

    /// The norm of `[batch, time, heads, value_dim]`, times SiLU(gate) where there is a gate; `[batch, time, values]`.
    pub(super) fn forward(&self, read_out: Tensor<4>, gate: Option<Tensor<3>>) -> Result<Tensor<3>> {
        let [batch, time, heads, value_dim] = read_out.dims();
        let weights = NormWeights {
            gate,
            weight: Some(self.weight.clone()),
            bias: Some(self.bias.clone()),
        };
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: self.eps,
            group_size: value_dim,
            order: GateOrder::NormBeforeGate,
        };
        gated_norm(read_out.reshape([batch, time, heads * value_dim]), weights, plan)
    }
}
