//! Prefix linear attention (JRT): a prefix that every token sees, and causal linear attention behind it.
//!
//! ```text
//! y_t = φ(q_t)ᵀ (H + Σ_{j ≤ t} φ(k_j) v_jᵀ) / (φ(q_t)ᵀ (Z + Σ_{j ≤ t} φ(k_j)) + ε)
//! H = Σ_e φ(k'_e) v'_eᵀ        Z = Σ_e φ(k'_e)        over the tokens e of the prefix, by projections of their own
//! ```
//!
//! The prefix is a state to start from, so that is what it becomes: its tokens are read in first, without a read-out, and the
//! causal part goes on from there. The causal part also runs over the tokens of the prefix. Source: Arora et al., *Just read
//! twice* (2407.05483), section 4.
//!
//! [`read_prefix`] and [`attend`] are the definition, through features. The mixer of a model is
//! [`TaylorAttention`](crate::based::TaylorAttention) with an [`Encoder`].

use crate::feature_map::taylor;
use crate::linear_attn::{self, NormalizedState};
use burn::tensor::Tensor;
use spillway_ssm_core::{Chunking, Linear, Padding, Prefix, Result, WeightSource};

/// Reads the prefix in: adds its H and Z to `state`.
///
/// A masked key is 0 before the feature map, and φ(0) = \[1, 0, …\] still counts in both sums.
///
/// # Shapes
/// `key` `[batch, prefix, heads, K]`, `value` `[batch, prefix, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn read_prefix(
    key: Tensor<4>,
    value: Tensor<4>,
    state: &mut NormalizedState,
    chunking: Chunking,
) -> Result<()> {
    let key = taylor(key);
    // What the queries read from the unfinished prefix is nobody's business; the state is.
    let gates = linear_attn::gates(key.clone(), key, value, 1.0);
    linear_attn::normalized(gates, 0.0, state, chunking).map(drop)
}

/// Causal linear attention with the Taylor map from `state` on, which holds the prefix.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, K]`, `value` and result `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when the shapes do not fit one another.
pub fn attend(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    eps: f32,
    state: &mut NormalizedState,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let gates = linear_attn::gates(taylor(query), taylor(key), value, 1.0);
    linear_attn::normalized(gates, eps, state, chunking)
}

/// The projections by which a layer reads a prefix.
#[derive(Clone, Debug)]
pub struct Encoder {
    key: Linear,
    value: Linear,
}

/// A prefix as a layer reads it, and what its padding does to the tokens themselves.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// k′, `[batch, prefix, channels]`, without a feature map.
    pub key: Tensor<3>,
    /// v′, `[batch, prefix, channels]`.
    pub value: Tensor<3>,
    /// 1 for tokens and 0 for padding over all tokens of the call, `[batch, time, 1, 1]`, and how padding is read.
    pub mask: Option<(Tensor<4>, Padding)>,
}

impl Encoder {
    /// The projections `proj_k_enc` and `proj_v_enc` to so many channels, without biases.
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        model_dim: usize,
        [keys, values]: [usize; 2],
        source: &mut S,
    ) -> Result<Self, S::Error> {
        Ok(Self {
            key: source.linear("proj_k_enc", [keys, model_dim], false)?,
            value: source.linear("proj_v_enc", [values, model_dim], false)?,
        })
    }

    /// What the first tokens of `input`, `[batch, time, model_dim]`, are to all others.
    pub(crate) fn encode(&self, input: &Tensor<3>, prefix: &Prefix) -> Result<Encoded> {
        let [batch, time, _] = input.dims();
        prefix.expect_within(batch, time)?;
        let read = input.clone().narrow(1, 0, prefix.tokens());
        let padding = prefix.mask().map(|mask| mask.padding()).unwrap_or_default();
        Ok(Encoded {
            key: self.key.forward(read.clone())?,
            value: self.value.forward(read)?,
            mask: prefix.keep(time, &input.device()).map(|keep| (keep, padding)),
        })
    }
}
