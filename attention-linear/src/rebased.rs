//! ReBased: linear attention with a squared similarity of normalised queries and keys.
//!
//! ```text
//! y_t = Σ_{j ≤ t} x² v_j / (Σ_{j ≤ t} x² + ε)        x = φ(q_t)·φ(k_j) / √K        φ(u) = γ ∘ LayerNorm(u) + β
//! out = W_out y
//! ```
//!
//! γ and β are one for queries and keys and all heads: with them the square is any quadratic function of either. Without interventions the sums
//! go through [`taylor_attention()`], which keeps no features in memory; with some, the recurrence runs over features. Both keep one state, in
//! which every product of two entries of a key stands once.
//!
//! Source: Aksenov et al., *Linear Transformers with Learnable Kernel Functions are Better In-Context Models* (2402.10644), section 4.

use crate::feature_map::{square, square_packed};
use crate::linear_attn::{divided, with_ones};
use crate::{expect, heads, linear_attn};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::taylor_attention::Expansion;
use spillway_ssm_core::operators::{TaylorInputs, TaylorPlan, gated_norm, taylor_attention};
use spillway_ssm_core::{Chain, Chunking, Error, Gates, Init, Linear, Result, Sequences, WeightSource};

/// ε of the denominator of the operator in flash-linear-attention's plain form; its layer has 10⁻⁵.
pub const EPS: f32 = 1e-6;

/// ε of the norm of queries and keys.
const NORM_EPS: f32 = 1e-5;

/// The gates; run them by [`linear_attn::normalized`].
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, K]`, `value` `[batch, time, heads, value_dim]`; the state has K² rows.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Gates {
    let scale = 1.0 / key.dims()[3] as f32;
    linear_attn::gates(square(query), square(key), value, scale)
}

/// The configuration of a mixer of ReBased.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RebasedAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Number of heads of queries, keys and values.
    pub num_heads: usize,
    /// K, width of a query and of a key.
    pub feature_dim: usize,
    /// Width of a value.
    pub head_dim: usize,
    /// Whether queries and keys are normalised.
    pub normalized: bool,
    /// Whether there is a γ.
    pub gamma: bool,
    /// Whether there is a β.
    pub beta: bool,
    /// ε of the denominator.
    pub eps: f32,
}

/// One mixer of ReBased.
#[derive(Clone, Debug)]
pub struct RebasedAttention {
    config: RebasedAttentionConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    /// γ of all heads, `[heads · K]`.
    gamma: Option<Tensor<1>>,
    /// β of all heads, `[heads · K]`.
    beta: Option<Tensor<1>>,
}

impl RebasedAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, `k_proj` | `num_heads` · `feature_dim` × `model_dim` |
    /// | `v_proj` | `num_heads` · `head_dim` × `model_dim` |
    /// | `feature_map.gamma`, `feature_map.beta`, as far as there are any | `feature_dim` |
    /// | `o_proj` | `model_dim` × `num_heads` · `head_dim` |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0, a negative ε, or a φ that does nothing or adds β to what is neither normalised nor multiplied; the
    /// source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: RebasedAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        let RebasedAttentionConfig {
            model_dim,
            num_heads,
            feature_dim,
            head_dim,
            ..
        } = config;
        expect::positive(
            "dimensions of a ReBased mixer",
            &[model_dim, num_heads, feature_dim, head_dim],
        )?;
        expect::epsilon(config.eps)?;
        if !config.normalized && !config.gamma {
            return Err(S::Error::from(Error::Value {
                what: "map of queries and keys of a ReBased mixer",
                expected: "a norm or a factor",
                found: "neither".into(),
            }));
        }
        let (keys, values) = (num_heads * feature_dim, num_heads * head_dim);
        let mut per_feature = |there: bool, name: &str, init| {
            let read = || source.vector(&format!("feature_map.{name}"), feature_dim, init);
            let vector = there.then(read).transpose()?;
            Ok::<_, S::Error>(vector.map(|vector| vector.repeat(&[num_heads])))
        };
        Ok(Self {
            gamma: per_feature(config.gamma, "gamma", Init::Ones)?,
            beta: per_feature(config.beta, "beta", Init::Zeros)?,
            query: source.linear("q_proj", [keys, model_dim], false)?,
            key: source.linear("k_proj", [keys, model_dim], false)?,
            value: source.linear("v_proj", [values, model_dim], false)?,
            out: source.linear("o_proj", [model_dim, values], false)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> RebasedAttentionConfig {
        self.config
    }

    fn plan(&self) -> TaylorPlan {
        TaylorPlan {
            scale: (self.config.feature_dim as f32).powf(-0.5),
            expansion: Expansion::Square,
            normalizer: Some(self.config.eps),
        }
    }

    /// A weighted sum whose last value column, all ones, is the denominator's.
    fn site(&self, layer: usize) -> Site {
        let config = &self.config;
        let [features, columns] = self.plan().state_shape(config.feature_dim, config.head_dim);
        Site {
            decays: false,
            ..Site::weighted_sum(layer, config.num_heads, features, columns)
        }
    }

    /// φ of the rows of all heads, `[batch, time, heads, K]`.
    fn mapped(&self, rows: Tensor<3>) -> Result<Tensor<4>> {
        let mapped = match (self.config.normalized, &self.gamma, &self.beta) {
            (true, gamma, beta) => {
                let plan = NormPlan {
                    statistic: Statistic::Variance,
                    eps: NORM_EPS,
                    group_size: self.config.feature_dim,
                    order: GateOrder::NormAfterGate,
                };
                let weights = NormWeights {
                    gate: None,
                    weight: gamma.clone(),
                    bias: beta.clone(),
                };
                gated_norm(rows, weights, plan)?
            }
            (false, gamma, beta) => {
                let scaled = match gamma {
                    Some(gamma) => rows * gamma.clone().unsqueeze(),
                    None => rows,
                };
                match beta {
                    Some(beta) => scaled + beta.clone().unsqueeze(),
                    None => scaled,
                }
            }
        };
        Ok(heads::split(mapped, self.config.num_heads))
    }
}

impl Mixer for RebasedAttention {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let sites = self.sites(layer);
        MixerState::Recurrent(RecurrentState::start(Vec::new(), &sites, chain, batch, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let config = &self.config;
        let [batch, time, _] = input.dims();
        let query = self.mapped(self.query.forward(input.clone())?)?;
        let key = self.mapped(self.key.forward(input.clone())?)?;
        let value = heads::split(self.value.forward(input)?, config.num_heads);
        let recurrence = state.recurrent()?.recurrence(0)?;
        let plain = context.chain.interventions().is_empty() && context.chunking == Chunking::Fastest;
        let read_out = match plain && time > 0 {
            true => {
                let inputs = TaylorInputs::new(query, key, value);
                taylor_attention(inputs, self.plan(), &Sequences::Equal, &mut recurrence.state)?
            }
            false => {
                let (query, key) = (square_packed(query), square_packed(key));
                let gates = linear_attn::gates(query, key, with_ones(value), 1.0);
                let site = self.site(context.layer);
                let sums = context.chain.run(&site, gates, recurrence, context.chunking)?;
                divided(sums, config.eps)
            }
        };
        self.out
            .forward(read_out.reshape([batch, time, config.num_heads * config.head_dim]))
    }

    /// Six per element of the state.
    fn flops_per_token(&self) -> u64 {
        6 * self.site(0).state_shape(1).iter().product::<usize>() as u64
    }
}
