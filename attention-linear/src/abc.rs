//! The mixer of attention with bounded-memory control (ABC): a fixed number of slots, each a mean of keys and of values whose weights are a
//! softmax over all tokens so far. See [`crate::slots`] for its two recurrences.
//!
//! ```text
//! q, k, v = W_q x, W_k x, W_v x (each perhaps through a short convolution); q, k perhaps turned by their positions
//! s = clamp(W_s x)        z_t = ln Σ_{j ≤ t} e^{s_j}        written σ(s_t − z_{t−1}), kept σ(z_{t−1} − s_t)
//! out = W_out (RMSNorm per head (y) ∘ SiLU(W_gate x))
//! ```
//!
//! It is gated slot attention whose gate falls with what has been written already. What it carries beside the memories is z. Source: Peng et
//! al., *ABC: Attention with bounded-memory control* (2110.02488), section 3; the layer around it is flash-linear-attention's.

use crate::expect;
use crate::heads::{self, Heads};
use crate::projection::{Branches, Output, OutputConfig};
use crate::slots::{self, SlotGates};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::{RotaryPlan, rotary};
use spillway_ssm_core::{Chain, Error, Linear, Result, ShortConvConfig, WeightSource};

/// The configuration of a mixer of attention with bounded memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbcAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// The heads; as many of keys and values as of queries.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// How queries and keys are turned by their position.
    pub rotary: Option<RotaryPlan>,
    /// Memory slots M of a head.
    pub slots: usize,
    /// What the logits of the slots lie between.
    pub bounds: (f32, f32),
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// A mixer of attention with bounded memory.
#[derive(Clone, Debug)]
pub struct AbcAttention {
    config: AbcAttentionConfig,
    branches: Branches<3>,
    slots: Linear,
    output: Output,
}

impl AbcAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, `k_proj` | heads · `key_dim` × `model_dim` |
    /// | `v_proj` | heads · `value_dim` × `model_dim` |
    /// | `q_conv1d`, `k_conv1d`, `v_conv1d`, where there are convolutions | channels × 1 × taps |
    /// | `s_proj` | heads · `slots` × `model_dim` |
    /// | `g_proj`, where there is a gate | heads · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `value_dim` |
    /// | `o_proj` | `model_dim` × heads · `value_dim` |
    ///
    /// # Errors
    /// [`Error::Shape`] for other heads of keys or values than of queries, [`Error::Value`] for a dimension of 0, a negative ε, bounds that
    /// hold no number, or a rotation that does not fit; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: AbcAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
        let (model_dim, heads) = (config.model_dim, config.heads);
        let groups = (heads.query, heads.value_dim);
        Ok(Self {
            branches: Branches::query_key_value(&heads, model_dim, config.conv, source)?,
            slots: source.linear("s_proj", [heads.query * config.slots, model_dim], false)?,
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> AbcAttentionConfig {
        self.config
    }

    fn own_sites(&self, layer: usize) -> [Site; 2] {
        slots::sites(&self.config.heads, self.config.slots, layer)
    }

    fn gates(&self, input: &Tensor<3>, state: &mut RecurrentState, positions: &[u64]) -> Result<SlotGates> {
        let AbcAttentionConfig {
            heads,
            rotary: plan,
            bounds: (least, most),
            ..
        } = self.config;
        let [query, key, value] = self.branches.forward(input, state)?;
        let [mut query, mut key] = [query, key].map(|rows| heads::split(rows, heads.query));
        if let Some(plan) = &plan {
            query = rotary(query, positions, plan)?;
            key = rotary(key, positions, plan)?;
        }
        let logits = self.slots.forward(input.clone())?.clamp(least, most);
        let logits = heads::split(logits, heads.query);
        let [write, log_decay] = slots::softmax_writes(logits, state.carried(0)?)?;
        Ok(SlotGates {
            query,
            key,
            value: heads::split(value, heads.query),
            write,
            log_decay,
        })
    }
}

impl AbcAttentionConfig {
    fn validate(&self) -> Result<()> {
        let heads = &self.heads;
        expect::positive("width and slots of an ABC mixer", &[self.model_dim, self.slots])?;
        heads.validate()?;
        expect::shape(
            "heads of keys and values",
            &[heads.query; 2],
            &[heads.key, heads.value],
        )?;
        let (least, most) = self.bounds;
        if least.is_nan() || most.is_nan() || least > most {
            return Err(Error::Value {
                what: "bounds of the logits of slots",
                expected: "two numbers, the lower first",
                found: format!("{:?}", self.bounds),
            });
        }
        match &self.rotary {
            Some(plan) => plan.validate(heads.key_dim),
            None => Ok(()),
        }
    }
}

impl Mixer for AbcAttention {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.own_sites(layer).into()
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let mut state = self.branches.start(&self.own_sites(layer), batch, chain, device);
        if let MixerState::Recurrent(state) = &mut state {
            let shape = [batch, self.config.heads.query, self.config.slots];
            state.carried.push(slots::nothing_written(shape, device));
        }
        state
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        if input.dims()[1] == 0 {
            return Ok(input);
        }
        let state = state.recurrent()?;
        let gates = self.gates(&input, state, context.positions)?;
        let scale = (self.config.heads.key_dim as f32).powf(-0.5);
        let sites = self.own_sites(context.layer);
        let read_out = slots::read_out(gates, scale, sites, state, context)?;
        self.output.forward(read_out, input)
    }

    fn flops_per_token(&self) -> u64 {
        slots::flops_per_token(&self.own_sites(0)) + self.branches.flops_per_token()
    }
}
