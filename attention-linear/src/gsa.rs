//! The mixer of gated slot attention; see [`crate::slots`] for its two recurrences.
//!
//! ```text
//! q, k = φ(W_q x), φ(W_k x)      v = SiLU(W_v x)      g = ln σ(W_f x) / τ      s = 1 − e^g
//! out = W_out RMSNorm(SiLU(y)), the norm over all heads together
//! ```
//!
//! Source: Zhang et al., *Gated slot attention for efficient linear-time sequence modeling* (2409.07146), section 3.

use crate::expect;
use crate::feature_map::{FeatureMap, FeatureMapKind};
use crate::gla::log_sigmoid;
use crate::heads::{self, Heads};
use crate::projection::{Branches, Output, OutputConfig};
use crate::slots::{self, SlotGates};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::pointwise::{exp, silu};
use spillway_ssm_core::{Chain, Linear, Result, ShortConvConfig, WeightSource};

/// The configuration of a mixer of gated slot attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedSlotAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// The heads; as many of values as of keys.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// φ, which keeps the number of features.
    pub feature_map: FeatureMapKind,
    /// Memory slots M of a head.
    pub slots: usize,
    /// τ, which divides the log decays.
    pub divisor: f32,
    /// What the scores of the slots are multiplied by before their softmax.
    pub scale: f32,
    /// ε of the norm of the read-out, over all heads together.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// A mixer of gated slot attention.
#[derive(Clone, Debug)]
pub struct GatedSlotAttention {
    config: GatedSlotAttentionConfig,
    branches: Branches<3>,
    feature_map: FeatureMap,
    forget: Linear,
    output: Output,
}

impl GatedSlotAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj` | query heads · `key_dim` × `model_dim` |
    /// | `k_proj` | key heads · `key_dim` × `model_dim` |
    /// | `v_proj` | key heads · `value_dim` × `model_dim` |
    /// | `q_conv1d`, `k_conv1d`, `v_conv1d`, where there are convolutions | channels × 1 × taps |
    /// | `feature_map`, where φ has matrices | see [`FeatureMap::read`] |
    /// | `f_proj` | key heads · `slots` × `model_dim` |
    /// | `g_proj`, where there is a gate | query heads · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | query heads · `value_dim` |
    /// | `o_proj` | `model_dim` × query heads · `value_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] for other heads of values than of keys, or a φ of more features, [`spillway_ssm_core::Error::Groups`] for
    /// heads that cannot share, [`spillway_ssm_core::Error::Value`] for a dimension of 0, a negative ε, or a divisor that is not positive;
    /// the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GatedSlotAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads, slots) = (config.model_dim, config.heads, config.slots);
        expect::positive("width and slots of a slot attention", &[model_dim, slots])?;
        heads.validate()?;
        expect::shape("heads of the values", &[heads.key], &[heads.value])?;
        expect::shape(
            "features of a slot attention",
            &[heads.key_dim],
            &[config.feature_map.features(heads.key_dim)],
        )?;
        expect::divisor(config.divisor)?;
        let width = heads.read_out_width();
        Ok(Self {
            config,
            branches: Branches::query_key_value(&heads, model_dim, config.conv, source)?,
            feature_map: FeatureMap::read(config.feature_map, heads.key_dim, source, "feature_map")?,
            forget: source.linear("f_proj", [heads.key * slots, model_dim], false)?,
            output: Output::read(config.output, model_dim, (1, width), config.norm_eps, source)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> GatedSlotAttentionConfig {
        self.config
    }

    /// The memory of keys and the memory of values.
    fn sites(&self, layer: usize) -> [Site; 2] {
        slots::sites(&self.config.heads, self.config.slots, layer)
    }

    fn gates(&self, input: &Tensor<3>, state: &mut RecurrentState) -> Result<SlotGates> {
        let heads = self.config.heads;
        let [query, key, value] = self.branches.forward(input, state)?;
        let log_decay = log_sigmoid(self.forget.forward(input.clone())?, self.config.divisor)?;
        let log_decay = heads::split(log_decay, heads.key);
        let gates = SlotGates {
            query: self.feature_map.apply(heads::split(query, heads.query))?,
            key: self.feature_map.apply(heads::split(key, heads.key))?,
            value: heads::split(silu(value), heads.value),
            write: exp(log_decay.clone()).neg() + 1.0,
            log_decay,
        };
        Ok(gates.spread(heads.query / heads.key))
    }
}

impl Mixer for GatedSlotAttention {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.sites(layer).into()
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
        let gates = self.gates(&input, state)?;
        let sites = self.sites(context.layer);
        let read_out = slots::read_out(gates, self.config.scale, sites, state, context)?;
        self.output.forward(silu(read_out), input)
    }

    fn flops_per_token(&self) -> u64 {
        slots::flops_per_token(&self.sites(0)) + self.branches.flops_per_token()
    }
}
