//! The gated channel mixer of Llama-like models and of the linear-attention line (SwiGLU).
//!
//! ```text
//! out = W_down (SiLU(W_gate x) ∘ W_up x)
//! ```
//!
//! Source: Shazeer, *GLU variants improve transformer* (2002.05202), equation 6.

use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::operators::pointwise::silu_gate;
use ssm_core::operators::split;
use ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result};

/// The shape of a gated channel mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedMlpConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Width between the projections.
    pub hidden_dim: usize,
}

/// The weights of a gated channel mixer.
#[derive(Clone, Debug)]
pub struct GatedMlpWeights {
    /// W_up and W_gate, `[2 · hidden_dim, model_dim]`: the rows of W_up, then those of W_gate. One product reads both.
    pub up_then_gate: Linear,
    /// `[model_dim, hidden_dim]`.
    pub down: Linear,
}

/// One gated channel mixer; it carries nothing from token to token.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    config: GatedMlpConfig,
    weights: GatedMlpWeights,
}

impl GatedMlp {
    /// A mixer of weights that fit its configuration.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] for a weight of another shape, [`ssm_core::Error::Value`] for a dimension of 0.
    pub fn new(config: GatedMlpConfig, weights: GatedMlpWeights) -> Result<Self> {
        let GatedMlpConfig {
            model_dim,
            hidden_dim,
        } = config;
        expect::positive("dimensions of a gated channel mixer", &[model_dim, hidden_dim])?;
        expect::projection(
            "up_proj and gate_proj",
            &weights.up_then_gate,
            2 * hidden_dim,
            model_dim,
        )?;
        expect::projection("down_proj", &weights.down, model_dim, hidden_dim)?;
        Ok(Self { config, weights })
    }

    /// The shape.
    pub fn config(&self) -> GatedMlpConfig {
        self.config
    }

    /// `[batch, time, model_dim]` to the same shape.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let both = self.weights.up_then_gate.forward(input)?;
        let hidden = self.config.hidden_dim;
        let [up, gate] = split(both, [hidden; 2])?;
        self.weights.down.forward(silu_gate(gate, up))
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
