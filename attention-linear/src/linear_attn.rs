//! Linear attention, plain and normalised.
//!
//! ```text
//! h_t = h_{t-1} + k_t v_tᵀ        z_t = z_{t-1} + k_t
//! plain:  y_t = scale · q_tᵀ h_t        normalised:  y_t = (scale · q_tᵀ h_t) / (scale · q_tᵀ z_t + ε)
//! ```
//!
//! z is the state of one more value that is always 1, so the normalised form is the same recurrence with one more column.
//! Source: Katharopoulos et al., *Transformers are RNNs* (2006.16236), equations 16 to 20.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Chunking, Dims, Error, Gates, Result, State, recurrence};

/// The gates of linear attention over queries and keys that have been through their feature map.
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]` (or fewer query/key groups), `value` `[batch, time, heads, value_dim]`.
pub fn gates(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, scale: f32) -> Gates {
    Gates {
        scale,
        ..Gates::new(query, key, value)
    }
}

/// What normalised linear attention carries: h and z in one tensor.
#[derive(Clone, Debug)]
pub struct NormalizedState(State);

impl NormalizedState {
    /// The state before the first token; of `dims`, `time` is not looked at.
    pub fn zeros(dims: &Dims, device: &Device) -> Self {
        Self(State::zeros(&widened(dims), device))
    }

    /// The state made of h `[batch, heads, key_dim, value_dim]` and z `[batch, heads, key_dim]`, after `position` tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit each other.
    pub fn new(memory: Tensor<4>, normalizer: Tensor<3>, position: u64) -> Result<Self> {
        let [batch, heads, key_dim, _] = memory.dims();
        if normalizer.dims() != [batch, heads, key_dim] {
            return Err(Error::Shape {
                what: "normaliser of a state",
                expected: vec![batch, heads, key_dim],
                found: normalizer.dims().to_vec(),
            });
        }
        Ok(Self(State {
            memory: Tensor::cat(vec![memory, normalizer.unsqueeze_dim(3)], 3),
            position,
        }))
    }

    /// h, `[batch, heads, key_dim, value_dim]`.
    pub fn memory(&self) -> Tensor<4> {
        let value_dim = self.0.memory.dims()[3] - 1;
        self.0.memory.clone().narrow(3, 0, value_dim)
    }

    /// z, `[batch, heads, key_dim]`.
    pub fn normalizer(&self) -> Tensor<3> {
        let value_dim = self.0.memory.dims()[3] - 1;
        self.0.memory.clone().narrow(3, value_dim, 1).squeeze_dim(3)
    }

    /// Tokens seen since the state was empty.
    pub fn position(&self) -> u64 {
        self.0.position
    }
}

fn widened(dims: &Dims) -> Dims {
    Dims {
        value_dim: dims.value_dim + 1,
        ..*dims
    }
}

/// Normalised linear attention; `state` is left after the last token.
///
/// The denominator is not guarded against zeros of its own: feature maps keep it positive.
///
/// # Shapes
/// As for [`gates`]; result `[batch, time, heads, value_dim]`.
///
/// # Errors
/// [`spillway_ssm_core::Error`] when shapes, devices or element types do not fit one another.
pub fn normalized(
    gates: Gates,
    eps: f32,
    state: &mut NormalizedState,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    gates.validate()?;
    let widened = Gates {
        value: with_ones(gates.value),
        ..gates
    };
    let sums = recurrence(widened, &mut state.0, chunking)?;
    Ok(divided(sums, eps))
}

/// Values with one more column, of ones, under which the recurrence sums keys.
pub(crate) fn with_ones(value: Tensor<4>) -> Tensor<4> {
    let [batch, time, heads, _] = value.dims();
    let one = Tensor::<4>::ones([batch, time, heads, 1], &value.device()).cast(value.dtype());
    Tensor::cat(vec![value, one], 3)
}

/// The other columns of a read-out divided by its last, plus ε.
pub(crate) fn divided(sums: Tensor<4>, eps: f32) -> Tensor<4> {
    let [batch, time, heads, columns] = sums.dims();
    if time == 0 {
        return Tensor::zeros([batch, time, heads, columns - 1], &sums.device());
    }
    let numerator = sums.clone().narrow(3, 0, columns - 1);
    numerator / (sums.narrow(3, columns - 1, 1) + eps)
}
