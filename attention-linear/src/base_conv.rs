//! The gated convolution of Based.
//!
//! ```text
//! u, g = W_in x + b          out = W_out (SiLU(conv(u)) ∘ g) + b
//! ```
//!
//! Source: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668), section 4.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::split;
use spillway_ssm_core::{Chain, Linear, Result, ShortConv, ShortConvConfig, WeightSource};

/// The shape of a gated convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseConvConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the convolution.
    pub channels: usize,
    /// The convolution of the projected inputs.
    pub conv: ShortConvConfig,
    /// Whether the projections have biases.
    pub projection_bias: bool,
}

/// A gated convolution of Based with its weights: out = W_out (SiLU(conv(u)) ∘ g) + b.
#[derive(Clone, Debug)]
pub struct BaseConv {
    /// The rows of u, then those of g.
    in_proj: Linear,
    conv: ShortConv,
    out_proj: Linear,
}

impl BaseConv {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `in_proj` | 2 · `channels` × `model_dim`, the rows of u, then those of g |
    /// | `conv.conv` | `channels` × 1 × taps |
    /// | `out_proj` | `model_dim` × `channels` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: BaseConvConfig, source: &mut S) -> Result<Self, S::Error> {
        let BaseConvConfig {
            model_dim,
            channels,
            conv,
            projection_bias,
        } = config;
        let sizes = [model_dim, channels, conv.width];
        expect::positive("dimensions of a gated convolution", &sizes)?;
        Ok(Self {
            in_proj: source.linear("in_proj", [2 * channels, model_dim], projection_bias)?,
            conv: ShortConv::read(conv, channels, source, "conv.conv")?,
            out_proj: source.linear("out_proj", [model_dim, channels], projection_bias)?,
        })
    }
}

impl Mixer for BaseConv {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        MixerState::Recurrent(RecurrentState {
            conv_states: vec![self.conv.start(batch, device)],
            ..RecurrentState::default()
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [channels, _] = self.conv.dims();
        let [convolved, gate] = split(self.in_proj.forward(input)?, [channels; 2])?;
        let conv_state = state.recurrent()?.conv_state(0)?;
        let convolved = self.conv.forward(convolved, Activation::Silu, conv_state)?;
        self.out_proj.forward(convolved * gate)
    }

    fn flops_per_token(&self) -> u64 {
        self.conv.flops_per_token()
    }
}
