//! Gated linear attention: the mixer of GLA, simple GLA, RetNet and linear attention, which differ in their decay only.
//!
//! ```text
//! q, k, v = W_q x, W_k x, W_v x (each perhaps through a short convolution; q, k through a feature map, perhaps turned)
//! h_t = a_t ∘ h_{t-1} + k_t v_tᵀ          y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out (RMSNorm per head (y) ∘ SiLU(W_gate x))
//! ```
//!
//! | model | [`DecayConfig`] | ln a |
//! |---|---|---|
//! | linear attention | `None` | 0; with [`GatedLinearAttentionConfig::normalizer_eps`] y is divided by K^{-1/2} q · Σ k + ε |
//! | RetNet | `Constant` | ln(1 − 2^{−5−h}) |
//! | simple GLA | `PerHead` | ln σ(W x + b) / τ |
//! | GLA | `PerKey` | ln σ(W₂ W₁ x + b) / τ |
//!
//! Source: Yang et al., *Gated linear attention transformers with hardware-efficient training* (2312.06635), equation 3, table 1
//! and section 4.4; its authors' published models take τ = 16.

use crate::expect;
use crate::feature_map::{FeatureMap, FeatureMapKind};
use crate::heads::{self, Heads};
use crate::linear_attn::{divided, with_ones};
use crate::projection::{Branches, Output, OutputConfig};
use crate::retention;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::rotary::RotaryPlan;
use spillway_ssm_core::operators::{rotary, step_size};
use spillway_ssm_core::{Chain, Error, Gates, Linear, LogDecay, Result, ShortConvConfig, WeightSource};

/// Added to the sum of a query or key that is divided by it.
const SUM_EPS: f32 = 1e-4;

/// The configuration of a mixer of gated linear attention.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedLinearAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// φ, the feature map of queries and keys.
    pub feature_map: FeatureMapKind,
    /// Whether φ of the keys is φ of the queries, where it has matrices.
    pub feature_map_shared: bool,
    /// ln a, the log decay, and which entries of the state share it.
    pub decay: DecayConfig,
    /// How queries and keys are turned by their position.
    pub rotary: Option<RotaryPlan>,
    /// Whether queries, and keys, are divided by the sum of their features.
    pub sum_normalized: (bool, bool),
    /// ε of the division by the sum of the keys that a query meets; `None` does not divide.
    pub normalizer_eps: Option<f32>,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// ln a of a gated linear attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecayConfig {
    /// ln a = 0: nothing is forgotten.
    None,
    /// ln a is one constant per head; see [`retention::log_decay`].
    Constant,
    /// ln a = ln σ(W x + b) / τ, one value per head and token.
    PerHead {
        /// τ, what ln σ(W x + b) is divided by.
        divisor: f32,
    },
    /// ln a = ln σ(W₂ W₁ x + b) / τ, one value per key row, head and token.
    PerKey {
        /// Features between W₁ and W₂.
        rank: usize,
        /// τ, what ln σ(W₂ W₁ x + b) is divided by.
        divisor: f32,
        /// No log decay is below this.
        at_least: Option<f32>,
    },
}

/// [`DecayConfig`] with its projections.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists per layer; a box would cost more"
)]
enum Decay {
    None,
    Constant,
    PerHead {
        gate: Linear,
        divisor: f32,
    },
    PerKey {
        down: Linear,
        up: Linear,
        divisor: f32,
        at_least: Option<f32>,
    },
}

/// A mixer of gated linear attention.
#[derive(Clone, Debug)]
pub struct GatedLinearAttention {
    config: GatedLinearAttentionConfig,
    branches: Branches<3>,
    feature_maps: [FeatureMap; 2],
    decay: Decay,
    output: Output,
}

impl GatedLinearAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj` | query heads · `key_dim` × `model_dim` |
    /// | `k_proj` | key heads · `key_dim` × `model_dim` |
    /// | `v_proj` | value heads · `value_dim` × `model_dim` |
    /// | `q_conv1d`, `k_conv1d`, `v_conv1d`, where there are convolutions | channels × 1 × taps |
    /// | `feature_map_q`, `feature_map_k`, where φ has matrices | see [`FeatureMap::read`] |
    /// | `gk_proj` (with bias) of a decay per head | heads × `model_dim` |
    /// | `gk_proj.0`, `gk_proj.1` (with bias) of one per key | rank × `model_dim`, key heads · features × rank |
    /// | `g_proj`, where there is a gate | heads · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `value_dim` |
    /// | `o_proj` | `model_dim` × heads · `value_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for heads that cannot share, [`Error::Value`] for a dimension of 0, a negative ε, a divisor or bound of the
    /// decay that is none, or a rotation that does not fit; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        config: GatedLinearAttentionConfig,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        config.validate()?;
        let (model_dim, heads, map) = (config.model_dim, config.heads, config.feature_map);
        let branches = Branches::query_key_value(&heads, model_dim, config.conv, source)?;
        let of_query = FeatureMap::read(map, heads.key_dim, source, "feature_map_q")?;
        let of_key = match config.feature_map_shared {
            true => of_query.clone(),
            false => FeatureMap::read(map, heads.key_dim, source, "feature_map_k")?,
        };
        let groups = (heads.count(), heads.value_dim);
        Ok(Self {
            branches,
            feature_maps: [of_query, of_key],
            decay: Decay::read(&config, source)?,
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &GatedLinearAttentionConfig {
        &self.config
    }

    fn site(&self, layer: usize) -> Site {
        let heads = &self.config.heads;
        let site = heads.site(layer);
        Site {
            key_dim: self.config.features(),
            value_dim: heads.value_dim + usize::from(self.config.normalizer_eps.is_some()),
            decays: !matches!(self.decay, Decay::None),
            per_key_decay: matches!(self.decay, Decay::PerKey { .. }),
            ..site
        }
    }

    /// Queries and keys as the recurrence takes them, both with the query heads.
    fn query_and_key(&self, query: Tensor<3>, key: Tensor<3>, positions: &[u64]) -> Result<[Tensor<4>; 2]> {
        let heads = &self.config.heads;
        let mut query = self.feature_maps[0].apply(heads::split(query, heads.query))?;
        let mut key = self.feature_maps[1].apply(heads::split(key, heads.key))?;
        let (of_query, of_key) = self.config.sum_normalized;
        if of_query {
            query = over_sum(query);
        }
        if of_key {
            key = over_sum(key);
        }
        if let Some(plan) = &self.config.rotary {
            query = rotary(query, positions, plan)?;
            key = rotary(key, positions, plan)?;
        }
        Ok([query, heads.repeat_keys(key)])
    }
}

impl GatedLinearAttentionConfig {
    /// Rows of a head's state.
    fn features(&self) -> usize {
        self.feature_map.features(self.heads.key_dim)
    }

    fn validate(&self) -> Result<()> {
        expect::positive("width of a gated linear attention", &[self.model_dim])?;
        self.heads.validate()?;
        if let Some(plan) = &self.rotary {
            plan.validate(self.features())?;
        }
        if let Some(eps) = self.normalizer_eps {
            expect::epsilon(eps)?;
        }
        match self.decay {
            DecayConfig::None | DecayConfig::Constant => Ok(()),
            DecayConfig::PerHead { divisor } => expect::divisor(divisor),
            DecayConfig::PerKey {
                divisor, at_least, ..
            } => {
                expect::divisor(divisor)?;
                match at_least {
                    Some(bound) if bound.is_nan() || bound > 0.0 => Err(Error::Value {
                        what: "lower bound of a log decay",
                        expected: "at most 0",
                        found: bound.to_string(),
                    }),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl Decay {
    fn read<S: WeightSource>(config: &GatedLinearAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads) = (config.model_dim, &config.heads);
        Ok(match config.decay {
            DecayConfig::None => Self::None,
            DecayConfig::Constant => Self::Constant,
            DecayConfig::PerHead { divisor } => Self::PerHead {
                gate: source.linear("gk_proj", [heads.count(), model_dim], true)?,
                divisor,
            },
            DecayConfig::PerKey {
                rank,
                divisor,
                at_least,
            } => Self::PerKey {
                down: source.linear("gk_proj.0", [rank, model_dim], false)?,
                up: source.linear("gk_proj.1", [heads.key * config.features(), rank], true)?,
                divisor,
                at_least,
            },
        })
    }

    fn log_decay(&self, input: Tensor<3>, heads: &Heads) -> Result<LogDecay> {
        Ok(match self {
            Self::None => LogDecay::None,
            Self::Constant => LogDecay::PerHead(retention::log_decay(heads.count(), &input.device())),
            Self::PerHead { gate, divisor } => {
                LogDecay::PerHeadToken(log_sigmoid(gate.forward(input)?, *divisor)?)
            }
            Self::PerKey {
                down,
                up,
                divisor,
                at_least,
            } => {
                let mut log_decay = log_sigmoid(up.forward(down.forward(input)?)?, *divisor)?;
                if let Some(bound) = at_least {
                    log_decay = log_decay.clamp_min(*bound);
                }
                LogDecay::PerKeyToken(heads.repeat_keys(heads::split(log_decay, heads.key)))
            }
        })
    }
}

/// ln σ(x) / divisor = −softplus(−x) / divisor, which is the log decay of a step size.
pub(crate) fn log_sigmoid(x: Tensor<3>, divisor: f32) -> Result<Tensor<3>> {
    let (channels, device) = (x.dims()[2], x.device());
    let bias = Tensor::zeros([channels], &device);
    let log_rate = Tensor::full([channels], -divisor.ln(), &device);
    let (_, log_decay) = step_size(x.neg(), bias, log_rate, (0.0, f32::INFINITY))?;
    Ok(log_decay)
}

/// x / (Σ x + ε) over the last dimension.
fn over_sum(x: Tensor<4>) -> Tensor<4> {
    let sum = x.clone().sum_dim(3) + SUM_EPS;
    x / sum
}

impl Mixer for GatedLinearAttention {
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
        let (heads, state) = (&self.config.heads, state.recurrent()?);
        let [query, key, value] = self.branches.forward(&input, state)?;
        let [query, key] = self.query_and_key(query, key, context.positions)?;
        let log_decay = self.decay.log_decay(input.clone(), heads)?;
        let mut value = heads.repeat_values(heads::split(value, heads.value));
        if self.config.normalizer_eps.is_some() {
            value = with_ones(value);
        }
        let gates = Gates {
            log_decay,
            scale: (key.dims()[3] as f32).powf(-0.5),
            ..Gates::new(query, key, value)
        };
        let site = self.site(context.layer);
        let sums = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        let read_out = match self.config.normalizer_eps {
            Some(eps) => divided(sums, eps),
            None => sums,
        };
        self.output.forward(read_out, input)
    }

    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        6 * (heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}
