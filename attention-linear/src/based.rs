//! Based: linear attention with the exponential's Taylor series to second order as similarity.
//!
//! ```text
//! y_t = Σ_{j ≤ t} (1 + x + x²/2) v_j / (Σ_{j ≤ t} (1 + x + x²/2) + ε)        x = q_t·k_j / √K
//! out = W_out y
//! ```
//!
//! With an encoder it is [prefix linear attention](crate::prefix_linear_attn), the mixer of JRT-RNN.
//!
//! Without interventions the sums go through [`taylor_attention()`], which keeps no features in memory; with some, the recurrence runs over
//! features. Both keep one state, in which every product of two entries of a key stands once.
//!
//! The other two mixers of a Based model are the [gated convolution](crate::base_conv) and
//! [attention in a window](crate::softmax_attention). Source: Arora et al., *Simple linear attention language models balance the
//! recall-throughput tradeoff* (2402.18668), section 4.1.

use crate::feature_map::{taylor, taylor_packed};
use crate::linear_attn::{divided, with_ones};
use crate::prefix_linear_attn::Encoder;
use crate::{expect, linear_attn};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, Padding, RecurrentState};
use spillway_ssm_core::operators::taylor_attention::Expansion;
use spillway_ssm_core::operators::{TaylorInputs, TaylorPlan, TaylorPrefix, taylor_attention};
use spillway_ssm_core::{Chain, Chunking, Gates, Linear, LogDecay, Result, Sequences, State, WeightSource};

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
    /// Number of heads of queries, keys and values.
    pub num_heads: usize,
    /// K, width of a query and of a key.
    pub feature_dim: usize,
    /// Width of a value.
    pub head_dim: usize,
    /// ε of the denominator.
    pub eps: f32,
    /// Tokens of the prefix that it was trained to read by projections of their own; `None` for Based, which has none.
    pub encoder_length: Option<usize>,
}

/// A mixer of Based, or with an encoder of JRT-RNN: Taylor attention between projections.
#[derive(Clone, Debug)]
pub struct TaylorAttention {
    config: TaylorAttentionConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    encoder: Option<Encoder>,
    decay: Option<Decay>,
}

/// The decay of the numerator, and the factor on what is read.
#[derive(Clone, Debug)]
struct Decay {
    /// ln γ, the constant log decay of the numerator, `[heads]`.
    log_decay: Tensor<1>,
    /// Projection to δ, one value per head.
    gain: Linear,
}

/// Queries, keys and values of a call, `[batch, time, heads, ·]`, without a feature map.
struct Tokens {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    /// Keys and values of the prefix.
    prefix: Option<[Tensor<4>; 2]>,
    /// 1 for what counts in the sums and 0 for what does not, `[batch, time, 1, 1]`.
    counted: Option<Tensor<4>>,
}

impl TaylorAttention {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `proj_q`, `proj_k` | `num_heads` · `feature_dim` × `model_dim` |
    /// | `proj_v` | `num_heads` · `head_dim` × `model_dim` |
    /// | `out_proj` | `model_dim` × `num_heads` · `head_dim` |
    /// | `proj_k_enc`, `proj_v_enc` | as `proj_k` and `proj_v`, where there is an encoder |
    /// | `decay_proj` | `num_heads` × `model_dim`, where there is a `log_decay` |
    ///
    /// `log_decay` is ln γ, `[num_heads]`: the numerator decays by it and is multiplied by δ of the token that reads, the denominator is not,
    ///
    /// ```text
    /// y_t = δ_t Σ_{j ≤ t} γ^{t−j} (1 + x + x²/2) v_j / (Σ_{j ≤ t} (1 + x + x²/2) + ε)
    /// ```
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another
    /// shape.
    pub fn read<S: WeightSource>(
        config: TaylorAttentionConfig,
        log_decay: Option<Tensor<1>>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let TaylorAttentionConfig {
            model_dim,
            num_heads,
            feature_dim,
            head_dim,
            eps,
            encoder_length,
        } = config;
        let sizes = [
            model_dim,
            num_heads,
            feature_dim,
            head_dim,
            encoder_length.unwrap_or(1),
        ];
        expect::positive("dimensions of a Taylor attention", &sizes)?;
        expect::epsilon(eps)?;
        let (keys, values) = (num_heads * feature_dim, num_heads * head_dim);
        Ok(Self {
            config,
            query: source.linear("proj_q", [keys, model_dim], false)?,
            key: source.linear("proj_k", [keys, model_dim], false)?,
            value: source.linear("proj_v", [values, model_dim], false)?,
            encoder: match encoder_length {
                Some(_) => Some(Encoder::read(model_dim, [keys, values], source)?),
                None => None,
            },
            out: source.linear("out_proj", [model_dim, values], false)?,
            decay: match log_decay {
                Some(log_decay) => Some(Decay {
                    log_decay,
                    gain: source.linear("decay_proj", [num_heads, model_dim], false)?,
                }),
                None => None,
            },
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &TaylorAttentionConfig {
        &self.config
    }

    fn plan(&self) -> TaylorPlan {
        TaylorPlan {
            scale: (self.config.feature_dim as f32).powf(-0.5),
            expansion: Expansion::Taylor,
            normalizer: Some(self.config.eps),
        }
    }

    /// A weighted sum whose last value column, all ones, is the denominator's. Where the numerator alone decays, the two are sums of
    /// their own.
    fn own_sites(&self, layer: usize) -> Vec<Site> {
        let (heads, value_dim) = (self.config.num_heads, self.config.head_dim);
        let [features, columns] = self.plan().state_shape(self.config.feature_dim, value_dim);
        let site = |columns, decays| Site {
            decays,
            begins_with_prefix: self.encoder.is_some(),
            ..Site::weighted_sum(layer, heads, features, columns)
        };
        match self.decay {
            None => vec![site(columns, false)],
            Some(_) => {
                let denominator = Site {
                    first_head: heads,
                    ..site(1, false)
                };
                vec![site(value_dim, true), denominator]
            }
        }
    }

    /// Queries, keys and values of the input, and of its prefix.
    fn tokens(&self, input: &Tensor<3>, context: &Context<'_>) -> Result<Tokens> {
        let config = &self.config;
        let heads = |x: Tensor<3>, dim: usize| {
            let [batch, time, _] = x.dims();
            x.reshape([batch, time, config.num_heads, dim])
        };
        let mut tokens = Tokens {
            query: heads(self.query.forward(input.clone())?, config.feature_dim),
            key: heads(self.key.forward(input.clone())?, config.feature_dim),
            value: heads(self.value.forward(input.clone())?, config.head_dim),
            prefix: None,
            counted: None,
        };
        let (Some(encoder), Some(prefix)) = (&self.encoder, context.prefix.filter(|p| p.tokens() > 0)) else {
            return Ok(tokens);
        };
        let encoded = encoder.encode(input, prefix)?;
        let (mut key, value) = (
            heads(encoded.key, config.feature_dim),
            heads(encoded.value, config.head_dim),
        );
        match encoded.mask {
            None => {}
            Some((keep, Padding::Counted)) => {
                let keep = keep.cast(key.dtype());
                key = key * keep.clone().narrow(1, 0, prefix.tokens());
                tokens.key = tokens.key * keep;
            }
            Some((keep, Padding::LeftOut)) => tokens.counted = Some(keep),
        }
        tokens.prefix = Some([key, value]);
        Ok(tokens)
    }

    /// The read-out without features in memory.
    fn attend(&self, tokens: Tokens, state: &mut RecurrentState) -> Result<Tensor<4>> {
        let inputs = TaylorInputs {
            prefix: tokens.prefix.map(|[key, value]| TaylorPrefix {
                key,
                value,
                padding: None,
            }),
            log_decay: self.decay.as_ref().map(|decay| decay.log_decay.clone()),
            ..TaylorInputs::new(tokens.query, tokens.key, tokens.value)
        };
        let (plan, sequences) = (self.plan(), Sequences::Equal);
        if self.decay.is_none() {
            return taylor_attention(inputs, plan, &sequences, &mut state.recurrence(0)?.state);
        }
        // The two sums lie side by side for the operator.
        let numerator = state.recurrence(0)?.state.clone();
        let mut both = State {
            memory: Tensor::cat(vec![numerator.memory, state.recurrence(1)?.state.take()], 3),
            position: numerator.position,
        };
        let out = taylor_attention(inputs, plan, &sequences, &mut both)?;
        let value_dim = self.config.head_dim;
        let part = |first, columns| State {
            memory: both.memory.clone().narrow(3, first, columns),
            position: both.position,
        };
        state.recurrence(0)?.state = part(0, value_dim);
        state.recurrence(1)?.state = part(value_dim, 1);
        Ok(out)
    }

    /// The read-out by recurrences over features, on which interventions act.
    fn attend_by_features(
        &self,
        tokens: Tokens,
        state: &mut RecurrentState,
        context: &Context<'_>,
    ) -> Result<Tensor<4>> {
        let features = |x: Tensor<4>, counted: Option<Tensor<4>>| match counted {
            Some(counted) => {
                let features = taylor_packed(x);
                let dtype = features.dtype();
                features * counted.cast(dtype)
            }
            None => taylor_packed(x),
        };
        let sites = self.own_sites(context.layer);
        if let Some([key, value]) = tokens.prefix {
            let count = key.dims()[1];
            let counted = tokens.counted.clone().map(|counted| counted.narrow(1, 0, count));
            let sum = summed(features(key, counted), with_ones(value));
            self.add_prefix(sum, state)?;
        }
        let (query, key) = (taylor_packed(tokens.query), features(tokens.key, tokens.counted));
        let mut run = |index: usize, gates: Gates| {
            let recurrence = state.recurrence(index)?;
            context
                .chain
                .run(&sites[index], gates, recurrence, context.chunking)
        };
        let Some(decay) = &self.decay else {
            let sums = run(0, linear_attn::gates(query, key, with_ones(tokens.value), 1.0))?;
            return Ok(divided(sums, self.config.eps));
        };
        let [batch, time, heads, _] = tokens.value.dims();
        let one =
            Tensor::<4>::ones([batch, time, heads, 1], &tokens.value.device()).cast(tokens.value.dtype());
        let decaying = Gates {
            log_decay: LogDecay::PerHead(decay.log_decay.clone()),
            ..linear_attn::gates(query.clone(), key.clone(), tokens.value, 1.0)
        };
        let numerator = run(0, decaying)?;
        let denominator = run(1, linear_attn::gates(query, key, one, 1.0))?;
        Ok(divided(
            Tensor::cat(vec![numerator, denominator], 3),
            self.config.eps,
        ))
    }

    /// Adds Σ φ(k′) ṽ′ᵀ, `[batch, heads, features, columns]`, to the state.
    fn add_prefix(&self, sum: Tensor<4>, state: &mut RecurrentState) -> Result<()> {
        let mut first = 0;
        for index in 0..state.recurrences.len() {
            let own = &mut state.recurrence(index)?.state;
            let columns = own.memory.dims()[3];
            let part = sum.clone().narrow(3, first, columns).cast(own.memory.dtype());
            own.memory = own.take() + part;
            first += columns;
        }
        Ok(())
    }
}

/// Σ_e φ_e ṽ_eᵀ, `[batch, heads, features, columns]`, of `[batch, time, heads, ·]`.
fn summed(features: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    let features = features.swap_dims(1, 2).swap_dims(2, 3);
    features.matmul(values.swap_dims(1, 2))
}

impl Mixer for TaylorAttention {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.own_sites(layer)
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
        let tokens = self.tokens(&input, context)?;
        let state = state.recurrent()?;
        let plain = context.chain.interventions().is_empty() && context.chunking == Chunking::Fastest;
        // One token of two sums is not worth laying them side by side.
        let few = if self.decay.is_some() { 1 } else { 0 };
        let read_out = match plain && time > few && tokens.counted.is_none() {
            true => self.attend(tokens, state)?,
            false => self.attend_by_features(tokens, state, context)?,
        };
        let read_out = match &self.decay {
            Some(decay) => {
                read_out
                    * decay
                        .gain
                        .forward(input)?
                        .reshape([batch, time, config.num_heads, 1])
            }
            None => read_out,
        };
        self.out
            .forward(read_out.reshape([batch, time, config.num_heads * config.head_dim]))
    }

    fn encoder_length(&self) -> usize {
        self.config.encoder_length.unwrap_or(0)
    }

    /// Six per element of the state.
    fn flops_per_token(&self) -> u64 {
        let elements = |site: &Site| site.state_shape(1).iter().product::<usize>();
        6 * self.own_sites(0).iter().map(elements).sum::<usize>() as u64
    }
}
