//! The gated convolution of Based.
//!
//! ```text
//! u, g = W_in x + b          out = W_out (SiLU(conv(u)) ∘ g) + b
//! ```
//!
//! Source: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668), section 4.

use crate::expect;
use crate::projection::ConvWeights;
use burn::tensor::{Device, Tensor};
use ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use ssm_core::operators::causal_conv1d::Activation;
use ssm_core::operators::{causal_conv1d, split};
use ssm_core::{Chain, Linear, Result, Sequences};

/// The weights of a gated convolution.
#[derive(Clone, Debug)]
pub struct BaseConvWeights {
    /// `[2 · channels, model_dim]`: the rows of u, then those of g.
    pub in_proj: Linear,
    /// `[channels, width]`, the last tap meeting the current token.
    pub conv: ConvWeights,
    /// `[model_dim, channels]`.
    pub out_proj: Linear,
}

/// One gated convolution.
#[derive(Clone, Debug)]
pub struct BaseConv(BaseConvWeights);

impl BaseConv {
    /// A mixer of a model `model_dim` wide.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] for weights that do not fit one another, [`ssm_core::Error::Value`] for a dimension of 0.
    pub fn new(model_dim: usize, weights: BaseConvWeights) -> Result<Self> {
        let [channels, width] = weights.conv.weight.dims();
        expect::positive("dimensions of a gated convolution", &[model_dim, channels, width])?;
        expect::projection("in_proj", &weights.in_proj, 2 * channels, model_dim)?;
        if let Some(bias) = &weights.conv.bias {
            expect::shape("conv.bias", &[channels], &bias.dims())?;
        }
        expect::projection("out_proj", &weights.out_proj, model_dim, channels)?;
        Ok(Self(weights))
    }
}

impl Mixer for BaseConv {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let [channels, width] = self.0.conv.weight.dims();
        MixerState::Recurrent(RecurrentState {
            conv_states: vec![Tensor::zeros([batch, channels, width - 1], device)],
            recurrences: Vec::new(),
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let BaseConvWeights {
            in_proj,
            conv,
            out_proj,
        } = &self.0;
        let [channels, _] = conv.weight.dims();
        let projected = in_proj.forward(input)?;
        let [convolved, gate] = split(projected, [channels; 2])?;
        let convolved = causal_conv1d(
            convolved,
            conv.weight.clone(),
            conv.bias.clone(),
            Activation::Silu,
            &Sequences::Equal,
            state.recurrent()?.conv_state(0)?,
        )?;
        out_proj.forward(convolved * gate)
    }

    /// Two per tap.
    fn flops_per_token(&self) -> u64 {
        let [channels, width] = self.0.conv.weight.dims();
        2 * (channels * width) as u64
    }
}
