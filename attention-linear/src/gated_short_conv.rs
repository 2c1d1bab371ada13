//! The gated short convolution of LFM2: a convolution of a few taps between two gates.
//!
//! ```text
//! b, c, u = W_in x + b_in          out = W_out (c ∘ (conv(b ∘ u) + b_conv)) + b_out
//! ```
//!
//! It has no other state than the last inputs of the convolution. Source: Liquid AI, *LFM2 technical report* (2511.23404), and transformers' `lfm2`.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::split;
use spillway_ssm_core::{Chain, Linear, Result, ShortConv, ShortConvConfig, WeightSource};

/// The shape of a gated short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedShortConvConfig {
    /// Width of the layer's input and output, and channels of the convolution.
    pub model_dim: usize,
    /// The convolution; where it has a bias, both projections have one.
    pub conv: ShortConvConfig,
}

/// One gated short convolution.
#[derive(Clone, Debug)]
pub struct GatedShortConv {
    /// The rows of b, then those of c, then those of u.
    in_proj: Linear,
    conv: ShortConv,
    out_proj: Linear,
}

impl GatedShortConv {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `in_proj` | 3 · `model_dim` × `model_dim`, the rows of b, then those of c, then those of u |
    /// | `conv` | `model_dim` × 1 × taps |
    /// | `out_proj` | `model_dim` × `model_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GatedShortConvConfig, source: &mut S) -> Result<Self, S::Error> {
        let GatedShortConvConfig { model_dim, conv } = config;
        let sizes = [model_dim, conv.width];
        expect::positive("dimensions of a gated short convolution", &sizes)?;
        Ok(Self {
            in_proj: source.linear("in_proj", [3 * model_dim, model_dim], conv.bias)?,
            conv: ShortConv::read(conv, model_dim, source, "conv")?,
            out_proj: source.linear("out_proj", [model_dim, model_dim], conv.bias)?,
        })
    }
}

impl Mixer for GatedShortConv {
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
        let [before, after, value] = split(self.in_proj.forward(input)?, [channels; 3])?;
        let conv_state = state.recurrent()?.conv_state(0)?;
        let convolved = self.conv.forward(before * value, Activation::None, conv_state)?;
        self.out_proj.forward(after * convolved)
    }

    fn flops_per_token(&self) -> u64 {
        self.conv.flops_per_token()
    }
}
