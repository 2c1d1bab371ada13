//! y = x Wᵀ + b with packed or dense weights.

mod dense;

use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::host::{from_host, host, is_host};
use crate::error::{Error, Result};
use burn::tensor::{Device, Tensor, TensorData};
use dense::dense_linear;
use spillway_kernel_dsl::linear::{self, PackedMatrix};
use std::sync::{Arc, Mutex, PoisonError};

/// The matrix of a projection, `[out_features, in_features]`.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists per matrix; a box would be one more thing to follow"
)]
pub enum Weight {
    /// Packed for the CPU as f32, bf16, int8 or int4, and a constant.
    Packed(Arc<PackedMatrix>),
    /// A tensor, which may require a gradient.
    Dense(Tensor<2>),
}

impl Weight {
    /// Length of the vectors that it gives.
    pub fn out_features(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.out_features(),
            Self::Dense(dense) => dense.dims()[0],
        }
    }

    /// Length of the vectors that it takes.
    pub fn in_features(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.in_features(),
            Self::Dense(dense) => dense.dims()[1],
        }
    }
}

impl From<Arc<PackedMatrix>> for Weight {
    fn from(packed: Arc<PackedMatrix>) -> Self {
        Self::Packed(packed)
    }
}

impl From<PackedMatrix> for Weight {
    fn from(packed: PackedMatrix) -> Self {
        Self::Packed(Arc::new(packed))
    }
}

impl From<Tensor<2>> for Weight {
    fn from(dense: Tensor<2>) -> Self {
        Self::Dense(dense)
    }
}

/// A projection whose weight is kept packed as f32, bf16, int8 or int4 (see [`spillway_kernel_dsl::linear`]), or as a tensor.
///
/// On the CPU a packed weight is read as it is. On any other device, autodiff ones included, products are made with a dense copy
/// of it, made once per device; gradients reach the input and the bias, and the weight is a constant. A weight that is a tensor
/// gets its gradient, too. Its element type is the one that products are computed in: inputs are cast to it, and the result is
/// cast back.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor<1>>,
    unpacked: Arc<Mutex<Vec<(Device, Tensor<2>)>>>,
}

impl Linear {
    /// A projection from `in_features` to `out_features`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bias is not `[out_features]`.
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor<1>>) -> Result<Self> {
        let weight = weight.into();
        if let Some(bias) = &bias {
            crate::gates::expect_shape("bias", &[weight.out_features()], &bias.dims())?;
        }
        Ok(Self {
            weight,
            bias,
            unpacked: Arc::default(),
        })
    }

    /// Weight of the projection, `[out_features, in_features]`.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Length of the vectors that it takes.
    pub fn in_features(&self) -> usize {
        self.weight.in_features()
    }

    /// Length of the vectors that it gives.
    pub fn out_features(&self) -> usize {
        self.weight.out_features()
    }

    /// `[batch, time, in_features]` to `[batch, time, out_features]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `in_features`, [`Error::Device`] when bias or dense weight live
    /// elsewhere.
    pub fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let [batch, time, found] = input.dims();
        if found != self.in_features() {
            return Err(Error::Shape {
                what: "input of a projection",
                expected: vec![self.in_features()],
                found: vec![found],
            });
        }
        let device = input.device();
        let bias = self.bias.as_ref().map(Tensor::device);
        expect_device("bias", bias.as_ref(), &device)?;
        if batch * time == 0 {
            return Ok(Tensor::zeros(
                [batch, time, self.out_features()],
                (&device, input.dtype()),
            ));
        }
        match &self.weight {
            Weight::Packed(packed) if is_host(std::iter::once(&device).chain(&bias)) => {
                Ok(self.packed(packed, input))
            }
            Weight::Packed(packed) => self.dense(input, self.unpacked(packed, &device)),
            Weight::Dense(dense) => {
                expect_device("weight", Some(&dense.device()), &device)?;
                self.dense(input, dense.clone())
            }
        }
    }

    fn packed(&self, weight: &PackedMatrix, input: Tensor<3>) -> Tensor<3> {
        let [batch, time, _] = input.dims();
        let input = RowTensor::new(host(input), 1);
        let bias = self.bias.clone().map(host).map(contiguous);
        let mut out = vec![0.0; input.rows * weight.out_features()];
        flex::validated(linear::linear(
            input.view(),
            weight,
            bias.as_ref().map(slice),
            &mut out,
        ));
        from_host(flex::tensor(out, &[batch, time, weight.out_features()]))
    }

    /// In the element type of the weight.
    fn dense(&self, input: Tensor<3>, weight: Tensor<2>) -> Result<Tensor<3>> {
        let (io, dtype) = (input.dtype(), weight.dtype());
        Ok(dense_linear(input.cast(dtype), weight, self.bias.clone())?.cast(io))
    }

    /// A packed weight as a tensor, made at most once per device.
    fn unpacked(&self, weight: &PackedMatrix, device: &Device) -> Tensor<2> {
        let device = device.clone().inner();
        let mut made = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, weight)) = made.iter().find(|(at, _)| *at == device) {
            return weight.clone();
        }
        let shape = [weight.out_features(), weight.in_features()];
        let mut values = vec![0.0; shape[0] * shape[1]];
        for (index, row) in values.chunks_exact_mut(shape[1]).enumerate() {
            flex::validated(weight.row(index, row));
        }
        let weight = Tensor::from_data(TensorData::new(values, shape), &device);
        made.push((device, weight.clone()));
        weight
    }
}

fn expect_device(what: &'static str, found: Option<&Device>, expected: &Device) -> Result<()> {
    match found.filter(|found| *found != expected) {
        None => Ok(()),
        Some(found) => Err(Error::Device {
            what,
            expected: format!("the device of the input, {expected:?}"),
            found: format!("{found:?}"),
        }),
    }
}
