//! Softmax attention as a mixer: grouped queries, rotary positions, causal, perhaps within a window.
//!
//! ```text
//! q, k, v = W_qkv x + b (perhaps through a short convolution);  q, k normalised, and turned by their positions
//! out = W_out (Σ_j softmax_j(scale q_t·k_j) v_j ∘ σ(g_t)) + b   max(0, t − window) ≤ j ≤ t
//! ```
//!
//! Norm and gate g, which W_qkv gives beside the queries, are parts that a model may have.
//!
//! What it carries is the [`KeyValueCache`] of turned keys, and of values. Source: Vaswani et al. (1706.03762), section 3.2; Su
//! et al. (2104.09864) for the positions; Ainslie et al. (2305.13245) for shared keys and values; Henry et al. (2010.04245) for norms of
//! queries and keys; Qiu et al. (2505.06708) for the gate.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, KeyValueCache, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::sigmoid_gate;
use spillway_ssm_core::operators::{RotaryPlan, gated_norm, rotary, softmax_attention, split_to_heads};
use spillway_ssm_core::{Chain, Error, Init, Linear, Result, ShortConv, ShortConvConfig, WeightSource};

/// The configuration of a mixer of softmax attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of the queries.
    pub num_heads: usize,
    /// Heads of keys and values; a divisor of `num_heads`.
    pub num_key_value_heads: usize,
    /// Width of a query, a key and a value.
    pub head_dim: usize,
    /// The norm of queries and keys.
    pub norm: Option<QueryKeyNorm>,
    /// How queries and keys are turned by their position.
    pub rotary: Option<RotaryPlan>,
    /// How many keys before its own a token reads; `None` for all.
    pub window: Option<usize>,
    /// Factor on q·k; `None` is head_dim^(−1/2).
    pub scale: Option<f32>,
    /// The convolution over queries, keys and values together; not beside a gate.
    pub conv: Option<ShortConvConfig>,
    /// Whether the read-out is gated: `q_proj` then has twice the rows, of every head its query and its gate.
    pub gate: bool,
    /// Whether the projections to queries, keys and values have biases.
    pub query_key_value_bias: bool,
    /// Whether the projection to the output has a bias.
    pub output_bias: bool,
}

/// The RMSNorm of queries and of keys, before they are turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryKeyNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// What has a mean square of its own.
    pub over: NormSpan,
    /// Whether the weight is stored as its distance from 1.
    pub zero_centred: bool,
}

/// What has a mean square of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormSpan {
    /// Every head; its weight is the same for all.
    Head,
    /// All heads together; every feature of every head has a weight of its own.
    AllHeads,
}

impl SoftmaxAttentionConfig {
    /// Width of the queries.
    pub fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    fn validate(&self) -> Result<()> {
        let (heads, groups) = (self.num_heads, self.num_key_value_heads);
        let sizes = [self.model_dim, heads, groups, self.head_dim];
        expect::positive("dimensions of a softmax attention", &sizes)?;
        if !heads.is_multiple_of(groups) {
            return Err(Error::Groups { heads, groups });
        }
        if self.gate && self.conv.is_some() {
            return Err(Error::Value {
                what: "convolution of a gated attention",
                expected: "none",
                found: format!("{:?}", self.conv),
            });
        }
        if let Some(norm) = &self.norm {
            expect::epsilon(norm.eps)?;
        }
        match &self.rotary {
            Some(plan) => plan.validate(self.head_dim),
            None => Ok(()),
        }
    }
}

/// A mixer of softmax attention.
#[derive(Clone, Debug)]
pub struct SoftmaxAttention {
    config: SoftmaxAttentionConfig,
    /// The rows of queries, then those of keys, then those of values. One product reads all.
    query_key_value: Linear,
    conv: Option<ShortConv>,
    /// Norms of queries and of keys.
    norms: Option<[Norm; 2]>,
    out: Linear,
}

/// A norm of queries or of keys.
#[derive(Clone, Debug)]
struct Norm {
    plan: NormPlan,
    /// Weight of every feature, `[heads · head_dim]`; that of one head is repeated for all where they share it.
    weight: Tensor<1>,
}

impl Norm {
    fn read<S: WeightSource>(
        norm: QueryKeyNorm,
        name: &str,
        [heads, head_dim]: [usize; 2],
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (group_size, repeated) = match norm.over {
            NormSpan::Head => (head_dim, heads),
            NormSpan::AllHeads => (heads * head_dim, 1),
        };
        let name = format!("{name}.weight");
        let weight = match norm.zero_centred {
            true => source.vector(&name, group_size, Init::Zeros)? + 1.0,
            false => source.vector(&name, group_size, Init::Ones)?,
        };
        Ok(Self {
            plan: NormPlan {
                statistic: Statistic::MeanSquare,
                eps: norm.eps,
                group_size,
                order: GateOrder::NormAfterGate,
            },
            weight: weight.repeat(&[repeated]),
        })
    }

    fn of(&self, heads: Tensor<4>) -> Result<Tensor<4>> {
        let shape @ [batch, time, count, dim] = heads.dims();
        let weights = NormWeights {
            weight: Some(self.weight.clone()),
            ..NormWeights::default()
        };
        let rows = gated_norm(heads.reshape([batch, time, count * dim]), weights, self.plan)?;
        Ok(rows.reshape(shape))
    }
}

/// What a projection gives, `[batch, time, heads, head_dim]`; the gate with all heads side by side.
struct Projected {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    gate: Option<Tensor<3>>,
}

impl SoftmaxAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, stacked with | `num_heads` · `head_dim` × `model_dim`; twice the rows with a gate |
    /// | `k_proj`, `v_proj` | `num_key_value_heads` · `head_dim` × `model_dim` |
    /// | `conv1d`, where there is one | the rows of these three × 1 × taps |
    /// | `q_norm.weight`, `k_norm.weight`, where there are norms | `head_dim`, or that of all heads |
    /// | `o_proj` | `model_dim` × `num_heads` · `head_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for heads that cannot share keys, [`Error::Value`] for a dimension of 0, a negative ε, a rotation that does not
    /// fit or a convolution beside a gate; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: SoftmaxAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        Self::read_to(config, config.model_dim, source)
    }

    /// As [`SoftmaxAttention::read`] of a mixer whose output, and with it `o_proj`, is of another width than its input.
    ///
    /// # Errors
    /// As [`SoftmaxAttention::read`].
    pub fn read_to<S: WeightSource>(
        config: SoftmaxAttentionConfig,
        output_dim: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        config.validate()?;
        let (model_dim, of_query, of_key) = (config.model_dim, config.query_width(), config.key_width());
        let of_query_and_gate = if config.gate { 2 * of_query } else { of_query };
        let rows = [
            ("q_proj", of_query_and_gate),
            ("k_proj", of_key),
            ("v_proj", of_key),
        ];
        let (heads, groups, dim) = (config.num_heads, config.num_key_value_heads, config.head_dim);
        Ok(Self {
            config,
            query_key_value: source.stacked(&rows, model_dim, config.query_key_value_bias)?,
            conv: match config.conv {
                Some(conv) => Some(ShortConv::read(conv, of_query + 2 * of_key, source, "conv1d")?),
                None => None,
            },
            norms: match config.norm {
                Some(norm) => Some([
                    Norm::read(norm, "q_norm", [heads, dim], source)?,
                    Norm::read(norm, "k_norm", [groups, dim], source)?,
                ]),
                None => None,
            },
            out: source.linear("o_proj", [output_dim, of_query], config.output_bias)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &SoftmaxAttentionConfig {
        &self.config
    }

    /// Queries and keys are normalised, and not turned yet; `added` is added to what the projections give.
    fn project(
        &self,
        input: Tensor<3>,
        added: Option<Tensor<3>>,
        cache: &mut KeyValueCache,
    ) -> Result<Projected> {
        let mut joined = self.query_key_value.forward(input)?;
        if let Some(added) = added {
            joined = joined + added;
        }
        if let (Some(conv), Some(conv_state)) = (&self.conv, &mut cache.conv_state) {
            joined = conv.forward(joined, Activation::None, conv_state)?;
        }
        let (heads, groups) = (self.config.num_heads, self.config.num_key_value_heads);
        let dim = self.config.head_dim;
        let of_query = if self.config.gate { 2 * dim } else { dim };
        let [mut query, mut key, value] =
            split_to_heads(joined, [(heads, of_query), (groups, dim), (groups, dim)])?;
        let mut gate = None;
        if self.config.gate {
            let [batch, time, ..] = query.dims();
            let gates = query.clone().narrow(3, dim, dim);
            gate = Some(gates.reshape([batch, time, heads * dim]));
            query = query.narrow(3, 0, dim);
        }
        if let Some([of_query, of_key]) = &self.norms {
            (query, key) = (of_query.of(query)?, of_key.of(key)?);
        }
        Ok(Projected {
            query,
            key,
            value,
            gate,
        })
    }

    /// As [`Mixer::forward`], with `added` `[batch, time, rows of the projections]` on what the projections to queries, keys and
    /// values give.
    ///
    /// # Errors
    /// As [`Mixer::forward`].
    pub fn attend(
        &self,
        input: Tensor<3>,
        added: Option<Tensor<3>>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let config = &self.config;
        let [batch, time, _] = input.dims();
        let cache = state.attention()?;
        let Projected {
            mut query,
            mut key,
            value,
            gate,
        } = self.project(input, added, cache)?;
        if let Some(plan) = &config.rotary {
            query = rotary(query, context.positions, plan)?;
            key = rotary(key, context.positions, plan)?;
        }
        // Within a window the number of keys does not grow.
        if config.window.is_none() {
            query = context.scaled_queries(query);
        }
        let scale = config
            .scale
            .unwrap_or_else(|| (config.head_dim as f32).powf(-0.5));
        let read_out = softmax_attention(query, key, value, scale, cache)?;
        let read_out = read_out.reshape([batch, time, config.query_width()]);
        self.out.forward(match gate {
            Some(gate) => sigmoid_gate(gate, read_out),
            None => read_out,
        })
    }
}

impl Mixer for SoftmaxAttention {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let config = &self.config;
        let dims = [config.head_dim; 2];
        let cache = KeyValueCache::empty(batch, config.num_key_value_heads, dims, config.window, device);
        MixerState::Attention(match &self.conv {
            Some(conv) => {
                let [channels, width] = conv.dims();
                cache.with_taps(channels, width)
            }
            None => cache,
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        self.attend(input, None, state, context)
    }

    /// Keys and values, in f32.
    fn cache_bytes_per_token(&self) -> u64 {
        match self.config.window {
            None => 8 * self.config.key_width() as u64,
            // A window's cache stops growing.
            Some(_) => 0,
        }
    }
}
