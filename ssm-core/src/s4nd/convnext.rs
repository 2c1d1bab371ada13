//! The block of ConvNeXt with S4ND in the place of its depthwise convolution.
//!
//! ```text
//! out = γ ∘ (W_2 GELU(W_1 LayerNorm(z) + b_1) + b_2)        z = S4ND(u), W_1 to four times the width
//! ```
//!
//! It is what the block adds to its residual stream. Sources: Liu et al., *A ConvNet for the 2020s* (2201.03545), section 2.6; Nguyen et
//! al., 2210.06583, section 4.2, where S4ND takes the place of the 7 × 7 window. Names are those of ConvNeXt's code.

use super::{S4nd, S4ndConfig};
use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState};
use crate::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic, gated_norm};
use crate::operators::pointwise::gelu;
use crate::s4::Projection;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor};

/// Width of the MLP over that of the block.
const EXPANSION: usize = 4;
/// Added to the variance.
const EPS: f32 = 1e-6;
/// γ of a fresh block.
const SCALE: f32 = 1e-6;

/// A block of ConvNeXt with S4ND in the place of its depthwise convolution.
#[derive(Clone, Debug)]
pub struct ConvNextS4nd {
    mix: S4nd,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    expand: Linear,
    project: Linear,
    /// γ, the factor on every channel of the block's output, `[model_dim]`.
    scale: Tensor<1>,
}

impl ConvNextS4nd {
    /// The block of the weights of `source`: those of [`S4nd::read`] without a projection, and with H = `model_dim` `norm.weight` and
    /// `norm.bias` (H), `pwconv1` (4H × H) and `pwconv2` (H × 4H) with biases, `gamma` (H).
    ///
    /// # Errors
    /// As [`S4nd::read`]; [`Error::Value`] for a projection, for outputs that are summed, and for more than one output of a channel.
    pub fn read<S: WeightSource>(config: S4ndConfig, source: &mut S) -> Result<Self, S::Error> {
        let width = config.model_dim;
        if config.projection != Projection::None || config.summed || config.channels != 1 {
            return Err(S::Error::from(Error::Value {
                what: "S4ND of a ConvNeXt block",
                expected: "one output of each channel, and no projection",
                found: format!("{config:?}"),
            }));
        }
        let hidden = width.saturating_mul(EXPANSION);
        Ok(Self {
            mix: S4nd::read(config, source)?,
            norm_weight: source.vector("norm.weight", width, Init::Ones)?,
            norm_bias: source.vector("norm.bias", width, Init::Zeros)?,
            expand: source.linear("pwconv1", [hidden, width], true)?,
            project: source.linear("pwconv2", [width, hidden], true)?,
            scale: source.vector("gamma", width, Init::Constant(SCALE))?,
        })
    }
}

impl Mixer for ConvNextS4nd {
    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        self.mix.start(layer, batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let z = self.mix.forward(input, state, context)?;
        let width = z.dims()[2];
        let weights = NormWeights {
            gate: None,
            weight: Some(self.norm_weight.clone()),
            bias: Some(self.norm_bias.clone()),
        };
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: EPS,
            group_size: width,
            order: GateOrder::NormAfterGate,
        };
        let normed = gated_norm(z, weights, plan)?;
        let mixed = self.project.forward(gelu(self.expand.forward(normed)?))?;
        Ok(mixed * self.scale.clone().reshape([1, 1, width]))
    }

    fn sees_later_tokens(&self) -> bool {
        self.mix.sees_later_tokens()
    }

    fn flops_per_token(&self) -> u64 {
        self.mix.flops_per_token()
    }
}
