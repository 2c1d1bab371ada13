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

use super::gated_heads::start;
use super::heads::{HeadNorm, HeadShape};
use super::low_rank::LowRank;
use super::shift::{TokenShift, interpolate};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::operators::gated_norm;
use ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use ssm_core::operators::pointwise::sigmoid;
use ssm_core::{
    Chain, Context, Erase, Error, Gates, Linear, LogDecay, Mixer, MixerState, Result, Rule, Shared, Site,
};

/// −e^{−1/2}: the log decay of the fastest forgetting.
const MIN_LOG_DECAY: f32 = -0.606_530_66;

/// The weights of a time mixer of RWKV-7.
#[derive(Clone, Debug)]
pub struct Rwkv7Weights {
    /// Interpolation that the receptance reads.
    pub receptance_shift: TokenShift,
    /// Interpolation that the decay reads.
    pub decay_shift: TokenShift,
    /// Interpolation that the key reads.
    pub key_shift: TokenShift,
    /// Interpolation that value and value residual read.
    pub value_shift: TokenShift,
    /// Interpolation that the in-context learning rate reads.
    pub rate_shift: TokenShift,
    /// Interpolation that the gate reads.
    pub gate_shift: TokenShift,
    /// r, `[keys, model_dim]`.
    pub receptance: Linear,
    /// k, `[keys, model_dim]`.
    pub key: Linear,
    /// v, `[values, model_dim]`.
    pub value: Linear,
    /// W_o, `[model_dim, values]`.
    pub output: Linear,
    /// w before σ, `model_dim` to `keys`, with tanh between.
    pub decay: LowRank,
    /// a before σ, `model_dim` to `keys`.
    pub rate: LowRank,
    /// g, `model_dim` to `values`, with σ between.
    pub gate: LowRank,
    /// The share of the first layer's values before σ, `model_dim` to `values`; `None` in the first layer.
    pub value_residual: Option<LowRank>,
    /// ξ, `[keys]` (`k_k`).
    pub removal_key: Tensor<1>,
    /// α, `[keys]` (`k_a`).
    pub rate_on_key: Tensor<1>,
    /// ρ, `[heads, key_dim]` (`r_k`).
    pub bonus: Tensor<2>,
    /// Added to the sum of squares of κ under the root.
    pub removal_eps: f32,
    /// The norm of the heads' read-outs.
    pub norm: HeadNorm,
}

/// One time mixer of RWKV-7.
#[derive(Clone, Debug)]
pub struct Rwkv7 {
    shape: HeadShape,
    weights: Rwkv7Weights,
}

/// What the recurrence and the output of a call need.
struct Projected {
    receptance: Tensor<3>,
    log_decay: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    /// κ̂.
    removal: Tensor<3>,
    /// κ̂ ∘ a.
    replacement: Tensor<3>,
    gate: Tensor<3>,
}

impl Rwkv7 {
    /// A mixer of weights that fit its shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for a weight of another shape, [`Error::Value`] for a dimension of 0 or a negative ε.
    pub fn new(shape: HeadShape, weights: Rwkv7Weights) -> Result<Self> {
        validate(&shape, &weights)?;
        Ok(Self { shape, weights })
    }

    fn site(&self, layer: usize) -> Site {
        Site {
            per_key_decay: true,
            rule: Rule::Delta,
            ..Site::weighted_sum(layer, self.shape.heads, self.shape.key_dim, self.shape.value_dim)
        }
    }

    fn project(&self, input: &Tensor<3>, tap: &mut Tensor<3>, shared: &mut Shared) -> Result<Projected> {
        let weights = &self.weights;
        let [receptance, decay, key, value, rate, gate] = interpolate(
            [
                &weights.receptance_shift,
                &weights.decay_shift,
                &weights.key_shift,
                &weights.value_shift,
                &weights.rate_shift,
                &weights.gate_shift,
            ],
            input,
            tap,
        )?;
        let log_decay = sigmoid(weights.decay.forward(decay)?).mul_scalar(MIN_LOG_DECAY);
        let rate = sigmoid(weights.rate.forward(rate)?);
        let key = weights.key.forward(key)?;
        let removal = self.removal(&key)?;
        let scaled = rate
            .clone()
            .sub_scalar(1.0)
            .mul(row(&weights.rate_on_key))
            .add_scalar(1.0);
        Ok(Projected {
            receptance: weights.receptance.forward(receptance)?,
            log_decay,
            key: key * scaled,
            value: self.value(value, shared)?,
            replacement: removal.clone() * rate,
            removal,
            gate: weights.gate.forward(gate)?,
        })
    }

    /// κ̂, `[batch, time, keys]`.
    fn removal(&self, key: &Tensor<3>) -> Result<Tensor<3>> {
        let plan = NormPlan {
            statistic: Statistic::SumOfSquares,
            eps: self.weights.removal_eps,
            group_size: self.shape.key_dim,
            order: GateOrder::NormBeforeGate,
        };
        gated_norm(
            key.clone() * row(&self.weights.removal_key),
            NormWeights::default(),
            plan,
        )
    }

    /// ṽ; the first layer leaves its values for the others.
    fn value(&self, shifted: Tensor<3>, shared: &mut Shared) -> Result<Tensor<3>> {
        let value = self.weights.value.forward(shifted.clone())?;
        let Some(residual) = &self.weights.value_residual else {
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
            * self.weights.bonus.clone().reshape([1, 1, self.shape.keys()]);
        let weight = self.shape.split_keys(products).sum_dim(3);
        (self.shape.split_values(projected.value.clone()) * weight).reshape([batch, time, values])
    }

    fn gates(&self, projected: Projected) -> Gates {
        let keys = |tensor| self.shape.split_keys(tensor);
        Gates {
            log_decay: LogDecay::PerKeyToken(keys(projected.log_decay)),
            erase: Erase::LowRank {
                p: keys(projected.removal.neg()),
                b: keys(projected.replacement),
            },
            ..Gates::new(
                keys(projected.receptance),
                keys(projected.key),
                self.shape.split_values(projected.value),
            )
        }
    }
}

impl Mixer for Rwkv7 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        start(self.shape.model_dim, self.site(layer), batch, chain, device)
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
        let normed = self.weights.norm.forward(read_out, None)?;
        self.weights.output.forward((normed + bonus) * gate)
    }

    /// Decay, read by κ̂, both writes and the read-out of every state element.
    fn flops_per_token(&self) -> u64 {
        10 * self.shape.state_len()
    }
}

/// A vector as a row of every token.
fn row(vector: &Tensor<1>) -> Tensor<3> {
    vector.clone().unsqueeze()
}

fn validate(shape: &HeadShape, weights: &Rwkv7Weights) -> Result<()> {
    shape.validate()?;
    let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
    for shift in [
        &weights.receptance_shift,
        &weights.decay_shift,
        &weights.key_shift,
        &weights.value_shift,
        &weights.rate_shift,
        &weights.gate_shift,
    ] {
        shift.expect_channels(width)?;
    }
    expect::projection("receptance", &weights.receptance, keys, width)?;
    expect::projection("key", &weights.key, keys, width)?;
    expect::projection("value", &weights.value, values, width)?;
    expect::projection("output", &weights.output, width, values)?;
    weights.decay.validate("low-rank decay", keys, width)?;
    weights.rate.validate("low-rank learning rate", keys, width)?;
    weights.gate.validate("low-rank gate", values, width)?;
    if let Some(residual) = &weights.value_residual {
        residual.validate("low-rank value residual", values, width)?;
    }
    expect::shape("k_k", &[keys], &weights.removal_key.dims())?;
    expect::shape("k_a", &[keys], &weights.rate_on_key.dims())?;
    expect::shape("r_k", &[shape.heads, shape.key_dim], &weights.bonus.dims())?;
    expect::epsilon(weights.removal_eps)?;
    weights.norm.validate(shape)
}
