//! mLSTM, the matrix memory of xLSTM: linear attention with exponential input gates, whose read-out is divided by what the gates have
//! written.
//!
//! ```text
//! q, k, v = W x + b        i, f = cap(W x + b)        o = σ(W_o x + b)          cap(x) = c tanh(x / c)
//! C_t = σ(f_t) C_{t-1} + e^{i_t} k_t v_tᵀ             n_t = σ(f_t) n_{t-1} + e^{i_t} k_t
//! y_t = K^{-1/2} q_tᵀ C_t / (max(K^{-1/2} |q_tᵀ n_t|, 1) + ε e^{m_t})
//! out = W_out (LayerNorm per head (y) ∘ o)
//! ```
//!
//! C and n are kept divided by e^{m_t} with m_t = max(ln σ(f_t) + m_{t-1}, i_t) and m_0 = 0, so that no exponential is above 1:
//!
//! ```text
//! C_t ← e^{ln σ(f_t) + m_{t-1} − m_t} C_{t-1} + e^{i_t − m_t} k_t v_tᵀ
//! ```
//!
//! That is a recurrence with a decay per head and n the column beside those of C. m is found for all tokens first, by doubling: the maximum
//! of two neighbouring spanes follows from theirs. Source: Beck et al., *xLSTM* (2405.04517), section 2.3 and appendix A.3; Beck et al.,
//! *xLSTM 7B* (2503.13427), section 3, for the caps.

use crate::expect;
use crate::gla::log_sigmoid;
use crate::heads;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::{exp, sigmoid_gate, tanh};
use spillway_ssm_core::operators::{gated_norm, split};
use spillway_ssm_core::{Chain, Gates, Init, Linear, LogDecay, Result, WeightSource};

/// The configuration of an mLSTM mixer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlstmConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of the recurrence.
    pub num_heads: usize,
    /// K, width of a query and of a key.
    pub key_dim: usize,
    /// V, width of a value.
    pub value_dim: usize,
    /// c, what the input and forget gates stay below, before their exponentials.
    pub gate_cap: f32,
    /// ε of the divisor.
    pub eps: f32,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Whether projections and norm have biases; those of the two gates always have.
    pub bias: bool,
    /// Whether the rows of both gates, and their biases, are in one tensor, those of the input gates first.
    pub joint_gates: bool,
}

/// An mLSTM mixer: the matrix memory of xLSTM between projections.
#[derive(Clone, Debug)]
pub struct Mlstm {
    config: MlstmConfig,
    /// The rows of queries, keys, values and output gate. One product reads all.
    projection: Linear,
    /// The rows of the input gates, then those of the forget gates.
    gates: Linear,
    norm: NormWeights,
    out: Linear,
}

impl Mlstm {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `k`, stacked with | `num_heads` · `key_dim` × `model_dim` |
    /// | `v`, `ogate` | `num_heads` · `value_dim` × `model_dim` |
    /// | `igate`, `fgate`, stacked, with biases; one name for both with `joint_gates` | `num_heads` × `model_dim` |
    /// | `norm.weight`, and with `bias` `norm.bias` | `num_heads` · `value_dim` |
    /// | `out_proj` | `model_dim` × `num_heads` · `value_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0, a negative ε or a cap that is none; the source's for a tensor that is missing or
    /// of another shape.
    pub fn read<S: WeightSource>(config: MlstmConfig, source: &mut S) -> Result<Self, S::Error> {
        let MlstmConfig {
            model_dim,
            num_heads,
            key_dim,
            value_dim,
            ..
        } = config;
        expect::positive(
            "dimensions of an mLSTM mixer",
            &[model_dim, num_heads, key_dim, value_dim],
        )?;
        expect::epsilon(config.eps)?;
        expect::epsilon(config.norm_eps)?;
        expect::divisor(config.gate_cap)?;
        let (keys, values) = (num_heads * key_dim, num_heads * value_dim);
        let rows = [("q", keys), ("k", keys), ("v", values), ("ogate", values)];
        let gates = [("igate", num_heads), ("fgate", num_heads)];
        Ok(Self {
            projection: source.stacked(&rows, model_dim, config.bias)?,
            gates: Linear::new(
                source.stacked(&gates, model_dim, false)?.weight().clone(),
                Some(gate_bias(config, source)?),
            )?,
            norm: NormWeights {
                gate: None,
                weight: Some(source.vector("norm.weight", values, Init::Ones)?),
                bias: match config.bias {
                    true => Some(source.vector("norm.bias", values, Init::Zeros)?),
                    false => None,
                },
            },
            out: source.linear("out_proj", [model_dim, values], config.bias)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> MlstmConfig {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        let MlstmConfig {
            num_heads,
            key_dim,
            value_dim,
            ..
        } = self.config;
        Site {
            has_step_size: false,
            ..Site::weighted_sum(layer, num_heads, key_dim, value_dim + 1)
        }
    }

    /// i and ln σ(f) of every token and head.
    fn input_and_forget(&self, input: &Tensor<3>) -> Result<[Tensor<3>; 2]> {
        let (heads, cap) = (self.config.num_heads, self.config.gate_cap);
        let both = self.gates.forward(input.clone())?;
        let capped = tanh(both / cap) * cap;
        let [input, forget] = split(capped, [heads; 2])?;
        Ok([input, log_sigmoid(forget, 1.0)?])
    }

    /// The norm of every head's read-out, its gate, and the projection.
    fn output(&self, read_out: Tensor<4>, gate: Tensor<3>) -> Result<Tensor<3>> {
        let [batch, time, heads, value_dim] = read_out.dims();
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: self.config.norm_eps,
            group_size: value_dim,
            order: GateOrder::NormAfterGate,
        };
        let rows = read_out.reshape([batch, time, heads * value_dim]);
        let normed = gated_norm(rows, self.norm.clone(), plan)?;
        self.out.forward(sigmoid_gate(gate, normed))
    }
}

/// The biases of input gates, then those of forget gates, which a fresh layer has forget little: from 3 to 6.
fn gate_bias<S: WeightSource>(config: MlstmConfig, source: &mut S) -> Result<Tensor<1>, S::Error> {
    let heads = config.num_heads;
    if config.joint_gates {
        let both = |index: usize, count: usize| match index.checked_sub(count / 2) {
            None => 0.0,
            Some(head) => fresh_forget_bias(head, count / 2),
        };
        return source.vector("igate.bias", 2 * heads, Init::Values(both));
    }
    let input = source.vector("igate.bias", heads, Init::Zeros)?;
    let forget = source.vector("fgate.bias", heads, Init::Values(fresh_forget_bias))?;
    Ok(Tensor::cat(vec![input, forget], 0))
}

fn fresh_forget_bias(head: usize, heads: usize) -> f32 {
    3.0 + 3.0 * head as f32 / (heads.max(2) - 1) as f32
}

/// m of every token, `[batch, time, heads]`, from `before`, `[batch, heads, 1]`: m_t = max(log_forget_t + m_{t-1}, input_t).
fn maxima(input: Tensor<3>, log_forget: &Tensor<3>, before: &Tensor<3>) -> Tensor<3> {
    let [_, time, _] = input.dims();
    let (mut largest, mut forgotten) = (input, log_forget.clone());
    let mut span = 1;
    // After each round both are those of the span of tokens that ends with the one at hand.
    while span < time {
        let rest = time - span;
        let [earlier, earlier_forgotten] = [&largest, &forgotten].map(|x| x.clone().narrow(1, 0, rest));
        let late_forgotten = forgotten.clone().narrow(1, span, rest);
        let late = largest.clone().narrow(1, span, rest);
        let late = late.max_pair(earlier + late_forgotten.clone());
        largest = Tensor::cat(vec![largest.narrow(1, 0, span), late], 1);
        let late_forgotten = late_forgotten + earlier_forgotten;
        forgotten = Tensor::cat(vec![forgotten.narrow(1, 0, span), late_forgotten], 1);
        span *= 2;
    }
    largest.max_pair(forgotten + before.clone().swap_dims(1, 2))
}

impl Mixer for Mlstm {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let mut state = RecurrentState::start(Vec::new(), &self.sites(layer), chain, batch, device);
        state
            .carried
            .push(Tensor::zeros([batch, self.config.num_heads, 1], device));
        MixerState::Recurrent(state)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let MlstmConfig {
            num_heads,
            key_dim,
            value_dim,
            eps,
            ..
        } = self.config;
        let [batch, time, _] = input.dims();
        if time == 0 {
            return Ok(input);
        }
        let state = state.recurrent()?;
        let [input_gate, log_forget] = self.input_and_forget(&input)?;
        let (keys, values) = (num_heads * key_dim, num_heads * value_dim);
        let [query, key, value, gate] = split(self.projection.forward(input)?, [keys, keys, values, values])?;

        let before = state.carried(0)?;
        let maximum = maxima(input_gate.clone(), &log_forget, before);
        let first = before.clone().swap_dims(1, 2);
        let earlier = match time {
            1 => first,
            _ => Tensor::cat(vec![first, maximum.clone().narrow(1, 0, time - 1)], 1),
        };
        *before = maximum.clone().narrow(1, time - 1, 1).swap_dims(1, 2);

        let weight = exp(input_gate - maximum.clone()).unsqueeze_dim::<4>(3);
        let value = heads::split(value, num_heads);
        let ones = Tensor::ones([batch, time, num_heads, 1], &value.device());
        let gates = Gates {
            log_decay: LogDecay::PerHeadToken(log_forget + earlier - maximum.clone()),
            scale: (key_dim as f32).powf(-0.5),
            ..Gates::new(
                heads::split(query, num_heads),
                heads::split(key, num_heads) * weight,
                Tensor::cat(vec![value, ones], 3),
            )
        };
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;

        let written = read_out.clone().narrow(3, value_dim, 1).abs();
        let least = exp(maximum.neg()).unsqueeze_dim::<4>(3);
        let divisor = written.max_pair(least) + eps;
        self.output(read_out.narrow(3, 0, value_dim) / divisor, gate)
    }

    fn flops_per_token(&self) -> u64 {
        let MlstmConfig {
            num_heads,
            key_dim,
            value_dim,
            ..
        } = self.config;
        6 * (num_heads * key_dim * (value_dim + 1)) as u64
    }
}
