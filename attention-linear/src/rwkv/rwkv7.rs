//! Time mixing of RWKV-7: a delta rule with vector-valued gates.
//!
//! With one interpolation x̃ per projection and κ̂ the L2-normalised κ = k ∘ ξ of each head:
//!
//! ```text
//! log w_t = −e^{−1/2} σ(LoRA(x̃ʷ))          a = σ(LoRA(x̃ᵃ))          g = LoRA(x̃ᵍ)          k̃ = k ∘ (1 + (a − 1) ∘ α)
//! S_t = diag(w_t) S_{t−1} − (κ̂ ∘ a) (κ̂ᵀ S_{t−1}) + k̃ ṽᵀ          y_t = r_tᵀ S_t
//! out = W_o ((GroupNorm(y) + (Σ r ∘ k̃ ∘ ρ) ṽ) ∘ g)
//! ```
//!
//! where κ̂ᵀ reads the state before it decays, and ṽ = v + (v¹ − v) ∘ σ(LoRA(x̃ᵛ)) mixes in the first layer's values v¹
//! (ṽ = v in that layer). Source: Peng et al., *RWKV-7* (2503.14456), section 4.

use super::fresh::{Depth, FreshShare};
use super::heads::{HeadNorm, HeadShape};
use super::low_rank::{LowRank, LowRankActivation, LowRankShape};
use super::shift::{TokenShift, interpolate, start};
use super::source::RwkvSource;
use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::gated_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::{
    Chain, Context, Erase, Error, Gates, Init, Linear, LogDecay, Mixer, MixerState, Result, Rule, Shared,
    Site,
};

/// −e^{−1/2}: the log decay of the fastest forgetting.
const MIN_LOG_DECAY: f32 = -0.606_530_66;

/// The shape of a time mixer of RWKV-7.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rwkv7Config {
    /// Number and widths of the mixer's heads.
    pub shape: HeadShape,
    /// Rank of the decay.
    pub decay_rank: usize,
    /// Rank of the in-context learning rate.
    pub rate_rank: usize,
    /// Rank of the gate.
    pub gate_rank: usize,
    /// Rank of the share of the first layer's values; that layer has none.
    pub value_rank: usize,
    /// ε of the norm of the heads' read-outs.
    pub norm_eps: f32,
    /// Added to the sum of squares of κ under the root.
    pub removal_eps: f32,
    /// The mixer's layer, and how many layers the model has.
    pub depth: Depth,
}

/// One time mixer of RWKV-7.
#[derive(Clone, Debug)]
pub struct Rwkv7 {
    config: Rwkv7Config,
    receptance_shift: TokenShift,
    decay_shift: TokenShift,
    key_shift: TokenShift,
    /// What value and value residual read.
    value_shift: TokenShift,
    rate_shift: TokenShift,
    gate_shift: TokenShift,
    /// LoRA(x̃ʷ), which gives the log decay log w through σ.
    decay: LowRank,
    /// LoRA(x̃ᵃ), which gives the rate a through σ.
    rate: LowRank,
    /// LoRA(x̃ᵍ), which gives the gate g.
    gate: LowRank,
    /// The share of the first layer's values before σ; `None` in the first layer.
    value_residual: Option<LowRank>,
    /// The projection to r, `[keys, model_dim]`.
    receptance: Linear,
    /// The projection to k, `[keys, model_dim]`.
    key: Linear,
    /// The projection to v, `[values, model_dim]`.
    value: Linear,
    /// W_o, the projection of the gated read-outs, `[model_dim, values]`.
    output: Linear,
    /// ξ of κ = k ∘ ξ, `[keys]`.
    removal_key: Tensor<1>,
    /// α of k̃ = k ∘ (1 + (a − 1) ∘ α), `[keys]`.
    rate_on_key: Tensor<1>,
    /// ρ of the current token's bonus (Σ r ∘ k̃ ∘ ρ) ṽ, `[heads, key_dim]`.
    bonus: Tensor<2>,
    norm: HeadNorm,
}

/// What the recurrence and the output of a call need.
struct Projected {
    receptance: Tensor<3>,
    log_decay: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    /// κ̂, which reads from the state what is to be removed, `[batch, time, keys]`.
    removal: Tensor<3>,
    /// κ̂ ∘ a, along which it is removed, `[batch, time, keys]`.
    replacement: Tensor<3>,
    gate: Tensor<3>,
}

impl Rwkv7 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `x_r`, `x_w`, `x_k`, `x_v`, `x_a`, `x_g` | interpolations of `model_dim`, that of the value read by its residual, too |
    /// | `w`, `a` | `model_dim` to keys, of low rank, with offsets; w has tanh between |
    /// | `g` | `model_dim` to values, of low rank, with σ between |
    /// | `v`, but in the first layer | `model_dim` to values, of low rank, with an offset |
    /// | `receptance`, `key` | keys × `model_dim` |
    /// | `value` | values × `model_dim` |
    /// | `output` | `model_dim` × values |
    /// | `k_k`, ξ; `k_a`, α | keys |
    /// | `r_k`, ρ | heads × `key_dim` |
    /// | `ln_x.weight`, `ln_x.bias` | values |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another shape.
    pub fn read<S: RwkvSource>(config: Rwkv7Config, source: &mut S) -> Result<Self, S::Error> {
        let (shape, depth) = (config.shape, config.depth);
        shape.validate()?;
        expect::epsilon(config.removal_eps)?;
        let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
        let height = depth.height();
        let fresh = |power: f32| FreshShare {
            power: power * height,
            offset: 0.0,
        };
        let fresh_norm = ((depth.layer + 1) as f32 / depth.layers as f32).powf(0.7);
        Ok(Self {
            config,
            receptance_shift: source.shift("x_r", width, fresh(0.2))?,
            decay_shift: source.shift("x_w", width, fresh(0.9))?,
            key_shift: source.shift("x_k", width, fresh(0.7))?,
            value_shift: source.shift("x_v", width, fresh(0.7))?,
            rate_shift: source.shift("x_a", width, fresh(0.9))?,
            gate_shift: source.shift("x_g", width, fresh(0.2))?,
            decay: config.decay(source)?,
            rate: config.rate(source)?,
            gate: config.gate(source)?,
            value_residual: match depth.layer {
                0 => None,
                _ => Some(config.value_residual(source)?),
            },
            receptance: source.linear("receptance", [keys, width], false)?,
            key: source.linear("key", [keys, width], false)?,
            value: source.linear("value", [values, width], false)?,
            output: source.linear("output", [width, values], false)?,
            removal_key: source.vector("k_k", keys, line(0.76, 0.66))?,
            rate_on_key: source.vector("k_a", keys, Init::Constant(1.02))?,
            bonus: source.tensor("r_k", [shape.heads, shape.key_dim], Init::Constant(-0.04))?,
            norm: HeadNorm::read(&shape, config.norm_eps, Init::Constant(fresh_norm), source)?,
        })
    }

    fn site(&self, layer: usize) -> Site {
        Site {
            rule: Rule::Delta,
            ..self.config.shape.site(layer)
        }
    }

    fn project(&self, input: &Tensor<3>, tap: &mut Tensor<3>, shared: &mut Shared) -> Result<Projected> {
        let [receptance, decay, key, value, rate, gate] = interpolate(
            [
                &self.receptance_shift,
                &self.decay_shift,
                &self.key_shift,
                &self.value_shift,
                &self.rate_shift,
                &self.gate_shift,
            ],
            input,
            tap,
        )?;
        let log_decay = sigmoid(self.decay.forward(decay)?).mul_scalar(MIN_LOG_DECAY);
        let rate = sigmoid(self.rate.forward(rate)?);
        let key = self.key.forward(key)?;
        let removal = self.removal(&key)?;
        let scaled = rate
            .clone()
            .sub_scalar(1.0)
            .mul(row(&self.rate_on_key))
            .add_scalar(1.0);
        Ok(Projected {
            receptance: self.receptance.forward(receptance)?,
            log_decay,
            key: key * scaled,
            value: self.value(value, shared)?,
            replacement: removal.clone() * rate,
            removal,
            gate: self.gate.forward(gate)?,
        })
    }

    /// κ̂, `[batch, time, keys]`.
    fn removal(&self, key: &Tensor<3>) -> Result<Tensor<3>> {
        let plan = NormPlan {
            statistic: Statistic::SumOfSquares,
            eps: self.config.removal_eps,
            group_size: self.config.shape.key_dim,
            order: GateOrder::NormBeforeGate,
        };
        gated_norm(key.clone() * row(&self.removal_key), NormWeights::default(), plan)
    }

    /// ṽ; the first layer leaves its values for the others.
    fn value(&self, shifted: Tensor<3>, shared: &mut Shared) -> Result<Tensor<3>> {
        let value = self.value.forward(shifted.clone())?;
        let Some(residual) = &self.value_residual else {
            shared.value_residual = Some(value.clone());
            return Ok(value);
        };
        let Some(first) = shared.value_residual.clone() else {
            return Err(Error::Value {
                what: "values of the first layer",
                expected: "left by an RWKV-7 layer before this one",
                found: "none".into(),
            });
        };
        expect::shape("values of the first layer", &value.dims(), &first.dims())?;
        let share = sigmoid(residual.forward(shifted)?);
        Ok((first - value.clone()) * share + value)
    }

    /// (Σ r ∘ k̃ ∘ ρ) ṽ, `[batch, time, values]`: what the current token adds to its own read-out.
    fn bonus(&self, projected: &Projected) -> Tensor<3> {
        let [batch, time, values] = projected.value.dims();
        let products = projected.receptance.clone()
            * projected.key.clone()
            * self.bonus.clone().reshape([1, 1, self.config.shape.keys()]);
        let weight = self.config.shape.split_keys(products).sum_dim(3);
        (self.config.shape.split_values(projected.value.clone()) * weight).reshape([batch, time, values])
    }

    fn gates(&self, projected: Projected) -> Gates {
        let keys = |tensor| self.config.shape.split_keys(tensor);
        Gates {
            log_decay: LogDecay::PerKeyToken(keys(projected.log_decay)),
            erase: Erase::LowRank {
                p: keys(projected.removal.neg()),
                b: keys(projected.replacement),
            },
            ..Gates::new(
                keys(projected.receptance),
                keys(projected.key),
                self.config.shape.split_values(projected.value),
            )
        }
    }
}

impl Mixer for Rwkv7 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        start(
            self.config.shape.model_dim,
            self.site(layer),
            batch,
            chain,
            device,
        )
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        if input.dims()[1] == 0 {
            // Burn cannot sum over heads of no tokens.
            return Ok(input);
        }
        let state = state.recurrent()?;
        let projected = self.project(&input, state.conv_state(0)?, context.shared)?;
        let (bonus, gate) = (self.bonus(&projected), projected.gate.clone());
        let read_out = context.chain.run(
            &self.site(context.layer),
            self.gates(projected),
            state.recurrence(0)?,
            context.chunking,
        )?;
        let normed = self.norm.forward(read_out, None)?;
        self.output.forward((normed + bonus) * gate)
    }

    /// Decay, read by κ̂, both writes and the read-out of every state element.
    fn flops_per_token(&self) -> u64 {
        10 * self.config.shape.state_len()
    }
}

impl Rwkv7Config {
    fn low_rank(&self, rank: usize, out_features: usize, activation: LowRankActivation) -> LowRankShape {
        LowRankShape {
            in_features: self.shape.model_dim,
            rank,
            out_features,
            activation,
        }
    }

    fn decay<S: RwkvSource>(&self, source: &mut S) -> Result<LowRank, S::Error> {
        let offset = Init::Ramp {
            from: -6.5,
            to: -1.5,
            power: 0.85 + self.depth.ratio().sqrt(),
        };
        let shape = self.low_rank(self.decay_rank, self.shape.keys(), LowRankActivation::Tanh);
        source.low_rank("w", shape, Some(offset))
    }

    fn rate<S: RwkvSource>(&self, source: &mut S) -> Result<LowRank, S::Error> {
        let shape = self.low_rank(self.rate_rank, self.shape.keys(), LowRankActivation::None);
        source.low_rank("a", shape, Some(line(-0.39, 0.01)))
    }

    fn gate<S: RwkvSource>(&self, source: &mut S) -> Result<LowRank, S::Error> {
        let shape = self.low_rank(self.gate_rank, self.shape.values(), LowRankActivation::Sigmoid);
        source.low_rank("g", shape, None)
    }

    fn value_residual<S: RwkvSource>(&self, source: &mut S) -> Result<LowRank, S::Error> {
        let shape = self.low_rank(self.value_rank, self.shape.values(), LowRankActivation::None);
        source.low_rank("v", shape, Some(line(0.93, 0.53)))
    }
}

/// Initial values linear in the channel: `from` at the first, `to` at the last.
fn line(from: f32, to: f32) -> Init {
    Init::Ramp { from, to, power: 1.0 }
}

/// A vector as a row of every token.
fn row(vector: &Tensor<1>) -> Tensor<3> {
    vector.clone().unsqueeze()
}
