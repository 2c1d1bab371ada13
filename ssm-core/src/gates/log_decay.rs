//! Decays of the state by tokens, as logarithms.

use super::narrow_time;
use crate::error::{Error, Result};
use crate::tensor_map::TensorMap;
use burn::tensor::{Device, Tensor};

/// Logarithm of what a token multiplies the state by; at most 0 for every model of the field.
#[derive(Clone, Debug)]
pub enum LogDecay {
    /// Nothing is forgotten (linear attention, Based).
    None,
    /// One constant per head, `[heads]` (RetNet).
    PerHead(Tensor<1>),
    /// One constant per head and key row, `[heads, key_dim]` (RWKV-5).
    PerKey(Tensor<2>),
    /// One scalar per head and token, `[batch, time, heads]` (Mamba-2, simple GLA).
    PerHeadToken(Tensor<3>),
    /// A vector per head and token, `[batch, time, heads, key_dim]` (GLA, RWKV-6).
    PerKeyToken(Tensor<4>),
    /// A constant A per head and key row, `[heads, key_dim]`, times the token's step size: log a_t = δ_t A (Mamba-1). The
    /// products, one per token, head and key row, are never stored.
    PerStep(Tensor<2>),
}

impl LogDecay {
    /// The kind's name, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PerHead(_) => "constant per head",
            Self::PerKey(_) => "constant per key",
            Self::PerHeadToken(_) => "per head and token",
            Self::PerKeyToken(_) => "per key and token",
            Self::PerStep(_) => "per key, times the step size",
        }
    }

    /// Whether the decay differs between the key rows of one head.
    pub fn is_per_key(&self) -> bool {
        matches!(self, Self::PerKey(_) | Self::PerKeyToken(_) | Self::PerStep(_))
    }

    /// `factor` · log a: every decay raised to the power `factor`.
    pub fn scale(self, factor: f32) -> Self {
        match self {
            Self::None => Self::None,
            Self::PerHead(a) => Self::PerHead(a.mul_scalar(factor)),
            Self::PerKey(a) => Self::PerKey(a.mul_scalar(factor)),
            Self::PerHeadToken(a) => Self::PerHeadToken(a.mul_scalar(factor)),
            Self::PerKeyToken(a) => Self::PerKeyToken(a.mul_scalar(factor)),
            Self::PerStep(a) => Self::PerStep(a.mul_scalar(factor)),
        }
    }

    pub(super) fn map(&self, change: &mut impl TensorMap) -> Self {
        match self.clone() {
            Self::None => Self::None,
            Self::PerHead(a) => Self::PerHead(change.map(a)),
            Self::PerKey(a) => Self::PerKey(change.map(a)),
            Self::PerHeadToken(a) => Self::PerHeadToken(change.map(a)),
            Self::PerKeyToken(a) => Self::PerKeyToken(change.map(a)),
            Self::PerStep(a) => Self::PerStep(change.map(a)),
        }
    }

    pub(super) fn slice_time(&self, start: usize, len: usize) -> Self {
        match self {
            Self::PerHeadToken(a) => Self::PerHeadToken(narrow_time(a, start, len)),
            Self::PerKeyToken(a) => Self::PerKeyToken(narrow_time(a, start, len)),
            constant => constant.clone(),
        }
    }

    pub(super) fn join(self, later: Self) -> Result<Self> {
        Ok(match (self, later) {
            (Self::PerHeadToken(a), Self::PerHeadToken(b)) => Self::PerHeadToken(Tensor::cat(vec![a, b], 1)),
            (Self::PerKeyToken(a), Self::PerKeyToken(b)) => Self::PerKeyToken(Tensor::cat(vec![a, b], 1)),
            (a, b) if a.kind() == b.kind() => a,
            (a, b) => {
                return Err(Error::DecayKind {
                    first: a.kind(),
                    second: b.kind(),
                });
            }
        })
    }

    pub(super) fn shape(&self) -> Option<Vec<usize>> {
        match self {
            Self::None => None,
            Self::PerHead(a) => Some(a.dims().to_vec()),
            Self::PerKey(a) => Some(a.dims().to_vec()),
            Self::PerHeadToken(a) => Some(a.dims().to_vec()),
            Self::PerKeyToken(a) => Some(a.dims().to_vec()),
            Self::PerStep(a) => Some(a.dims().to_vec()),
        }
    }

    pub(super) fn device(&self) -> Option<Device> {
        match self {
            Self::None => None,
            Self::PerHead(a) => Some(a.device()),
            Self::PerKey(a) | Self::PerStep(a) => Some(a.device()),
            Self::PerHeadToken(a) => Some(a.device()),
            Self::PerKeyToken(a) => Some(a.device()),
        }
    }
}

/// δ_t A for every token, head and key row, `[batch, time, heads, key_dim]`.
pub(crate) fn per_step_decay(a: &Tensor<2>, step_size: &Tensor<3>) -> Tensor<4> {
    step_size.clone().unsqueeze_dim::<4>(3) * a.clone().unsqueeze_dims::<4>(&[0, 1])
}
