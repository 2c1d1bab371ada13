//! Maps on all tensors of something, and values moved between devices.

use burn::tensor::{Device, Tensor};

/// A map on the tensors of gates or states, whatever the number of their dimensions.
pub trait TensorMap {
    /// What takes the place of `tensor`, in the same shape.
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D>;
}

/// Every tensor as a constant of a device: [`on_device`].
#[derive(Clone, Copy, Debug)]
pub struct Constants<'a>(pub &'a Device);

impl TensorMap for Constants<'_> {
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        on_device(tensor, self.0)
    }
}

/// The values of `tensor` on `device`, as a constant: whatever graph made them is left behind.
///
/// To an autodiff device from its inner one, and back, nothing is copied.
pub fn on_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    let inner = device.clone().inner();
    let mut tensor = tensor.inner();
    if tensor.device() != inner {
        tensor = tensor.to_device(&inner);
    }
    match device.gradient_checkpointing_strategy() {
        None => tensor,
        // Operands of one operation must agree on how their graph is checkpointed.
        Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
    }
}
