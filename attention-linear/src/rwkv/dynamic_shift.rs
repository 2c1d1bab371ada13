//! The interpolations of RWKV-6, whose weights depend on the input.
//!
//! ```text
//! Δ_t = x_{t−1} − x_t          h = tanh(D (x + μ ∘ Δ)), cut into one part per interpolation n ∈ {w, k, v, r, g}
//! x̃ⁿ = x + (μⁿ + Uⁿ hⁿ) ∘ Δ
//! ```

use super::fresh::FreshShare;
use super::gated_heads::Shifted;
use super::shift::{TokenShift, interpolate};
use burn::tensor::Tensor;
use spillway_ssm_core::operators::pointwise::tanh;
use spillway_ssm_core::operators::split;
use spillway_ssm_core::{Error, Init, Linear, Result};

/// Uⁿ of a fresh layer.
pub const FRESH_UP: Init = Init::Uniform(-0.01, 0.01);

/// The shares of the current token in a fresh layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreshShares {
    /// In what the weights are computed from.
    pub input: FreshShare,
    /// In what the decay reads.
    pub decay: FreshShare,
    /// In what the key reads.
    pub key: FreshShare,
    /// In what the value reads.
    pub value: FreshShare,
    /// In what the receptance reads.
    pub receptance: FreshShare,
    /// In what the gate reads.
    pub gate: FreshShare,
}

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
    /// Index of the interpolation's fifth hⁿ of h, in the order w, k, v, r, g.
    pub part: usize,
    /// Uⁿ `[model_dim, rank]`, with the bias μⁿ.
    pub up: Linear,
}

impl DynamicShift {
    /// Refuses interpolations of which two read one part of the narrow layer.
    pub(super) fn validate(&self) -> Result<()> {
        let all = [&self.decay, &self.key, &self.value, &self.receptance, &self.gate];
        for (index, weights) in all.iter().enumerate() {
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
    pub(super) fn interpolate(
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
