//! The monoid element of a stretch of tokens: what it multiplies an incoming state by, and what it adds.
//!
//! A stretch acts on a state as h ↦ A ∘ h + G. Two stretches, the earlier one first, compose as
//!
//! ```text
//! (A₁, G₁) then (A₂, G₂)  =  (A₂ ∘ A₁,  A₂ ∘ G₁ + G₂)
//! ```
//!
//! with (1, 0) as identity. The law is associative, so stretches may be combined in any grouping: by threads, by machines,
//! or by the queue of a sliding window. A is kept as the sum of log decays, never as a product.

use crate::error::{Error, Result};
use crate::gates::{Dims, Gates, Rule, expect_shape};
use crate::operators::element::element;
use crate::state::State;
use burn::tensor::{Device, Tensor};

/// (log A, G) of a stretch.
#[derive(Clone, Debug)]
pub struct Element {
    /// Σ log a over the stretch, `[batch, heads, key_dim]`, or `[batch, heads, 1]` when all key rows decay alike.
    pub log_decay: Tensor<3>,
    /// G, `[batch, heads, key_dim, value_dim]`: the state that the stretch leaves when it starts from nothing.
    pub update: Tensor<4>,
}

impl Element {
    /// The element of no tokens: (0, 0) in logarithms.
    pub fn identity(dims: &Dims, per_key: bool, device: &Device) -> Self {
        let rows = if per_key { dims.key_dim } else { 1 };
        Self {
            log_decay: Tensor::zeros([dims.batch, dims.heads, rows], device),
            update: Tensor::zeros([dims.batch, dims.heads, dims.key_dim, dims.value_dim], device),
        }
    }

    /// The element of `gates`, computed from keys, values and decays; queries are not looked at.
    ///
    /// # Errors
    /// [`crate::Error`] when shapes do not fit, and for gates that are not those of a weighted sum.
    pub fn of(gates: &Gates, chunk_size: usize) -> Result<Self> {
        gates.validate()?;
        match gates.rule() {
            Rule::WeightedSum => element(&gates.clone().with_stored_decay(), chunk_size),
            other => Err(Error::Value {
                what: "gates of an element",
                expected: "those of a weighted sum",
                found: format!("{other:?}"),
            }),
        }
    }

    /// This stretch followed by `later`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the two are of different recurrences.
    pub fn compose(&self, later: &Self) -> Result<Self> {
        expect_shape("update", &self.update.dims(), &later.update.dims())?;
        expect_shape("log_decay", &self.log_decay.dims(), &later.log_decay.dims())?;
        Ok(Self {
            log_decay: self.log_decay.clone() + later.log_decay.clone(),
            update: later.apply_to(self.update.clone()),
        })
    }

    /// h ↦ A ∘ h + G. The state's position is left alone: an element does not know how many tokens it stands for.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the state is of another recurrence.
    pub fn apply(&self, state: &mut State) -> Result<()> {
        expect_shape("state", &self.update.dims(), &state.memory.dims())?;
        state.memory = self.apply_to(state.take());
        Ok(())
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        4 * (self.log_decay.shape().num_elements() + self.update.shape().num_elements())
    }

    fn apply_to(&self, memory: Tensor<4>) -> Tensor<4> {
        memory * self.log_decay.clone().exp().unsqueeze_dim::<4>(3) + self.update.clone()
    }
}
