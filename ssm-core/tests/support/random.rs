//! Random values that can be had again.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use burn::tensor::{Device, Tensor, TensorData};

/// Values in [−1, 1) that follow from a seed (splitmix64).
pub struct Values(pub u64);

impl Values {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn list(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    /// On the CPU.
    pub fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let values = self.list(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }
}
