//! The shape of an S4 block.

use super::fresh::FreshSystem;
use crate::error::{Error, Result};
use crate::operators::linear_state_space::{Rule, Spectrum};
use crate::operators::pointwise::{gelu, sigmoid, silu, tanh};
use crate::operators::vandermonde::{Discretization, ModeSet};
use crate::state_space::init::{StepRange, Transform};
use burn::tensor::{Tensor, activation};

/// What comes after the state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// W to twice the width and a gate: `glu`.
    Glu,
    /// W alone, to the model's width and without a gate: `id`.
    Linear,
    /// Nothing, not even a W; every channel must then have one output.
    None,
}

/// What the modes of a channel add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModeSum {
    /// z = 2 Re(C x), each mode standing for a conjugate pair: S4 and S4D.
    #[default]
    Pairs,
    /// z = Re(C x), each mode for itself: DSS-exp.
    Single,
    /// As `Single`, with the taps of each mode in shares of 1: DSS-softmax,
    /// `K_l = Re Σ_n (C_n B_n/λ_n) softmax_l(l Δ λ_n)` over l < L. It depends on L and has no state.
    Softmax,
}

/// A function of every value, by the names of state-spaces/s4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `id`: x itself.
    #[default]
    Identity,
    /// `gelu`: x Φ(x).
    Gelu,
    /// `silu` or `swish`: x σ(x).
    Silu,
    /// `sigmoid`: σ(x).
    Sigmoid,
    /// `tanh`: tanh(x).
    Tanh,
    /// `relu`: max(x, 0).
    Relu,
}

/// The multiplicative branch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Width of the branch over the model's width, g.
    pub factor: usize,
    /// What becomes of W_g u.
    pub activation: Activation,
    /// What becomes of the product.
    pub of_product: Activation,
}

/// The shape of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct S4Config {
    /// Width of the layer's input and output, H.
    pub model_dim: usize,
    /// Outputs of each channel's state space.
    pub channels: usize,
    /// N, with N/2 modes: one of each conjugate pair where modes stand for pairs.
    pub state_dim: usize,
    /// Rank of P; 0 for S4D and DSS.
    pub rank: usize,
    /// Copies of (A, B, P); a divisor of `model_dim`.
    pub copies: usize,
    /// How time becomes discrete. S4 with P knows the bilinear rule alone, DSS the zero-order hold.
    pub rule: Rule,
    /// What the modes of a channel add up to.
    pub modes: ModeSum,
    /// Whether a second kernel reads later tokens.
    pub bidirectional: bool,
    /// Taps beyond which kernels are cut off: `l_max`. None: as long as the input.
    pub taps: Option<usize>,
    /// What `inv_dt` becomes Δ by.
    pub step_transform: Transform,
    /// What `A_real` becomes −Re Λ by.
    pub rate_transform: Transform,
    /// The multiplicative branch, where there is one.
    pub gate: Option<Gate>,
    /// What comes after the state space.
    pub projection: Projection,
    /// Where Λ, B and P of a fresh block come from, by published name: `legs`, `diag-lin`, …
    pub fresh: FreshSystem,
    /// Step sizes of a fresh block.
    pub fresh_steps: StepRange,
    /// L where `kernel.C` is C̃ = C (I − Ā^L), as S4 with P keeps it for kernels of L taps; 0 where it is C.
    pub truncated_at: usize,
}

impl ModeSum {
    pub(super) fn spectrum(self) -> Spectrum {
        match self {
            Self::Pairs => Spectrum::ConjugatePairs,
            Self::Single | Self::Softmax => Spectrum::Complete,
        }
    }

    pub(super) fn mode_set(self) -> ModeSet {
        match self {
            Self::Pairs => ModeSet::ConjugatePairs,
            Self::Single | Self::Softmax => ModeSet::All,
        }
    }
}

impl Activation {
    /// The function of a name; `None` for another name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "id" | "identity" | "linear" | "none" => Self::Identity,
            "gelu" => Self::Gelu,
            "silu" | "swish" => Self::Silu,
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "relu" => Self::Relu,
            _ => return None,
        })
    }

    pub(super) fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Gelu => gelu(x),
            Self::Silu => silu(x),
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => tanh(x),
            Self::Relu => activation::relu(x),
        }
    }
}

impl S4Config {
    /// Width of what the projection reads.
    pub(super) fn inner(&self) -> usize {
        self.gate
            .map_or(self.channels, |gate| gate.factor)
            .saturating_mul(self.model_dim)
    }

    /// Kernels of each channel and output: one per direction.
    pub(super) fn directions(&self) -> usize {
        match self.bidirectional {
            true => 2,
            false => 1,
        }
    }

    /// The rule by which kernels are made.
    pub(super) fn discretization(&self) -> Discretization {
        match (self.modes, self.rule) {
            (ModeSum::Softmax, _) => Discretization::Softmax,
            (_, Rule::Bilinear) => Discretization::Bilinear,
            _ => Discretization::ZeroOrderHold,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let sizes = [
            self.model_dim,
            self.channels,
            self.state_dim,
            self.copies,
            self.taps.unwrap_or(1),
            self.gate.map_or(1, |gate| gate.factor),
        ];
        let divides = self.copies > 0 && self.model_dim.is_multiple_of(self.copies);
        let outputs = self.projection != Projection::None || self.inner() == self.model_dim;
        let rule = match (self.rank, self.modes) {
            (0, ModeSum::Pairs) => matches!(self.rule, Rule::Bilinear | Rule::ZeroOrderHold),
            (0, _) => self.rule == Rule::ZeroOrderHold,
            (_, modes) => self.rule == Rule::Bilinear && modes == ModeSum::Pairs,
        };
        if divides && outputs && rule && !sizes.contains(&0) && self.state_dim.is_multiple_of(2) {
            return Ok(());
        }
        Err(Error::Value {
            what: "dimensions of an S4 block",
            expected: "all at least 1, state_dim even, copies a divisor of model_dim, one channel where nothing mixes them, the \
                       bilinear rule where there is a low-rank part, and the zero-order hold for DSS",
            found: format!("{self:?}"),
        })
    }
}
