//! The mixer of Mamba-3 with one input and one output per head (SISO).
//!
//! One projection gives z, x, B, C and, per head, raw step size, decay rate and λ, and angles that all heads share:
//!
//! ```text
//! Δ = softplus(raw + bias)        A = −max(f(raw), floor)        α = e^{ΔA}        λ = σ(raw)
//! B, C = RMSNorm(B), RMSNorm(C), plus biases per head, their neighbouring pairs turned by φ_t = φ_{t−1} + Δ_t π tanh(angle)
//! S_t = α_t S_{t−1} + (1 − λ_t) Δ_t α_t B_{t−1} x_{t−1}ᵀ + λ_t Δ_t B_t x_tᵀ          y_t = C_tᵀ S_t + D x_t
//! out = W_out (y ∘ SiLU(z)),  or W_out (RMSNorm(y) ∘ SiLU(z)) with the norm over each head
//! ```
//!
//! S takes a token in over two steps (the trapezoidal rule). With w_t = λ_t Δ_t + (1 − λ_{t+1}) Δ_{t+1} it is
//!
//! ```text
//! U_t = α_t U_{t−1} + α_t w_{t−1} B_{t−1} x_{t−1}ᵀ          y_t = C_tᵀ U_t + λ_t Δ_t (C_t·B_t) x_t + D x_t
//! ```
//!
//! that is, the recurrence of Mamba-2 over the tokens before, of which the last one is carried, and a diagonal term. Interventions act on
//! U: what they make of a token, they make one step late, and its own read-out stays as it is.
//!
//! f is softplus in flash-linear-attention, and x + 1 for x ≥ 0, 1 / (1 − x) below in the authors' code. Angles are carried as cosine and
//! sine, so that no text is too long for them. Source: Lahoti et al., *Mamba-3: improved sequence modeling using state space principles*.

use crate::error::{Error, Result};
use crate::gates::{Gates, LogDecay};
use crate::intervention::{Chain, Site};
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic, expect_epsilon, gated_norm};
use crate::operators::pointwise::{exp, sigmoid, silu_gate, tanh};
use crate::operators::{split, step_size};
use crate::weights::{Init, StepSizes, WeightSource};
use burn::tensor::{Device, Tensor, activation::relu};
use std::f32::consts::PI;

/// The configuration of a mixer of Mamba-3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mamba3Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// H, the number of heads.
    pub num_heads: usize,
    /// Columns P of a head's state.
    pub head_dim: usize,
    /// Rows N of a head's state.
    pub state_dim: usize,
    /// Groups that share B and C.
    pub num_groups: usize,
    /// Pairs of B and C that are turned, the first ones; at most N / 2.
    pub angles: usize,
    /// f, which makes the decay rate of the raw one.
    pub decay: DecayMap,
    /// The least decay rate.
    pub decay_floor: f32,
    /// ε of all norms of the mixer.
    pub norm_eps: f32,
    /// Whether the read-out is normalised.
    pub read_out_norm: bool,
    /// Whether the projections have biases.
    pub projection_bias: bool,
    /// Step sizes of a fresh layer.
    pub fresh_steps: StepSizes,
    /// Layers of the model, whose updates add up on its residual stream: a fresh W_out is the narrower the more there are.
    pub num_layers: usize,
}

/// What makes a decay rate of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecayMap {
    /// ln(1 + e^x).
    Softplus,
    /// x + 1 for x ≥ 0, 1 / (1 − x) below.
    HeavyTail,
}

impl Mamba3Config {
    /// H · P, the width of x and z.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Rows of the input projection: z, x, B, C, Δ, A, λ and the angles.
    pub fn projection_dim(&self) -> usize {
        let of_groups = 2 * self.num_groups * self.state_dim;
        2 * self.inner_dim() + of_groups + 3 * self.num_heads + self.angles
    }

    fn validate(&self) -> Result<()> {
        let (heads, groups) = (self.num_heads, self.num_groups);
        let sizes = [self.model_dim, heads, self.head_dim, self.state_dim, groups];
        if sizes.contains(&0) || self.angles == 0 || 2 * self.angles > self.state_dim {
            return Err(Error::Value {
                what: "dimensions of a Mamba-3 mixer",
                expected: "all at least 1, and of angles at most half the rows of a state",
                found: format!("{self:?}"),
            });
        }
        if !heads.is_multiple_of(groups) {
            return Err(Error::Groups { heads, groups });
        }
        expect_epsilon(self.norm_eps)
    }
}

/// A Mamba-3 mixer with one input and one output per head: a recurrence between projections.
#[derive(Clone, Debug)]
pub struct Mamba3 {
    config: Mamba3Config,
    in_proj: Linear,
    dt_bias: Tensor<1>,
    /// Weights of the norms of B and C, `[groups · state_dim]`, the same for every group.
    norms: [Tensor<1>; 2],
    /// Biases of B and C, `[1, 1, heads, state_dim]`.
    biases: [Tensor<4>; 2],
    /// D, `[1, 1, heads, 1]`.
    skip: Tensor<4>,
    read_out_norm: Option<Tensor<1>>,
    out_proj: Linear,
}

/// What the recurrence takes in.
#[derive(Clone, Debug)]
pub struct SisoInputs {
    /// C before it is turned, `[batch, time, heads, state_dim]`.
    pub query: Tensor<4>,
    /// B before it is turned, `[batch, time, heads, state_dim]`.
    pub key: Tensor<4>,
    /// x, `[batch, time, heads, head_dim]`.
    pub value: Tensor<4>,
    /// ln α, `[batch, time, heads]`.
    pub log_decay: Tensor<3>,
    /// Δ, `[batch, time, heads]`.
    pub step: Tensor<3>,
    /// λ, `[batch, time, heads]`.
    pub share: Tensor<3>,
    /// φ_t − φ_{t−1}, the angles in radians by which a token is turned further, `[batch, time, heads, angles]`.
    pub turn: Tensor<4>,
    /// D, `[1, 1, heads, 1]`.
    pub skip: Tensor<4>,
}

/// What is carried of the last token beside U, each `[batch, heads, ·]`.
#[derive(Clone, Debug)]
pub struct LastToken {
    /// B of the last token, turned, `[batch, heads, state_dim]`.
    pub key: Tensor<3>,
    /// x of the last token, `[batch, heads, head_dim]`.
    pub value: Tensor<3>,
    /// λ Δ of the last token, `[batch, heads, 1]`.
    pub weight: Tensor<3>,
    /// cos φ of the last token, `[batch, heads, angles]`.
    pub cosine: Tensor<3>,
    /// sin φ of the last token, `[batch, heads, angles]`.
    pub sine: Tensor<3>,
}

impl LastToken {
    /// Before the first token.
    fn none(config: &Mamba3Config, batch: usize, device: &Device) -> Self {
        let shape = |width: usize| [batch, config.num_heads, width];
        Self {
            key: Tensor::zeros(shape(config.state_dim), device),
            value: Tensor::zeros(shape(config.head_dim), device),
            weight: Tensor::zeros(shape(1), device),
            cosine: Tensor::ones(shape(config.angles), device),
            sine: Tensor::zeros(shape(config.angles), device),
        }
    }

    fn into_list(self) -> Vec<Tensor<3>> {
        vec![self.key, self.value, self.weight, self.cosine, self.sine]
    }

    /// Taken out of a state, to be put back.
    fn take(state: &mut RecurrentState) -> Result<Self> {
        let found = state.carried.len();
        let carried: std::result::Result<[Tensor<3>; 5], _> = std::mem::take(&mut state.carried).try_into();
        match carried {
            Ok([key, value, weight, cosine, sine]) => Ok(Self {
                key,
                value,
                weight,
                cosine,
                sine,
            }),
            Err(_) => Err(Error::Value {
                what: "state of a layer",
                expected: "the one that this layer started",
                found: format!("{found} tensors that a mixer carries"),
            }),
        }
    }
}

/// y of every token, `[batch, time, heads, head_dim]`; there is at least one token. `run` is the recurrence of U, which carries U from call
/// to call, and gives its read-out.
///
/// # Errors
/// Whatever `run` gives.
pub fn siso(
    inputs: SisoInputs,
    last: &mut LastToken,
    run: impl FnOnce(Gates) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let of_own = (inputs.share * inputs.step.clone()).unsqueeze_dim::<4>(3);
    let of_last = inputs.step.unsqueeze_dim::<4>(3) - of_own.clone();
    let turn = Turn::of(inputs.turn, last);
    let (query, key) = (turn.apply(inputs.query), turn.apply(inputs.key));
    let before = shifted(of_own.clone(), &mut last.weight);
    let decay = exp(inputs.log_decay.clone()).unsqueeze_dim::<4>(3);
    let meeting = (query.clone() * key.clone()).sum_dim(3);
    let diagonal = (meeting * of_own + inputs.skip) * inputs.value.clone();
    let gates = Gates {
        log_decay: LogDecay::PerHeadToken(inputs.log_decay),
        ..Gates::new(
            query,
            shifted(key, &mut last.key),
            shifted(inputs.value, &mut last.value) * (before + of_last) * decay,
        )
    };
    Ok(run(gates)? + diagonal)
}

impl Mamba3 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `in_proj` | `projection_dim` × `model_dim`, rows in the order z, x, B, C, Δ, A, λ, angles |
    /// | `dt_bias`; `D` | `num_heads` |
    /// | `B_norm.weight`; `C_norm.weight` | `state_dim` |
    /// | `B_bias`; `C_bias` | `num_heads` × 1 × `state_dim` |
    /// | `norm.weight`, where the read-out is normalised | `inner_dim` |
    /// | `out_proj` | `model_dim` × `inner_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for groups that do not divide the heads, [`Error::Value`] for a dimension of 0, too many angles or a negative ε;
    /// the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: Mamba3Config, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
        let Mamba3Config {
            model_dim,
            num_heads: heads,
            state_dim,
            num_groups: groups,
            projection_bias,
            ..
        } = config;
        let inner = config.inner_dim();
        let in_proj = source.linear("in_proj", [config.projection_dim(), model_dim], projection_bias)?;
        let dt_bias = source.vector("dt_bias", heads, Init::StepBias(config.fresh_steps))?;
        let mut norm = |name: &str| {
            let weight = source.vector(&format!("{name}_norm.weight"), state_dim, Init::Ones)?;
            Ok::<_, S::Error>(weight.repeat(&[groups]))
        };
        let norms = [norm("B")?, norm("C")?];
        let mut bias = |name: &str| {
            let bias = source.tensor(&format!("{name}_bias"), [heads, 1, state_dim], Init::Ones)?;
            Ok::<_, S::Error>(bias.reshape([1, 1, heads, state_dim]))
        };
        let biases = [bias("B")?, bias("C")?];
        Ok(Self {
            config,
            in_proj,
            dt_bias,
            norms,
            biases,
            skip: source.vector("D", heads, Init::Ones)?.reshape([1, 1, heads, 1]),
            read_out_norm: match config.read_out_norm {
                true => Some(source.vector("norm.weight", inner, Init::Ones)?),
                false => None,
            },
            out_proj: source.linear_with(
                "out_proj",
                [model_dim, inner],
                projection_bias,
                Init::fan_in(inner * config.num_layers),
            )?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> Mamba3Config {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        let Mamba3Config {
            num_heads,
            state_dim,
            head_dim,
            ..
        } = self.config;
        Site::weighted_sum(layer, num_heads, state_dim, head_dim)
    }

    /// The norm of B or C over each group, for every head with its bias.
    fn keys(&self, index: usize, raw: Tensor<3>) -> Result<Tensor<4>> {
        let Mamba3Config {
            num_heads: heads,
            state_dim,
            num_groups: groups,
            ..
        } = self.config;
        let [batch, time, _] = raw.dims();
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: self.config.norm_eps,
            group_size: state_dim,
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            weight: Some(self.norms[index].clone()),
            ..NormWeights::default()
        };
        let of_groups = gated_norm(raw, weights, plan)?.reshape([batch, time, groups, 1, state_dim]);
        let of_heads = of_groups.repeat_dim(3, heads / groups);
        Ok(of_heads.reshape([batch, time, heads, state_dim]) + self.biases[index].clone())
    }

    /// The decay rates −A of numbers `[batch, time, heads]`.
    fn rates(&self, raw: Tensor<3>) -> Result<Tensor<3>> {
        let rates = match self.config.decay {
            DecayMap::Softplus => {
                let zeros = Tensor::zeros([raw.dims()[2]], &raw.device());
                step_size(raw, zeros.clone(), zeros, (0.0, f32::INFINITY))?.0
            }
            DecayMap::HeavyTail => {
                let below = relu(raw.clone().neg()).add_scalar(1.0).recip();
                relu(raw) + below
            }
        };
        Ok(rates.clamp_min(self.config.decay_floor))
    }

    /// x, B, C, Δ, A, λ and the angles as the recurrence takes them.
    fn inputs(&self, parts: [Tensor<3>; 7]) -> Result<SisoInputs> {
        let Mamba3Config {
            num_heads: heads,
            head_dim,
            ..
        } = self.config;
        let [x, key, query, raw_step, raw_rate, raw_share, angle] = parts;
        let [batch, time, _] = x.dims();
        let none = Tensor::zeros([heads], &x.device());
        let (step, _) = step_size(raw_step, self.dt_bias.clone(), none, (0.0, f32::INFINITY))?;
        let speed = tanh(angle).mul_scalar(PI).unsqueeze_dim::<4>(2);
        Ok(SisoInputs {
            query: self.keys(1, query)?,
            key: self.keys(0, key)?,
            value: x.reshape([batch, time, heads, head_dim]),
            log_decay: (self.rates(raw_rate)? * step.clone()).neg(),
            share: sigmoid(raw_share),
            turn: speed * step.clone().unsqueeze_dim::<4>(3),
            step,
            skip: self.skip.clone(),
        })
    }

    fn gated(&self, read_out: Tensor<3>, gate: Tensor<3>) -> Result<Tensor<3>> {
        let Some(weight) = &self.read_out_norm else {
            return Ok(silu_gate(gate, read_out));
        };
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: self.config.norm_eps,
            group_size: self.config.head_dim,
            order: GateOrder::NormBeforeGate,
        };
        let weights = NormWeights {
            gate: Some(gate),
            weight: Some(weight.clone()),
            bias: None,
        };
        gated_norm(read_out, weights, plan)
    }
}

/// cos φ and sin φ of every token, `[batch, time, heads, angles]`.
struct Turn {
    cosine: Tensor<4>,
    sine: Tensor<4>,
}

impl Turn {
    /// φ from what is carried of it, and how much further every token turns; what is carried moves on.
    fn of(turn: Tensor<4>, carried: &mut LastToken) -> Self {
        let sum = turn.cumsum(1);
        let (cosine, sine) = (sum.clone().cos(), sum.sin());
        let c = carried.cosine.clone().unsqueeze_dim::<4>(1);
        let s = carried.sine.clone().unsqueeze_dim::<4>(1);
        let turn = Self {
            cosine: c.clone() * cosine.clone() - s.clone() * sine.clone(),
            sine: s * cosine + c * sine,
        };
        let (c, s) = (last(&turn.cosine), last(&turn.sine));
        // Rounding would make the two longer or shorter, token by token.
        let length = (c.clone() * c.clone() + s.clone() * s.clone()).sqrt();
        carried.cosine = c / length.clone();
        carried.sine = s / length;
        turn
    }

    /// The first pairs of `[batch, time, heads, state_dim]` turned.
    fn apply(&self, input: Tensor<4>) -> Tensor<4> {
        let [batch, time, heads, width] = input.dims();
        let angles = self.cosine.dims()[3];
        let pairs = input.clone().narrow(3, 0, 2 * angles);
        let pairs = pairs.reshape([batch, time, heads, angles, 2]);
        let of_pair = |index: usize| {
            let part = pairs.clone().narrow(4, index, 1);
            part.reshape([batch, time, heads, angles])
        };
        let (a, b) = (of_pair(0), of_pair(1));
        let first = a.clone() * self.cosine.clone() - b.clone() * self.sine.clone();
        let second = b * self.cosine.clone() + a * self.sine.clone();
        let turned = Tensor::stack::<5>(vec![first, second], 4).reshape([batch, time, heads, 2 * angles]);
        match width - 2 * angles {
            0 => turned,
            rest => Tensor::cat(vec![turned, input.narrow(3, 2 * angles, rest)], 3),
        }
    }
}

/// The last token of `[batch, time, heads, ·]`.
fn last(tensor: &Tensor<4>) -> Tensor<3> {
    let [batch, time, heads, width] = tensor.dims();
    let last = tensor.clone().narrow(1, time - 1, 1);
    last.reshape([batch, heads, width])
}

/// Every token's predecessor in `[batch, time, heads, ·]`; what is carried, `[batch, heads, ·]`, is that of the first and becomes the last.
fn shifted(tensor: Tensor<4>, carried: &mut Tensor<3>) -> Tensor<4> {
    let time = tensor.dims()[1];
    let first = std::mem::replace(carried, last(&tensor)).unsqueeze_dim::<4>(1);
    match time {
        1 => first,
        _ => Tensor::cat(vec![first, tensor.narrow(1, 0, time - 1)], 1),
    }
}

impl Mixer for Mamba3 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        MixerState::Recurrent(RecurrentState {
            carried: LastToken::none(&self.config, batch, device).into_list(),
            ..RecurrentState::start(Vec::new(), &self.sites(layer), chain, batch, device)
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
        if batch * time == 0 {
            return Ok(input);
        }
        let (inner, heads) = (config.inner_dim(), config.num_heads);
        let of_groups = config.num_groups * config.state_dim;
        let state = state.recurrent()?;
        let widths = [
            inner,
            inner,
            of_groups,
            of_groups,
            heads,
            heads,
            heads,
            config.angles,
        ];
        let [gate, parts @ ..] = split(self.in_proj.forward(input)?, widths)?;
        let (inputs, site) = (self.inputs(parts)?, self.site(context.layer));
        let mut last = LastToken::take(state)?;
        let read_out = siso(inputs, &mut last, |gates| {
            let (chain, chunking) = (context.chain, context.chunking);
            chain.run(&site, gates, state.recurrence(0)?, chunking)
        })?;
        state.carried = last.into_list();
        let read_out = read_out.reshape([batch, time, inner]);
        self.out_proj.forward(self.gated(read_out, gate)?)
    }

    fn flops_per_token(&self) -> u64 {
        6 * (self.config.inner_dim() * self.config.state_dim) as u64
    }
}
