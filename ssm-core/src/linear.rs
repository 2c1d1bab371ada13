//! y = x Wᵀ + b with packed weights.

use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::host::{from_host, host, is_host};
use crate::error::{Error, Result};
use burn::tensor::{Device, Tensor, TensorData};
use kernel_dsl::linear::{self, PackedMatrix};
use std::sync::{Arc, Mutex, PoisonError};

/// A projection whose weight is kept packed as f32, bf16 or int8; see [`kernel_dsl::linear`].
///
/// On the CPU it reads the packed weight. On any other device, autodiff ones included, it is Burn's matrix product with a
/// dense copy of the weight, made once per device; gradients reach the input and the bias, and the weight is a constant.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<PackedMatrix>,
    bias: Option<Tensor<1>>,
    dense: Arc<Mutex<Vec<(Device, Tensor<2>)>>>,
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
        Ok(Self {
            weight,
            bias,
            dense: Arc::default(),
        })
    }

    /// The packed weight.
    pub fn weight(&self) -> &Arc<PackedMatrix> {
        &self.weight
    }

    /// `[batch, time, in_features]` to `[batch, time, out_features]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `in_features`, [`Error::Device`] when the bias lives elsewhere.
    pub fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let found = input.dims()[2];
        if found != self.weight.in_features() {
            return Err(Error::Shape {
                what: "input of a projection",
                expected: vec![self.weight.in_features()],
                found: vec![found],
            });
        }
        let device = input.device();
        let bias = self.bias.as_ref().map(Tensor::device);
        if let Some(found) = bias.as_ref().filter(|bias| **bias != device) {
            return Err(Error::Device {
                what: "bias",
                expected: format!("the device of the input, {device:?}"),
                found: format!("{found:?}"),
            });
        }
        match is_host(std::iter::once(&device).chain(&bias)) {
            true => Ok(self.packed(input)),
            false => Ok(self.composed(input)),
        }
    }

    fn packed(&self, input: Tensor<3>) -> Tensor<3> {
        let [batch, time, _] = input.dims();
        let input = RowTensor::new(host(input), 1);
        let bias = self.bias.clone().map(host).map(contiguous);
        let mut out = vec![0.0; input.rows * self.weight.out_features()];
        flex::validated(linear::linear(
            input.view(),
            &self.weight,
            bias.as_ref().map(slice),
            &mut out,
        ));
        from_host(flex::tensor(out, &[batch, time, self.weight.out_features()]))
    }

    fn composed(&self, input: Tensor<3>) -> Tensor<3> {
        let [batch, time, features] = input.dims();
        let outputs = self.weight.out_features();
        if batch * time == 0 {
            return Tensor::zeros([batch, time, outputs], &input.device());
        }
        let weight = self.dense(&input.device());
        let product = input
            .reshape([batch * time, features])
            .matmul(weight.transpose())
            .reshape([batch, time, outputs]);
        match &self.bias {
            Some(bias) => product + bias.clone().reshape([1, 1, outputs]),
            None => product,
        }
    }

    /// The weight as a tensor `[out_features, in_features]`, unpacked at most once per device.
    fn dense(&self, device: &Device) -> Tensor<2> {
        let device = device.clone().inner();
        let mut dense = self.dense.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, weight)) = dense.iter().find(|(at, _)| *at == device) {
            return weight.clone();
        }
        let shape = [self.weight.out_features(), self.weight.in_features()];
        let mut values = vec![0.0; shape[0] * shape[1]];
        for (index, row) in values.chunks_exact_mut(shape[1]).enumerate() {
            flex::validated(self.weight.row(index, row));
        }
        let weight = Tensor::from_data(TensorData::new(values, shape), &device);
        dense.push((device, weight.clone()));
        weight
    }
}
