//! Projections through a narrow layer, by which RWKV-6 and 7 compute gates from their input.

use burn::tensor::Tensor;
use spillway_ssm_core::operators::pointwise::{sigmoid, tanh};
use spillway_ssm_core::{Init, Linear, Result, WeightSource};

/// What is applied between the two projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowRankActivation {
    /// No activation: x itself.
    None,
    /// The hyperbolic tangent, tanh(x).
    Tanh,
    /// The sigmoid, σ(x).
    Sigmoid,
}

/// The sizes of a low-rank projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRankShape {
    /// Features that it reads.
    pub in_features: usize,
    /// Features between the two projections.
    pub rank: usize,
    /// Features that it gives.
    pub out_features: usize,
    /// What is applied between the two.
    pub activation: LowRankActivation,
}

/// x ↦ U act(D x) + b, with U's bias b.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// D, the projection to the narrow layer, `[rank, in_features]`.
    pub down: Linear,
    /// act, what is applied between the two projections.
    pub activation: LowRankActivation,
    /// U, the projection from the narrow layer, `[out_features, rank]`, with b as its bias where there is one.
    pub up: Linear,
}

impl LowRank {
    /// The projection of the weights of `source`: `NAME.down` `[rank, in_features]`, `NAME.up` `[out_features, rank]`, and, where
    /// there is an offset, its bias.
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource + ?Sized>(
        shape: LowRankShape,
        offset: Option<Init>,
        source: &mut S,
        name: &str,
    ) -> Result<Self, S::Error> {
        let down = source.linear(&format!("{name}.down"), [shape.rank, shape.in_features], false)?;
        let up = source.linear(&format!("{name}.up"), [shape.out_features, shape.rank], false)?;
        let bias = match offset {
            Some(init) => Some(source.vector(&format!("{name}.up.bias"), shape.out_features, init)?),
            None => None,
        };
        Ok(Self {
            down,
            activation: shape.activation,
            up: Linear::new(up.weight().clone(), bias)?,
        })
    }

    /// `[batch, time, in_features]` to `[batch, time, out_features]`.
    pub(super) fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let narrow = self.down.forward(input)?;
        self.up.forward(match self.activation {
            LowRankActivation::None => narrow,
            LowRankActivation::Tanh => tanh(narrow),
            LowRankActivation::Sigmoid => sigmoid(narrow),
        })
    }
}
