//! Projections through a narrow layer, by which RWKV-6 and 7 compute gates from their input.

use crate::expect;
use burn::tensor::Tensor;
use ssm_core::operators::pointwise::{sigmoid, tanh};
use ssm_core::{Linear, Result};

/// What is applied between the two projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowRankActivation {
    /// Nothing.
    None,
    /// tanh.
    Tanh,
    /// σ.
    Sigmoid,
}

/// x ↦ U act(D x) + b, with U's bias b.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// D, `[rank, in_features]`.
    pub down: Linear,
    /// act.
    pub activation: LowRankActivation,
    /// U, `[out_features, rank]`.
    pub up: Linear,
}

impl LowRank {
    /// `[batch, time, in_features]` to `[batch, time, out_features]`.
    pub(super) fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let narrow = self.down.forward(input)?;
        self.up.forward(match self.activation {
            LowRankActivation::None => narrow,
            LowRankActivation::Tanh => tanh(narrow),
            LowRankActivation::Sigmoid => sigmoid(narrow),
        })
    }

    pub(super) fn validate(&self, what: &'static str, out_features: usize, in_features: usize) -> Result<()> {
        let rank = self.down.out_features();
        expect::projection(what, &self.down, rank, in_features)?;
        expect::projection(what, &self.up, out_features, rank)
    }
}
