//! Multi-head latent attention: softmax attention whose keys and values are projections of one narrow latent vector a token.
//!
//! ```text
//! c_t = RMSNorm(W_c x_t)        s_t = W_s x_t                          latent, and a part of the key that all heads share
//! k_{t,h} = [U_h c_t, s_t]      v_{t,h} = V_h c_t                      q_{t,h} = [q', q'']  = W_q x_t, perhaps in two factors
//! out = W_out [Σ_j softmax_j(scale q_{t,h}·k_{j,h}) v_{j,h}]_h         scale = (width of a query)^{-1/2}
//! ```
//!
//! Since q'·U_h c = (U_hᵀ q')·c, and sums of V_h c_j are V_h times sums of c_j, this is attention with one head of keys [c_t, s_t] and
//! values c_t that all queries [U_hᵀ q', q''] share, and so it is computed: what is carried are latent vectors, not the keys and values of
//! every head. Nothing is turned by its position. Source: DeepSeek-AI, *DeepSeek-V2* (2405.04434), section 2.1; Kimi Team, *Kimi Linear*
//! (2510.26692), section 4, for the form without positions.

use crate::expect;
use crate::heads;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, KeyValueCache, Mixer, MixerState};
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::{gated_norm, softmax_attention, split};
use spillway_ssm_core::{Chain, Init, Linear, Result, WeightSource};

/// The configuration of a mixer of latent attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of the queries.
    pub num_heads: usize,
    /// Width between the two projections that give the queries; `None` is a single projection.
    pub query_rank: Option<usize>,
    /// Width of c, a token's latent vector.
    pub latent_dim: usize,
    /// Width of the part of a key that a head has for itself.
    pub own_dim: usize,
    /// Width of s, the part that heads share.
    pub shared_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// ε of the norms of latent vectors.
    pub norm_eps: f32,
}

/// A mixer of latent attention.
#[derive(Clone, Debug)]
pub struct LatentAttention {
    config: LatentAttentionConfig,
    query: Query,
    /// The rows of c, then those of s.
    latent: Linear,
    /// Weight of the norm that gives c, `[latent_dim]`.
    latent_norm: Tensor<1>,
    /// U, `[1, heads, own_dim, latent_dim]`.
    key: Tensor<4>,
    /// Vᵀ, `[1, heads, latent_dim, value_dim]`.
    value: Tensor<4>,
    out: Linear,
}

/// How queries are projected: at once, or to a narrow vector and its norm first.
#[derive(Clone, Debug)]
struct Query {
    narrow: Option<(Linear, Tensor<1>)>,
    projection: Linear,
}

impl LatentAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, W_q | `num_heads` · (`own_dim` + `shared_dim`) × `model_dim` |
    /// | `q_a_proj`, `q_a_layernorm.weight`, `q_b_proj`, in its place with a rank | rank × `model_dim`, rank, rows of W_q × rank |
    /// | `kv_a_proj_with_mqa`, W_c, then W_s | `latent_dim` + `shared_dim` × `model_dim` |
    /// | `kv_a_layernorm.weight` | `latent_dim` |
    /// | `kv_b_proj.weight`, of every head U_h, then V_h | `num_heads` · (`own_dim` + `value_dim`) × `latent_dim` |
    /// | `o_proj` | `model_dim` × `num_heads` · `value_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: LatentAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        let LatentAttentionConfig {
            model_dim,
            num_heads: heads,
            query_rank,
            latent_dim: latent,
            own_dim: own,
            shared_dim: shared,
            value_dim,
            norm_eps,
        } = config;
        let sizes = [
            model_dim,
            heads,
            query_rank.unwrap_or(1),
            latent,
            own,
            shared,
            value_dim,
        ];
        expect::positive("dimensions of a latent attention", &sizes)?;
        expect::epsilon(norm_eps)?;
        let queries = heads * (own + shared);
        let query = match query_rank {
            None => Query {
                narrow: None,
                projection: source.linear("q_proj", [queries, model_dim], false)?,
            },
            Some(rank) => Query {
                narrow: Some((
                    source.linear("q_a_proj", [rank, model_dim], false)?,
                    source.vector("q_a_layernorm.weight", rank, Init::Ones)?,
                )),
                projection: source.linear("q_b_proj", [queries, rank], false)?,
            },
        };
        let rows = latent + shared;
        let down = source.linear("kv_a_proj_with_mqa", [rows, model_dim], false)?;
        let latent_norm = source.vector("kv_a_layernorm.weight", latent, Init::Ones)?;
        let up: Tensor<2> = source.tensor(
            "kv_b_proj.weight",
            [heads * (own + value_dim), latent],
            Init::fan_in(latent),
        )?;
        let up = up.reshape([1, heads, own + value_dim, latent]);
        Ok(Self {
            config,
            query,
            latent: down,
            latent_norm,
            key: up.clone().narrow(2, 0, own),
            value: up.narrow(2, own, value_dim).swap_dims(2, 3),
            out: source.linear("o_proj", [model_dim, heads * value_dim], false)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> LatentAttentionConfig {
        self.config
    }

    /// A latent vector divided by its root mean square.
    fn normed(&self, latent: Tensor<3>, weight: &Tensor<1>) -> Result<Tensor<3>> {
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: self.config.norm_eps,
            group_size: latent.dims()[2],
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            weight: Some(weight.clone()),
            ..NormWeights::default()
        };
        gated_norm(latent, weights, plan)
    }

    /// [U_hᵀ q', q''], `[batch, time, heads, latent_dim + shared_dim]`.
    fn queries(&self, input: Tensor<3>) -> Result<Tensor<4>> {
        let LatentAttentionConfig {
            num_heads,
            own_dim,
            shared_dim,
            ..
        } = self.config;
        let read = match &self.query.narrow {
            None => input,
            Some((down, norm)) => self.normed(down.forward(input)?, norm)?,
        };
        let query = heads::split(self.query.projection.forward(read)?, num_heads);
        let own = per_head(query.clone().narrow(3, 0, own_dim), &self.key);
        Ok(Tensor::cat(vec![own, query.narrow(3, own_dim, shared_dim)], 3))
    }
}

/// The rows of every head, `[batch, time, heads, in]`, times its matrix, `[1, heads, in, out]`.
fn per_head(rows: Tensor<4>, matrices: &Tensor<4>) -> Tensor<4> {
    rows.swap_dims(1, 2).matmul(matrices.clone()).swap_dims(1, 2)
}

impl Mixer for LatentAttention {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let LatentAttentionConfig {
            latent_dim,
            shared_dim,
            ..
        } = self.config;
        let dims = [latent_dim + shared_dim, latent_dim];
        MixerState::Attention(KeyValueCache::empty(batch, 1, dims, None, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let LatentAttentionConfig {
            num_heads,
            latent_dim,
            own_dim,
            shared_dim,
            value_dim,
            ..
        } = self.config;
        let [batch, time, _] = input.dims();
        if batch * time == 0 {
            return Ok(input);
        }
        let cache = state.attention()?;
        let [latent, shared] = split(self.latent.forward(input.clone())?, [latent_dim, shared_dim])?;
        let latent = self.normed(latent, &self.latent_norm)?;
        let key = Tensor::cat(vec![latent.clone(), shared], 2);
        let [key, value] = [key, latent].map(|rows| heads::split(rows, 1));
        let scale = ((own_dim + shared_dim) as f32).powf(-0.5);
        let queries = context.scaled_queries(self.queries(input)?);
        let read_out = softmax_attention(queries, key, value, scale, cache)?;
        let values = per_head(read_out, &self.value);
        self.out
            .forward(values.reshape([batch, time, num_heads * value_dim]))
    }

    /// The products with U and V.
    fn flops_per_token(&self) -> u64 {
        let LatentAttentionConfig {
            num_heads,
            latent_dim,
            own_dim,
            value_dim,
            ..
        } = self.config;
        2 * (num_heads * latent_dim * (own_dim + value_dim)) as u64
    }

    /// A latent vector twice, and what heads share of a key, in f32.
    fn cache_bytes_per_token(&self) -> u64 {
        4 * (2 * self.config.latent_dim + self.config.shared_dim) as u64
    }
}
