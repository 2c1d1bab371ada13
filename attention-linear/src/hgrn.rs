//! HGRN: a gated linear recurrence of vectors, without keys.
//!
//! ```text
//! h_t = e^{g_t} ∘ h_{t-1} + x_t        y_t = h_t
//! ```
//!
//! Every channel is a head with a 1×1 state, and queries and keys are 1. Source: Qin et al., *Hierarchically Gated Recurrent
//! Neural Network* (2311.04823), equation 4.
//!
//! The mixer ([`Hgrn`]) computes, with a lower bound b of the decay that grows from layer to layer,
//!
//! ```text
//! a = b + (1 − b) σ(W_f u)        x = (1 − a) ∘ SiLU(W_i u)        out = W_out (RMSNorm(h) ∘ SiLU(W_g u))
//! ```

use crate::expect;
use crate::gla::log_sigmoid;
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::pointwise::{sigmoid, silu_gate};
use spillway_ssm_core::{Chain, Gates, LogDecay, Result, ShortConvConfig, WeightSource};

/// The gates of a segment of tokens; read-out and state are `[batch, time, channels, 1]` and `[batch, channels, 1, 1]`.
///
/// # Shapes
/// `input` x and `log_decay` g `[batch, time, channels]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn gates(input: Tensor<3>, log_decay: Tensor<3>) -> Result<Gates> {
    let [batch, time, _] = input.dims();
    let one = Tensor::<4>::ones([batch, time, 1, 1], &input.device()).cast(input.dtype());
    let gates = Gates {
        log_decay: LogDecay::PerHeadToken(log_decay),
        ..Gates::new(one.clone(), one, input.unsqueeze_dim(3))
    };
    gates.validate()?;
    Ok(gates)
}

/// The configuration of a mixer of HGRN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HgrnConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the recurrence.
    pub channels: usize,
    /// The convolutions of input and forget gate.
    pub conv: Option<ShortConvConfig>,
    /// ε of the norm of the read-out, over all channels.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// An HGRN mixer: a gated linear recurrence of vectors between projections.
#[derive(Clone, Debug)]
pub struct Hgrn {
    config: HgrnConfig,
    branches: Branches<2>,
    forget: ForgetGate,
    output: Output,
}

/// The decay a = b + (1 − b) σ(f) with its lower bound b, where there is one.
#[derive(Clone, Debug)]
pub(crate) struct ForgetGate(Option<Bound>);

#[derive(Clone, Debug)]
struct Bound {
    /// 1 − b, `[1, 1, channels]`.
    complement: Tensor<3>,
    /// ln b, but not below [`LEAST_LOG_DECAY`].
    log: Tensor<3>,
}

/// e^−87 is the smallest normal f32, nearly; below it there is nothing left of a state, and −∞ must not meet itself in a
/// difference.
const LEAST_LOG_DECAY: f32 = -87.0;

impl Hgrn {
    /// The mixer of the weights of `source`, with the lower bound b of each channel, `[channels]`, in \[0, 1); `None` is 0.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `i_proj`, `f_proj` | `channels` × `model_dim` |
    /// | `i_conv1d`, `f_conv1d`, where there are convolutions | `channels` × 1 × taps |
    /// | `g_proj`, where there is a gate | `channels` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `channels` |
    /// | `o_proj` | `model_dim` × `channels` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] for another number of bounds, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the
    /// source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        config: HgrnConfig,
        lower_bound: Option<Tensor<1>>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (model_dim, channels) = (config.model_dim, config.channels);
        expect::positive("dimensions of an HGRN mixer", &[model_dim, channels])?;
        let plans = ["i", "f"].map(|name| BranchPlan {
            name,
            channels,
            activation: Activation::None,
        });
        Ok(Self {
            config,
            branches: Branches::read(plans, model_dim, config.conv, source)?,
            forget: ForgetGate::new(channels, lower_bound)?,
            output: Output::read(config.output, model_dim, (1, channels), config.norm_eps, source)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> HgrnConfig {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        Site {
            groups: 1,
            ..Site::weighted_sum(layer, self.config.channels, 1, 1)
        }
    }
}

impl ForgetGate {
    /// With the lower bound of each channel, `[channels]`.
    pub(crate) fn new(channels: usize, bound: Option<Tensor<1>>) -> Result<Self> {
        if let Some(bound) = &bound {
            expect::shape("lower bound of the decays", &[channels], &bound.dims())?;
        }
        Ok(Self(bound.map(|bound| {
            let bound = bound.reshape([1, 1, channels]);
            Bound {
                complement: bound.clone().neg() + 1.0,
                log: bound.log().clamp_min(LEAST_LOG_DECAY),
            }
        })))
    }

    /// 1 − a and ln a. Both are computed from 1 − a = (1 − b) σ(−f): a itself may round to 1, and its logarithm to 0.
    pub(crate) fn decay(&self, forget: Tensor<3>) -> Result<[Tensor<3>; 2]> {
        let complement = sigmoid(forget.clone().neg());
        Ok(match &self.0 {
            None => [complement, log_sigmoid(forget, 1.0)?],
            Some(bound) => {
                let complement = complement * bound.complement.clone();
                let log_decay = complement.clone().neg().log1p().max_pair(bound.log.clone());
                [complement, log_decay]
            }
        })
    }
}

impl Mixer for Hgrn {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        self.branches.start(&self.sites(layer), batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let [new, forget] = self.branches.forward(&input, state)?;
        let [complement, log_decay] = self.forget.decay(forget)?;
        let gates = gates(silu_gate(new, complement), log_decay)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(read_out, input)
    }

    fn flops_per_token(&self) -> u64 {
        6 * self.config.channels as u64 + self.branches.flops_per_token()
    }
}
