//! A layer of a tier: a state space or a feed-forward block, and the norm before it.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::gelu;
use spillway_ssm_core::s4::S4Config;
use spillway_ssm_core::weights::Init;
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result, WeightSource};

use crate::error::ModelError;
use crate::loader::Loader;
use crate::network::{Norm, NormKind};
use crate::s4;

/// Which of the authors' implementations names the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// The backbone of the experiments.
    Backbone,
    /// The single file that stands beside the experiments.
    Standalone,
}

/// r ← r + mixer(norm(r)).
#[derive(Clone, Debug)]
pub(super) struct Layer {
    norm: StepNorm,
    pub(super) mixer: Arc<dyn Mixer>,
}

/// A norm of a step.
#[derive(Clone, Debug)]
enum StepNorm {
    /// A norm with a weight and a bias for every channel.
    Channels(Norm),
    /// s (x − mean + m)/σ, with s and m for all channels and nothing added to σ.
    Scalars {
        /// Shift m of all channels, `[1]`.
        shift: Tensor<1>,
        /// Scale s of all channels, `[1]`.
        scale: Tensor<1>,
    },
}

impl StepNorm {
    /// The input with every step normed, `[batch, time, width]`.
    fn of(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        match self {
            Self::Channels(norm) => norm.normed(input),
            Self::Scalars { shift, scale } => {
                let mean = input.clone().mean_dim(2);
                let centred = input - mean;
                let deviation = (centred.clone() * centred.clone()).mean_dim(2).sqrt();
                let [shift, scale] = [shift, scale].map(|scalar| scalar.clone().reshape([1, 1, 1]));
                Ok((centred + shift) * (scale / deviation))
            }
        }
    }
}

impl Layer {
    /// A state space, and what projects its outputs.
    pub(super) fn state_space(
        naming: Naming,
        block: &S4Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            norm: naming.norm(loader, name, block.model_dim)?,
            mixer: s4::state_space(block, format!("{name}.layer"), loader)?,
        })
    }

    /// A feed-forward block of `factor` times the width.
    pub(super) fn feed_forward(
        naming: Naming,
        width: usize,
        factor: usize,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> Result<Self, ModelError> {
        let hidden = factor.saturating_mul(width);
        Ok(Self {
            norm: naming.norm(loader, name, width)?,
            mixer: Arc::new(FeedForward {
                up: naming.projection(loader, &format!("{name}.layer.ff.0.0"), [hidden, width])?,
                down: naming.projection(loader, &format!("{name}.layer.ff.2"), [width, hidden])?,
            }),
        })
    }

    pub(super) fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let normed = self.norm.of(input.clone())?;
        Ok(input + self.mixer.forward(normed, state, context)?)
    }
}

/// W₂ GELU(W₁ x + b₁) + b₂, with matrices that one implementation keeps as convolutions of one tap.
#[derive(Clone, Debug)]
struct FeedForward {
    up: Linear,
    down: Linear,
}

impl Mixer for FeedForward {
    fn start(&self, _: usize, _: usize, _: &Chain, _: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(&self, input: Tensor<3>, _: &mut MixerState, _: &mut Context<'_>) -> Result<Tensor<3>> {
        self.down.forward(gelu(self.up.forward(input)?))
    }
}

impl Naming {
    fn norm(self, loader: &mut Loader<'_>, layer: &str, width: usize) -> Result<StepNorm, ModelError> {
        Ok(match self {
            Self::Backbone => StepNorm::Scalars {
                shift: loader.vector(&format!("{layer}.norm.norm.m"), 1, Init::Zeros)?,
                scale: loader.vector(&format!("{layer}.norm.norm.s"), 1, Init::Ones)?,
            },
            Self::Standalone => {
                let name = format!("{layer}.norm");
                StepNorm::Channels(loader.norm(&name, width, 1e-5, NormKind::Layer, true)?)
            }
        })
    }

    /// A projection of every step.
    fn projection(
        self,
        loader: &mut Loader<'_>,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Linear, ModelError> {
        if self == Self::Backbone {
            return loader.linear(name, [outputs, inputs], true);
        }
        let stored = loader.stored(
            &format!("{name}.weight"),
            [outputs, inputs, 1],
            Init::fan_in(inputs),
        )?;
        let weight = loader.pack(stored.reshape([outputs, inputs]))?;
        let bias = loader.vector(&format!("{name}.bias"), outputs, Init::Zeros)?;
        Ok(Linear::new(weight, Some(bias))?)
    }

    /// A projection of a pool.
    pub(super) fn pool(
        self,
        loader: &mut Loader<'_>,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Linear, ModelError> {
        if self == Self::Standalone {
            return self.projection(loader, name, [outputs, inputs]);
        }
        // Rows of a fresh direction are as long as this in the mean.
        let length = Init::Constant((1.0_f32 / 3.0).sqrt());
        let lengths = loader.stored(&format!("{name}.weight_g"), [outputs, 1], length)?;
        let directions = loader.stored(
            &format!("{name}.weight_v"),
            [outputs, inputs],
            Init::fan_in(inputs),
        )?;
        // A row of zeros has no direction and stays what it is, as every row is before it is drawn. Before the root, so that its gradient
        // is 0 and no quotient of 0 by 0.
        let squares = (directions.clone() * directions.clone()).sum_dim(1);
        let norms = squares.clamp_min(f32::MIN_POSITIVE).sqrt();
        let weight = loader.pack(directions * (lengths / norms))?;
        let bias = loader.vector(&format!("{name}.bias"), outputs, Init::Zeros)?;
        Ok(Linear::new(weight, Some(bias))?)
    }
}
