//! y = x Wᵀ + b with packed weights.

use crate::backend;
use crate::error::{Error, Result};
use burn::tensor::Tensor;
use kernel_dsl::linear::PackedMatrix;
use std::sync::Arc;

/// A projection whose weight is kept packed as f32, bf16 or int8; see [`kernel_dsl::linear`].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<PackedMatrix>,
    bias: Option<Tensor<1>>,
}

impl Linear {
    /// A projection from `in_features` to `out_features`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bias is not `[out_features]`.
    pub fn new(weight: Arc<PackedMatrix>, bias: Option<Tensor<1>>) -> Result<Self> {
        if let Some(bias) = &bias {
            crate::gates::expect_shape("bias", &[weight.out_features()], &bias.dims())?;
        }
        Ok(Self { weight, bias })
    }

    /// The packed weight.
    pub fn weight(&self) -> &Arc<PackedMatrix> {
        &self.weight
    }

    /// `[batch, time, in_features]` to `[batch, time, out_features]`.
    ///
    /// # Errors
    /// [`Error::Value`] when the last dimension is not `in_features`.
    pub fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let found = input.dims()[2];
        if found != self.weight.in_features() {
            return Err(Error::Shape {
                what: "input of a projection",
                expected: vec![self.weight.in_features()],
                found: vec![found],
            });
        }
        Ok(backend::linear(input, self.weight.clone(), self.bias.clone()))
    }
}
