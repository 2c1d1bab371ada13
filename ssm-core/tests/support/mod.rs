//! The devices that tests run on, and golden cases with gradients on them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use burn::tensor::{Device, Tensor, TensorData};

/// The devices, with names for messages.
pub fn devices() -> Vec<(String, Device)> {
    vec![("flex".to_owned(), Device::flex())]
}

/// A tensor of these values.
pub fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// The values of a tensor, in order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_to_vec::<f32>()
        .expect("float tensors")
}
