//! The channel mixer of GPT-2 and of H3, and that of Nemotron-H: two projections and an activation between them.
//!
//! ```text
//! out = W_2 act(W_1 x + b_1) + b_2
//! ```
//!
//! Source: Vaswani et al. (1706.03762), section 3.3, with Hendrycks & Gimpel's GELU (1606.08415), or So et al.'s squared ReLU
//! (2109.08668).

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::{gelu, gelu_tanh, squared_relu};
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result, WeightSource};

/// What is between the projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpActivation {
    /// GELU: x Φ(x).
    Gelu,
    /// GELU approximated by a tanh.
    GeluTanh,
    /// Squared ReLU: max(x, 0)².
    SquaredRelu,
}

/// The shape of a channel mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlpConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Width between the projections.
    pub hidden_dim: usize,
    /// What is between the projections.
    pub activation: MlpActivation,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// One channel mixer; it carries nothing from token to token.
#[derive(Clone, Debug)]
pub struct Mlp {
    config: MlpConfig,
    up: Linear,
    down: Linear,
}

impl Mlp {
    /// The mixer of the weights of `source`: `fc1`, `hidden_dim` × `model_dim`, and `fc2`, `model_dim` × `hidden_dim`.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: MlpConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, hidden) = (config.model_dim, config.hidden_dim);
        expect::positive("dimensions of a channel mixer", &[model_dim, hidden])?;
        Ok(Self {
            config,
            up: source.linear("fc1", [hidden, model_dim], config.bias)?,
            down: source.linear("fc2", [model_dim, hidden], config.bias)?,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> MlpConfig {
        self.config
    }

    /// `[batch, time, model_dim]` to the same shape.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let hidden = self.up.forward(input)?;
        self.down.forward(match self.config.activation {
            MlpActivation::Gelu => gelu(hidden),
            MlpActivation::GeluTanh => gelu_tanh(hidden),
            MlpActivation::SquaredRelu => squared_relu(hidden),
        })
    }
}

impl Mixer for Mlp {
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
