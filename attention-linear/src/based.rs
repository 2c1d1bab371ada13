//! Based: linear attention with the exponential's Taylor series to second order as similarity.
//!
//! ```text
//! y_t = Σ_{j ≤ t} (1 + x + x²/2) v_j / (Σ_{j ≤ t} (1 + x + x²/2) + ε)        x = q_t·k_j / √K
//! out = W_out y
//! ```
//!
//! The other two mixers of a Based model are the [gated convolution](crate::base_conv) and
//! [attention in a window](crate::softmax_attention). Source: Arora et al., *Simple linear attention language models balance the
//! recall-throughput tradeoff* (2402.18668), section 4.1.

use crate::feature_map::taylor;
use crate::linear_attn::{divided, with_ones};
use crate::{expect, linear_attn};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::{Chain, Gates, Linear, Result, WeightSource};

/// ε of the denominator in flash-linear-attention; HazyResearch's own code has 1e-12.
pub const EPS: f32 = 1e-6;

/// The gates over raw queries and keys; run them by [`linear_attn::normalized`], or by the plain recurrence for the sum
/// without its denominator.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, K]`, `value` `[batch, time, heads, value_dim]`; the state has 1 + K + K² rows.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Gates {
    linear_attn::gates(taylor(query), taylor(key), value, 1.0)
}

/// The configuration of a mixer of Taylor attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaylorAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads.
    pub num_heads: usize,
    /// K, width of a query and of a key.
    pub feature_dim: usize,
    /// Width of a value.
    pub head_dim: usize,
    /// ε of the denominator.
    pub eps: f32,
}

/// One mixer: Taylor attention between projections.
#[derive(Clone, Debug)]
pub struct TaylorAttention {
    config: TaylorAttentionConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl TaylorAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `proj_q`, `proj_k` | `num_heads` · `feature_dim` × `model_dim` |
    /// | `proj_v` | `num_heads` · `head_dim` × `model_dim` |
    /// | `out_proj` | `model_dim` × `num_heads` · `head_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another
    /// shape.
    pub fn read<S: WeightSource>(config: TaylorAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        let TaylorAttentionConfig {
            model_dim,
            num_heads,
            feature_dim,
            head_dim,
            eps,
        } = config;
        let sizes = [model_dim, num_heads, feature_dim, head_dim];
        expect::positive("dimensions of a Taylor attention", &sizes)?;
        expect::epsilon(eps)?;
        let (keys, values) = (num_heads * feature_dim, num_heads * head_dim);
        Ok(Self {
            config,
            query: source.linear("proj_q", [keys, model_dim], false)?,
            key: source.linear("proj_k", [keys, model_dim], false)?,
            value: source.linear("proj_v", [values, model_dim], false)?,
            out: source.linear("out_proj", [model_dim, values], false)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &TaylorAttentionConfig {
        &self.config
    }

    /// A weighted sum whose last value column, all ones, is the denominator's.
    fn site(&self, layer: usize) -> Site {
        let dim = self.config.feature_dim;
        let (features, columns) = (1 + dim + dim * dim, self.config.head_dim + 1);
        Site {
            decays: false,
            ..Site::weighted_sum(layer, self.config.num_heads, features, columns)
        }
    }
}

impl Mixer for TaylorAttention {
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
        let split = |x: Tensor<3>, dim: usize| x.reshape([batch, time, config.num_heads, dim]);
        let gates = gates(
            split(self.query.forward(input.clone())?, config.feature_dim),
            split(self.key.forward(input.clone())?, config.feature_dim),
            with_ones(split(self.value.forward(input)?, config.head_dim)),
        );
        let recurrence = state.recurrent()?.recurrence(0)?;
        let sums = context
            .chain
            .run(&self.site(context.layer), gates, recurrence, context.chunking)?;
        let read_out = divided(sums, config.eps);
        self.out
            .forward(read_out.reshape([batch, time, config.num_heads * config.head_dim]))
    }

    /// Six per element of the state.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, rows, columns] = self.site(0).state_shape(1);
        6 * (heads * rows * columns) as u64
    }
}
