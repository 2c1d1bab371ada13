//! Lightning attention: linear attention whose heads forget at constant rates that depend on head and layer.
//!
//! ```text
//! h_t = e^{s_h} h_{t-1} + k_t v_tᵀ        y_t = K^{-1/2} · q_tᵀ h_t        s_h = −(8/H)(1 − l/L) h,  h = 0 … H − 1
//! ```
//!
//! Head 0 never forgets. Source: Qin et al., *Lightning Attention-2* (2401.04658); slopes as in TransNormerLLM (2307.14995).
//!
//! The mixer ([`LightningAttention`]) is that of MiniMax-01, whose read-out has no factor and whose slopes are others:
//!
//! ```text
//! q, k, v = SiLU(W_qkv x), head by head            s_h = −2^(−8 (h + 1) / H) (1 − l / (L − 1 + 10⁻⁵) + 10⁻⁵)
//! out = W_out (RMSNorm(y) ∘ σ(W_g x))              the norm over all heads
//! ```
//!
//! Source: MiniMax, *MiniMax-01* (2501.08313), section 2.2.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::gated_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::{sigmoid_gate, silu};
use spillway_ssm_core::{Chain, Context, Gates, Init, Linear, LogDecay, Result, Site, WeightSource};

/// s_h for every head of layer `layer` of `num_layers`, `[num_heads]`.
pub fn log_decay(num_heads: usize, layer: usize, num_layers: usize, device: &Device) -> Tensor<1> {
    let depth = 1.0 - layer as f64 / num_layers as f64;
    let slopes: Vec<f32> = (0..num_heads)
        .map(|head| (-8.0 / num_heads as f64 * depth * head as f64) as f32)
        .collect();
    Tensor::from_floats(slopes.as_slice(), device)
}

/// The gates of layer `layer` of `num_layers`.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]` (or fewer query/key groups), `value` `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn gates(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    layer: usize,
    num_layers: usize,
) -> Result<Gates> {
    let decay = log_decay(value.dims()[2], layer, num_layers, &value.device());
    let scale = (key.dims()[3] as f32).powf(-0.5);
    let gates = Gates {
        log_decay: LogDecay::PerHead(decay),
        ..crate::linear_attn::gates(query, key, value, scale)
    };
    gates.validate()?;
    Ok(gates)
}

/// The configuration of a mixer of lightning attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LightningAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// H, the number of heads.
    pub num_heads: usize,
    /// Width of a query, a key and a value.
    pub head_dim: usize,
    /// L, layers of the model.
    pub num_layers: usize,
    /// ε of the norm of the read-out.
    pub norm_eps: f32,
}

/// A mixer of lightning attention.
#[derive(Clone, Debug)]
pub struct LightningAttention {
    config: LightningAttentionConfig,
    /// Rows of query, key and value of the first head, then of the second, and so on.
    query_key_value: Linear,
    log_decay: Tensor<1>,
    norm: Tensor<1>,
    gate: Linear,
    out: Linear,
}

/// s_h of every head of layer `layer` in MiniMax-01.
fn slopes_of_minimax(num_heads: usize, layer: usize, num_layers: usize) -> Vec<f32> {
    const SMALL: f64 = 1e-5;
    let depth = 1.0 - layer as f64 / (num_layers as f64 - 1.0 + SMALL) + SMALL;
    let slope = |head: usize| -(-8.0 * (head + 1) as f64 / num_heads as f64).exp2() * depth;
    (0..num_heads).map(|head| slope(head) as f32).collect()
}

impl LightningAttention {
    /// The mixer of layer `layer`, of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `qkv_proj` | H · 3 · `head_dim` × `model_dim`: query, key and value of one head after another |
    /// | `norm.weight` | H · `head_dim` |
    /// | `output_gate` | H · `head_dim` × `model_dim` |
    /// | `out_proj` | `model_dim` × H · `head_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        config: LightningAttentionConfig,
        layer: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (model_dim, heads, dim) = (config.model_dim, config.num_heads, config.head_dim);
        expect::positive("dimensions of a lightning attention", &[model_dim, heads, dim])?;
        expect::epsilon(config.norm_eps)?;
        let width = heads * dim;
        let query_key_value = source.linear("qkv_proj", [3 * width, model_dim], false)?;
        let norm = source.vector("norm.weight", width, Init::Ones)?;
        let slopes = slopes_of_minimax(heads, layer, config.num_layers);
        Ok(Self {
            config,
            query_key_value,
            log_decay: Tensor::from_floats(slopes.as_slice(), &norm.device()),
            norm,
            gate: source.linear("output_gate", [width, model_dim], false)?,
            out: source.linear("out_proj", [model_dim, width], false)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> LightningAttentionConfig {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        let (heads, dim) = (self.config.num_heads, self.config.head_dim);
        Site::weighted_sum(layer, heads, dim, dim)
    }
}

impl Mixer for LightningAttention {
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
        let (heads, dim) = (self.config.num_heads, self.config.head_dim);
        let [batch, time, _] = input.dims();
        let state = state.recurrent()?;
        let projected = silu(self.query_key_value.forward(input.clone())?);
        let by_head = projected.reshape([batch, time, heads, 3 * dim]);
        let part = |index: usize| by_head.clone().narrow(3, index * dim, dim);
        let gates = Gates {
            log_decay: LogDecay::PerHead(self.log_decay.clone()),
            ..Gates::new(part(0), part(1), part(2))
        };
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: self.config.norm_eps,
            group_size: heads * dim,
            order: GateOrder::NormBeforeGate,
        };
        let weights = NormWeights {
            weight: Some(self.norm.clone()),
            ..NormWeights::default()
        };
        let normed = gated_norm(read_out.reshape([batch, time, heads * dim]), weights, plan)?;
        self.out.forward(sigmoid_gate(self.gate.forward(input)?, normed))
    }

    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        6 * (heads * key_dim * value_dim) as u64
    }
}
