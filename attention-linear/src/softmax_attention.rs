//! Softmax attention as a mixer: grouped queries, rotary positions, causal, perhaps within a window.
//!
//! ```text
//! q, k, v = W_qkv x + b (perhaps through a short convolution);  q, k turned by their positions
//! out = W_out Σ_j softmax_j(scale q_t·k_j) v_j + b              max(0, t − window) ≤ j ≤ t
//! ```
//!
//! What it carries is the [`KeyValueCache`] of turned keys, and of values. Source: Vaswani et al. (1706.03762), section 3.2; Su
//! et al. (2104.09864) for the positions; Ainslie et al. (2305.13245) for shared keys and values.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, KeyValueCache, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::{RotaryPlan, rotary, softmax_attention, split_to_heads};
use spillway_ssm_core::{Chain, Error, Linear, Result, ShortConv, ShortConvConfig, WeightSource};

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
    /// How queries and keys are turned by their position.
    pub rotary: Option<RotaryPlan>,
    /// How many keys before its own a token reads; `None` for all.
    pub window: Option<usize>,
    /// Factor on q·k; `None` is head_dim^(−1/2).
    pub scale: Option<f32>,
    /// The convolution over queries, keys and values together.
    pub conv: Option<ShortConvConfig>,
    /// Whether the projections to queries, keys and values have biases.
    pub query_key_value_bias: bool,
    /// Whether the projection to the output has a bias.
    pub output_bias: bool,
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
    out: Linear,
}

impl SoftmaxAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, stacked with | `num_heads` · `head_dim` × `model_dim` |
    /// | `k_proj`, `v_proj` | `num_key_value_heads` · `head_dim` × `model_dim` |
    /// | `conv1d`, where there is one | the rows of these three × 1 × taps |
    /// | `o_proj` | `model_dim` × `num_heads` · `head_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for heads that cannot share keys, [`Error::Value`] for a dimension of 0 or a rotation that does not fit; the
    /// source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: SoftmaxAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
        let (model_dim, of_query, of_key) = (config.model_dim, config.query_width(), config.key_width());
        let rows = [("q_proj", of_query), ("k_proj", of_key), ("v_proj", of_key)];
        Ok(Self {
            config,
            query_key_value: source.stacked(&rows, model_dim, config.query_key_value_bias)?,
            conv: match config.conv {
                Some(conv) => Some(ShortConv::read(conv, of_query + 2 * of_key, source, "conv1d")?),
                None => None,
            },
            out: source.linear("o_proj", [model_dim, of_query], config.output_bias)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &SoftmaxAttentionConfig {
        &self.config
    }

    /// Queries, keys and values, `[batch, time, heads, head_dim]`.
    fn project(&self, input: Tensor<3>, cache: &mut KeyValueCache) -> Result<[Tensor<4>; 3]> {
        let mut joined = self.query_key_value.forward(input)?;
        if let (Some(conv), Some(conv_state)) = (&self.conv, &mut cache.conv_state) {
            joined = conv.forward(joined, Activation::None, conv_state)?;
        }
        let (heads, groups) = (self.config.num_heads, self.config.num_key_value_heads);
        let dim = self.config.head_dim;
        split_to_heads(joined, [(heads, dim), (groups, dim), (groups, dim)])
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
        let config = &self.config;
        let [batch, time, _] = input.dims();
        let cache = state.attention()?;
        let [mut query, mut key, value] = self.project(input, cache)?;
        if let Some(plan) = &config.rotary {
            query = rotary(query, context.positions, plan)?;
            key = rotary(key, context.positions, plan)?;
        }
        let scale = config
            .scale
            .unwrap_or_else(|| (config.head_dim as f32).powf(-0.5));
        let read_out = softmax_attention(query, key, value, scale, cache)?;
        self.out
            .forward(read_out.reshape([batch, time, config.query_width()]))
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
