//! What a token takes out of the state before it writes.

use super::{Dims, expect_shape, narrow_time};
use crate::error::{Error, Result};
use crate::tensor_map::TensorMap;
use burn::tensor::{Device, Tensor};

/// What a token takes out of the decayed state, beside its decay, before it writes.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful of these exist at a time; a box would cost more"
)]
pub enum Erase {
    /// Nothing: the state is a weighted sum of what was written.
    #[default]
    None,
    /// What the state holds under k: h ← a ∘ h, then h ← h + β k (v − hᵀk)ᵀ, β `[batch, time, heads]` (DeltaNet, Gated
    /// DeltaNet, KDA).
    Delta(Tensor<3>),
    /// A matrix of rank 1: h ← a ∘ h + b (pᵀ h) + k vᵀ, where p reads the state before it decays (RWKV-7).
    LowRank {
        /// p, `[batch, time, groups, key_dim]`.
        p: Tensor<4>,
        /// b, `[batch, time, groups, key_dim]`.
        b: Tensor<4>,
    },
}

impl Erase {
    /// The kind's name, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "nothing erased",
            Self::Delta(_) => "delta rule",
            Self::LowRank { .. } => "low rank",
        }
    }

    pub(super) fn validate(&self, d: &Dims) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Delta(beta) => expect_shape("beta", &[d.batch, d.time, d.heads], &beta.dims()),
            Self::LowRank { p, b } => {
                let shape = [d.batch, d.time, d.groups, d.key_dim];
                expect_shape("p", &shape, &p.dims())?;
                expect_shape("b", &shape, &b.dims())
            }
        }
    }

    pub(super) fn map(&self, change: &mut impl TensorMap) -> Self {
        match self.clone() {
            Self::None => Self::None,
            Self::Delta(beta) => Self::Delta(change.map(beta)),
            Self::LowRank { p, b } => Self::LowRank {
                p: change.map(p),
                b: change.map(b),
            },
        }
    }

    pub(super) fn slice_time(&self, start: usize, len: usize) -> Self {
        match self {
            Self::None => Self::None,
            Self::Delta(beta) => Self::Delta(narrow_time(beta, start, len)),
            Self::LowRank { p, b } => Self::LowRank {
                p: narrow_time(p, start, len),
                b: narrow_time(b, start, len),
            },
        }
    }

    pub(super) fn join(self, later: Self) -> Result<Self> {
        Ok(match (self, later) {
            (Self::None, Self::None) => Self::None,
            (Self::Delta(a), Self::Delta(b)) => Self::Delta(Tensor::cat(vec![a, b], 1)),
            (Self::LowRank { p, b }, Self::LowRank { p: q, b: c }) => Self::LowRank {
                p: Tensor::cat(vec![p, q], 1),
                b: Tensor::cat(vec![b, c], 1),
            },
            (a, b) => {
                return Err(Error::DecayKind {
                    first: a.kind(),
                    second: b.kind(),
                });
            }
        })
    }

    pub(super) fn devices(&self) -> Vec<Device> {
        match self {
            Self::None => vec![],
            Self::Delta(beta) => vec![beta.device()],
            Self::LowRank { p, b } => vec![p.device(), b.device()],
        }
    }
}
