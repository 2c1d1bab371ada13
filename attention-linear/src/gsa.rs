//! The mixer of gated slot attention; see [`crate::slots`] for its two recurrences.
//!
//! ```text
//! q, k = φ(W_q x), φ(W_k x)      v = SiLU(W_v x)      g = ln σ(W_f x) / τ      s = 1 − e^g
//! out = W_out RMSNorm(SiLU(y)), the norm over all heads together
//! ```
//!
//! Source: Zhang et al., *Gated slot attention for efficient linear-time sequence modeling* (2409.07146), section 3.

use crate::expect;
use crate::feature_map::FeatureMap;
use crate::gla::log_sigmoid;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, BranchWeights, Branches, Output, OutputWeights};
use crate::slots::SlotGates;
use burn::tensor::{Device, Tensor};
use ssm_core::intervention::Site;
use ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use ssm_core::operators::pointwise::{exp, silu};
use ssm_core::{Chain, Linear, Result};

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedSlotAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// The heads; as many of values as of keys.
    pub heads: Heads,
    /// Memory slots M of a head.
    pub slots: usize,
    /// τ, which divides the log decays.
    pub divisor: f32,
    /// What the scores of the slots are multiplied by before their softmax.
    pub scale: f32,
    /// ε of the norm of the read-out.
    pub norm_eps: f32,
}

/// The weights of a mixer.
#[derive(Clone, Debug)]
pub struct GatedSlotAttentionWeights {
    /// W_q, `[query heads · key_dim, model_dim]`.
    pub query: BranchWeights,
    /// W_k, `[key heads · key_dim, model_dim]`.
    pub key: BranchWeights,
    /// W_v, `[key heads · value_dim, model_dim]`.
    pub value: BranchWeights,
    /// φ, which keeps the number of features.
    pub feature_map: FeatureMap,
    /// W_f, `[key heads · slots, model_dim]`.
    pub forget: Linear,
    /// Norm over `[query heads · value_dim]` and output; no gate.
    pub output: OutputWeights,
}

/// One mixer.
#[derive(Clone, Debug)]
pub struct GatedSlotAttention {
    config: GatedSlotAttentionConfig,
    branches: Branches<3>,
    feature_map: FeatureMap,
    forget: Linear,
    output: Output,
}

impl GatedSlotAttention {
    /// A mixer of weights that fit its configuration.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] for a weight of another shape, [`ssm_core::Error::Groups`] for heads that cannot share,
    /// [`ssm_core::Error::Value`] for a dimension of 0, a negative ε, or a divisor that is not positive.
    pub fn new(config: GatedSlotAttentionConfig, weights: GatedSlotAttentionWeights) -> Result<Self> {
        let GatedSlotAttentionConfig {
            model_dim,
            heads,
            slots,
            ..
        } = config;
        expect::positive("width and slots of a slot attention", &[model_dim, slots])?;
        heads.validate()?;
        expect::shape("heads of the values", &[heads.key], &[heads.value])?;
        weights.feature_map.validate(heads.key_dim)?;
        expect::shape(
            "features of a slot attention",
            &[heads.key_dim],
            &[weights.feature_map.features(heads.key_dim)],
        )?;
        expect::projection("f_proj", &weights.forget, heads.key * slots, model_dim)?;
        expect::divisor(config.divisor)?;
        let [q, k, v] = heads.widths();
        let plans = [
            BranchPlan::silu_after_conv("q_proj", q, &weights.query),
            BranchPlan::silu_after_conv("k_proj", k, &weights.key),
            BranchPlan::silu_after_conv("v_proj", v, &weights.value),
        ];
        let width = heads.read_out_width();
        Ok(Self {
            branches: Branches::new(model_dim, plans, [weights.query, weights.key, weights.value])?,
            output: Output::new(model_dim, (1, width), config.norm_eps, weights.output)?,
            feature_map: weights.feature_map,
            forget: weights.forget,
            config,
        })
    }

    /// The shape.
    pub fn config(&self) -> GatedSlotAttentionConfig {
        self.config
    }

    /// The memory of keys and the memory of values.
    fn sites(&self, layer: usize) -> [Site; 2] {
        let (heads, slots) = (self.config.heads, self.config.slots);
        let keys = Site {
            heads: heads.query * slots,
            value_dim: 1,
            ..heads.site(layer)
        };
        let values = Site {
            first_head: keys.heads,
            key_dim: slots,
            per_key_decay: true,
            ..heads.site(layer)
        };
        [keys, values]
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
        let conv_states = self.branches.start(batch, device);
        MixerState::Recurrent(RecurrentState::start(
            conv_states,
            &self.sites(layer),
            chain,
            batch,
            device,
        ))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let gates = self.gates(&input, state)?;
        let [keys, values] = self.sites(context.layer);
        let scores = gates.scores(self.config.scale);
        let scores = context
            .chain
            .run(&keys, scores, state.recurrence(0)?, context.chunking)?;
        let reads = gates.reads(scores);
        let read_out = context
            .chain
            .run(&values, reads, state.recurrence(1)?, context.chunking)?;
        self.output.forward(silu(read_out), input)
    }

    fn flops_per_token(&self) -> u64 {
        let of_site = |site: &Site| 6 * (site.heads * site.key_dim * site.value_dim) as u64;
        self.sites(0).iter().map(of_site).sum::<u64>() + self.branches.flops_per_token()
    }
}
