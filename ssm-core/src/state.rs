//! What a layer carries from token to token.

use crate::error::Result;
use crate::gates::{Dims, expect_shape};
use burn::tensor::{Device, Tensor};

/// The recurrent state of one layer.
#[derive(Clone, Debug)]
pub struct State {
    /// h, f32 `[batch, heads, key_dim, value_dim]`, whatever the dtype of the inputs; `[batch, heads, 1, 3]` for a
    /// [mean](crate::ReadOut::Mean).
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

    /// The empty state of a [mean](crate::ReadOut::Mean): no weight yet, and a maximum below every key.
    pub fn empty_mean(batch: usize, heads: usize, device: &Device) -> Self {
        let sums = Tensor::zeros([batch, heads, 1, 2], device);
        let maxima = Tensor::full([batch, heads, 1, 1], spillway_kernel_dsl::wkv4::EMPTY_MAX, device);
        Self {
            memory: Tensor::cat(vec![sums, maxima], 3),
            position: 0,
        }
    }

    pub(crate) fn validate(&self, shape: &[usize; 4]) -> Result<()> {
        expect_shape("state", shape, &self.memory.dims())
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
