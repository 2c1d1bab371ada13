//! Time mixing of RWKV-6: RWKV-5's recurrence with interpolations and decays that depend on the input.
//!
//! ```text
//! Δ_t = x_{t−1} − x_t          h = tanh(D (x + μ ∘ Δ)), cut into one part per interpolation n ∈ {w, k, v, r, g}
//! x̃ⁿ = x + (μⁿ + Uⁿ hⁿ) ∘ Δ          log w_t = −exp(time_decay + U tanh(D x̃ʷ))
//! ```
//!
//! Source: Peng et al., *Eagle and Finch* (2404.05892), section 4.2.

use super::gated_heads::{GatedHeads, Shifted, site, start};
use super::heads::HeadShape;
use super::low_rank::LowRank;
use super::shift::{TokenShift, interpolate};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::operators::pointwise::{exp, tanh};
use ssm_core::operators::split;
use ssm_core::{Chain, Context, Error, Linear, LogDecay, Mixer, MixerState, Result, Site};

/// Interpolations with the previous token whose weights depend on the input.
#[derive(Clone, Debug)]
pub struct DynamicShift {
    /// The interpolation that the weights are computed from, with a constant weight.
    pub input: TokenShift,
    /// D, `[5 · rank, model_dim]`.
    pub down: Linear,
    /// What the decay reads.
    pub decay: DynamicWeights,
    /// What the key reads.
    pub key: DynamicWeights,
    /// What the value reads.
    pub value: DynamicWeights,
    /// What the receptance reads.
    pub receptance: DynamicWeights,
    /// What the gate reads.
    pub gate: DynamicWeights,
}

/// How the weights of one interpolation follow from the common narrow layer h.
#[derive(Clone, Debug)]
pub struct DynamicWeights {
    /// Which fifth of h.
    pub part: usize,
    /// Uⁿ `[model_dim, rank]`, with the bias μⁿ.
    pub up: Linear,
}

impl DynamicShift {
    /// Refuses projections that do not fit `width` and one another.
    fn validate(&self, width: usize) -> Result<()> {
        self.input.expect_channels(width)?;
        let rank = self.rank();
        expect::projection("time_maa_w1", &self.down, 5 * rank, width)?;
        let all = [&self.decay, &self.key, &self.value, &self.receptance, &self.gate];
        for (index, weights) in all.iter().enumerate() {
            expect::projection("time_maa_w2", &weights.up, width, rank)?;
            if weights.part >= 5 || all[..index].iter().any(|other| other.part == weights.part) {
                return Err(Error::Value {
                    what: "part of the narrow layer",
                    expected: "each of 0 to 4 once",
                    found: weights.part.to_string(),
                });
            }
        }
        Ok(())
    }

    fn rank(&self) -> usize {
        self.decay.up.in_features()
    }

    /// What the decay reads, and what the projections read.
    fn interpolate(
        &self,
        difference: &TokenShift,
        input: &Tensor<3>,
        tap: &mut Tensor<3>,
    ) -> Result<(Tensor<3>, Shifted)> {
        let [shifted, difference] = interpolate([&self.input, difference], input, tap)?;
        let hidden = tanh(self.down.forward(shifted)?);
        let parts: [Tensor<3>; 5] = split(hidden, [self.rank(); 5])?;
        let shift = |weights: &DynamicWeights| -> Result<Tensor<3>> {
            let hidden = parts[weights.part].clone();
            Ok(weights.up.forward(hidden)? * difference.clone() + input.clone())
        };
        let shifted = Shifted {
            receptance: shift(&self.receptance)?,
            key: shift(&self.key)?,
            value: shift(&self.value)?,
            gate: shift(&self.gate)?,
        };
        Ok((shift(&self.decay)?, shifted))
    }
}

/// The weights of a time mixer of RWKV-6.
#[derive(Clone, Debug)]
pub struct Rwkv6Weights {
    /// The interpolations.
    pub shift: DynamicShift,
    /// time_decay (the bias) and its dependence on the input, `model_dim` to `keys`, with tanh between.
    pub decay: LowRank,
    /// Projections, bonus and norm.
    pub heads: GatedHeads,
}

/// One time mixer of RWKV-6.
#[derive(Clone, Debug)]
pub struct Rwkv6 {
    shape: HeadShape,
    weights: Rwkv6Weights,
    difference: TokenShift,
}

impl Rwkv6 {
    /// A mixer of weights that fit its shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for a weight of another shape, [`Error::Value`] for a dimension of 0 or a
    /// negative ε.
    pub fn new(shape: HeadShape, weights: Rwkv6Weights) -> Result<Self> {
        weights.heads.validate(&shape)?;
        weights.shift.validate(shape.model_dim)?;
        weights
            .decay
            .validate("time_decay", shape.keys(), shape.model_dim)?;
        let device = weights.heads.bonus.device();
        Ok(Self {
            difference: TokenShift::difference(shape.model_dim, &device),
            shape,
            weights,
        })
    }
}

impl Mixer for Rwkv6 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![site(&self.shape, layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        start(
            self.shape.model_dim,
            site(&self.shape, layer),
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
        let state = state.recurrent()?;
        let weights = &self.weights;
        let (decay, shifted) = weights
            .shift
            .interpolate(&self.difference, &input, state.conv_state(0)?)?;
        let log_decay = exp(weights.decay.forward(decay)?).neg();
        let log_decay = LogDecay::PerKeyToken(self.shape.split_keys(log_decay));
        weights
            .heads
            .forward(&self.shape, shifted, log_decay, state, context)
    }

    /// Decay, write and read of every state element.
    fn flops_per_token(&self) -> u64 {
        6 * self.shape.state_len()
    }
}
