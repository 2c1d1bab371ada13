//! What a layer carries from token to token.

use crate::error::Result;
use crate::gates::{Dims, expect_shape};
use crate::intervention::Memory;
use burn::tensor::{Device, Tensor};

/// The recurrent state of one layer.
#[derive(Clone, Debug)]
pub struct State {
    /// h, f32 `[batch, heads, key_dim, value_dim]`, whatever the dtype of the inputs.
    pub memory: Tensor<4>,
    /// Tokens seen since the state was empty.
    pub position: u64,
}

impl State {
    /// The empty state of a recurrence of this shape (`dims.time` is not looked at).
    pub fn zeros(dims: &Dims, device: &Device) -> Self {
        Self {
            memory: Tensor::zeros([dims.batch, dims.heads, dims.key_dim, dims.value_dim], device),
            position: 0,
        }
    }

    pub(crate) fn validate(&self, dims: &Dims) -> Result<()> {
        let expected = [dims.batch, dims.heads, dims.key_dim, dims.value_dim];
        expect_shape("state", &expected, &self.memory.dims())
    }

    /// The same state without its history in the autodiff graph, as the start of the next segment of truncated
    /// backpropagation through time.
    pub fn detach(self) -> Self {
        Self {
            memory: self.memory.detach(),
            position: self.position,
        }
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        4 * self.memory.shape().num_elements()
    }

    /// Takes the tensor out, leaving an empty one, so that an operation may reuse its storage.
    pub fn take(&mut self) -> Tensor<4> {
        let device = self.memory.device();
        std::mem::replace(&mut self.memory, Tensor::zeros([0, 0, 0, 0], &device))
    }
}

/// Everything that one layer carries: short convolution, recurrence, and the memories of its interventions.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// The last `width − 1` inputs of the short convolution, `[batch, channels, width − 1]`, oldest first.
    pub conv: Tensor<3>,
    /// The recurrent state.
    pub recurrent: State,
    /// One memory per intervention of the chain, in its order.
    pub memories: Vec<Box<dyn Memory>>,
}

impl LayerState {
    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        let memories: usize = self.memories.iter().map(|memory| memory.bytes()).sum();
        4 * self.conv.shape().num_elements() + self.recurrent.bytes() + memories
    }
}
