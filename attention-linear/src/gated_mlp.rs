//! The gated channel mixer of Llama-like models and of the linear-attention line (SwiGLU).
//!
//! ```text
//! out = W_down (SiLU(W_gate x) ∘ W_up x)
//! ```
//!
//! Source: Shazeer, *GLU variants improve transformer* (2002.05202), equation 6.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::silu_gate;
use spillway_ssm_core::operators::split;
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result, WeightSource};

/// The shape of a gated channel mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedMlpConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Width between the projections.
    pub hidden_dim: usize,
    /// Whether W_up and W_gate have biases.
    pub up_gate_bias: bool,
    /// Whether W_down has a bias.
    pub down_bias: bool,
}

/// One gated channel mixer; it carries nothing from token to token.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    config: GatedMlpConfig,
    /// The rows of W_up, then those of W_gate. One product reads both.
    up_then_gate: Linear,
    down: Linear,
}

impl GatedMlp {
    /// The mixer of the weights of `source`: `up_proj` and `gate_proj`, stacked, `hidden_dim` × `model_dim` each, and `down_proj`,
    /// `model_dim` × `hidden_dim`.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GatedMlpConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, hidden) = (config.model_dim, config.hidden_dim);
        expect::positive("dimensions of a gated channel mixer", &[model_dim, hidden])?;
        let rows = [("up_proj", hidden), ("gate_proj", hidden)];
        Ok(Self {
            config,
            up_then_gate: source.stacked(&rows, model_dim, config.up_gate_bias)?,
            down: source.linear("down_proj", [model_dim, hidden], config.down_bias)?,
        })
    }

    /// The configuration that the MLP was read with.
    pub fn config(&self) -> GatedMlpConfig {
        self.config
    }

    /// `[batch, time, model_dim]` to the same shape.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let both = self.up_then_gate.forward(input)?;
        let hidden = self.config.hidden_dim;
        let [up, gate] = split(both, [hidden; 2])?;
        self.down.forward(silu_gate(gate, up))
    }
}

impl Mixer for GatedMlp {
    fn start(&self, _layer: usize, _batch: usize, _chain: &Chain, _device: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(
        &self,
        input: Tensor<3>,
        _state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        self.apply(input)
    }
}
