//! The monoid element of a segment of tokens: what it does to an incoming state, and what it adds.
//!
//! A segment acts on a state as h ↦ A h + G. Two segments, the earlier one first, compose as
//!
//! ```text
//! (A₁, G₁) then (A₂, G₂)  =  (A₂ A₁,  A₂ G₁ + G₂)
//! ```
//!
//! The law is associative, so segments may be combined in any grouping: by threads, by machines, or by the queue of a
//! sliding window. What A is depends on the rule:
//!
//! | rule | A | kept as |
//! |---|---|---|
//! | weighted sum | a decay per key row (or per head) | Σ log a, never a product |
//! | delta rule | the product of matrices K × K | that matrix |
//! | weighted mean | a decay per head | Σ w, beside G = (numerator, denominator, maximum) |
//!
//! Sums of a weighted mean are relative to their maximum, so there "A₂ G₁ + G₂" brings both to the larger maximum:
//!
//! ```text
//! m = max(m₁ + w₂, m₂)          n = e^{m₁ + w₂ − m} n₁ + e^{m₂ − m} n₂          (denominators likewise)
//! ```

use crate::error::{Error, Result};
use crate::gates::{Dims, Gates, Rule, expect_shape};
use crate::state::State;
use burn::tensor::{Device, Tensor};

/// What a segment does to an incoming state.
#[derive(Clone, Debug)]
pub enum Transition {
    /// Σ log a over the segment, `[batch, heads, key_dim]`, or `[batch, heads, 1]` when all key rows decay alike.
    Decay(Tensor<3>),
    /// A, `[batch, heads, key_dim, key_dim]`: the state that the segment leaves of the identity when nothing is written.
    Matrix(Tensor<4>),
    /// Σ w over the segment, `[batch, heads, 1]`, of a state that is numerator, denominator and maximum.
    Mean(Tensor<3>),
}

/// (A, G) of a segment.
#[derive(Clone, Debug)]
pub struct Element {
    /// A, what the segment does to an incoming state.
    pub transition: Transition,
    /// G, of the state's shape: the state that the segment leaves when it starts from an empty one.
    pub update: Tensor<4>,
}

impl Transition {
    /// The kind's name, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decay(_) => "a decay",
            Self::Matrix(_) => "a matrix",
            Self::Mean(_) => "the decay of a mean",
        }
    }

    /// The transition of no tokens.
    fn identity(rule: Rule, dims: &Dims, per_key: bool, device: &Device) -> Self {
        let rows = if per_key { dims.key_dim } else { 1 };
        let zeros = |rows| Tensor::zeros([dims.batch, dims.heads, rows], device);
        match rule {
            Rule::WeightedSum => Self::Decay(zeros(rows)),
            Rule::Mean => Self::Mean(zeros(1)),
            Rule::Delta => Self::Matrix(identity_matrices(dims, device)),
        }
    }

    /// This one, followed by `later`.
    fn then(&self, later: &Self) -> Result<Self> {
        Ok(match (self, later) {
            (Self::Decay(first), Self::Decay(second)) => {
                expect_shape("log_decay", &first.dims(), &second.dims())?;
                Self::Decay(first.clone() + second.clone())
            }
            (Self::Mean(first), Self::Mean(second)) => Self::Mean(first.clone() + second.clone()),
            (Self::Matrix(first), Self::Matrix(second)) => Self::Matrix(second.clone().matmul(first.clone())),
            (first, second) => {
                return Err(Error::Value {
                    what: "transitions of two elements",
                    expected: "of the same kind",
                    found: format!("{} and {}", first.kind(), second.kind()),
                });
            }
        })
    }
}

impl Element {
    /// The element of no tokens of a weighted sum: A = 1, G = 0.
    pub fn identity(dims: &Dims, per_key: bool, device: &Device) -> Self {
        Self {
            transition: Transition::identity(Rule::WeightedSum, dims, per_key, device),
            update: State::zeros(dims, device).memory,
        }
    }

    /// The element of no tokens of the recurrence that `gates` belong to.
    pub fn identity_of(gates: &Gates) -> Self {
        let (dims, device) = (gates.dims(), gates.value.device());
        Self {
            transition: Transition::identity(gates.rule(), &dims, gates.log_decay.is_per_key(), &device),
            update: empty_state(gates).memory,
        }
    }

    /// This segment followed by `later`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] and [`crate::Error::Value`] when the two are of different recurrences.
    pub fn compose(&self, later: &Self) -> Result<Self> {
        expect_shape("update", &self.update.dims(), &later.update.dims())?;
        Ok(Self {
            transition: self.transition.then(&later.transition)?,
            update: later.apply_to(self.update.clone()),
        })
    }

    /// h ↦ A h + G. The state's position is left alone: an element does not know how many tokens it stands for.
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
        let transition = match &self.transition {
            Transition::Decay(sum) | Transition::Mean(sum) => sum.shape().num_elements(),
            Transition::Matrix(matrix) => matrix.shape().num_elements(),
        };
        4 * (transition + self.update.shape().num_elements())
    }

    fn apply_to(&self, memory: Tensor<4>) -> Tensor<4> {
        match &self.transition {
            Transition::Decay(sum) => memory * sum.clone().exp().unsqueeze_dim::<4>(3) + self.update.clone(),
            Transition::Matrix(matrix) => matrix.clone().matmul(memory) + self.update.clone(),
            Transition::Mean(sum) => join_means(memory, sum.clone(), self.update.clone()),
        }
    }
}

/// The state before the first token.
pub(crate) fn empty_state(gates: &Gates) -> State {
    let (dims, device) = (gates.dims(), gates.value.device());
    match gates.rule() {
        Rule::Mean => State::empty_mean(dims.batch, dims.heads, &device),
        Rule::WeightedSum | Rule::Delta => State::zeros(&dims, &device),
    }
}

/// I for every sequence and head, `[batch, heads, key_dim, key_dim]`.
pub(crate) fn identity_matrices(dims: &Dims, device: &Device) -> Tensor<4> {
    let one = Tensor::<2>::eye(dims.key_dim, device).unsqueeze::<4>();
    one.repeat_dim(0, dims.batch).repeat_dim(1, dims.heads)
}

/// Numerator, denominator and maximum `[batch, heads, 1, 3]` of all tokens, from those of the earlier ones, decayed by Σ w
/// `[batch, heads, 1]`, and those of the later ones.
fn join_means(earlier: Tensor<4>, decay: Tensor<3>, later: Tensor<4>) -> Tensor<4> {
    let sums = |state: &Tensor<4>| state.clone().narrow(3, 0, 2);
    let maximum = |state: &Tensor<4>| state.clone().narrow(3, 2, 1);
    let decayed = maximum(&earlier) + decay.unsqueeze_dim::<4>(3);
    let highest = decayed.clone().max_pair(maximum(&later));
    let of_earlier = sums(&earlier) * (decayed - highest.clone()).exp();
    let of_later = sums(&later) * (maximum(&later) - highest.clone()).exp();
    Tensor::cat(vec![of_earlier + of_later, highest], 3)
}
