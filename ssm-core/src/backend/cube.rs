//! Burn's tensors on CubeCL devices as the buffers and row views that `spillway-kernel-dsl` takes, without copies where rows lie
//! contiguously.

use super::flex::row_stride;
use super::operands::{each, each_of_both, required};
use super::spec::Spec;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::{cast, into_contiguous, untile};
use burn_cubecl::tensor::CubeTensor;
use spillway_kernel_dsl::cube::{self, Client, DeviceBuffer, DeviceRows, Error};
use spillway_kernel_dsl::operands::{Declared, Kind, Named, Operand};

/// Where the tensors of a call live.
pub(crate) struct Residence {
    pub(crate) client: Client,
    device: CubeDevice,
    /// The element type of the tensor that told.
    dtype: DType,
}

impl Residence {
    pub(crate) fn of(tensor: &CubeTensor) -> Self {
        Self {
            client: tensor.client.clone(),
            device: tensor.device.clone(),
            dtype: tensor.dtype,
        }
    }

    /// Where the first of the operands lives, and with it all.
    pub(crate) fn of_first<D: Declared>(operands: &D::As<CubeTensor>) -> Self
    where
        D::As<CubeTensor>: Clone,
    {
        Self::of(&required(
            operands.clone().into_list().into_iter().flatten().next(),
        ))
    }

    /// Tokens in the type of the tensor that told, gates in f32.
    pub(crate) fn types(&self) -> Types {
        Types {
            tokens: self.dtype,
            gates: DType::F32,
        }
    }

    /// What a kernel computed, as a tensor of this shape and element type.
    pub(crate) fn tensor(&self, buffer: DeviceBuffer, spec: &Spec) -> CubeTensor {
        let tensor = CubeTensor::new_contiguous(
            self.client.clone(),
            self.device.clone(),
            Shape::from(spec.shape.clone()),
            buffer.handle().clone(),
            burn_type(buffer.dtype()),
        );
        cast(tensor, spec.dtype)
    }

    /// Gradients, each like its input.
    pub(crate) fn tensors<D: Declared>(
        &self,
        buffers: D::As<DeviceBuffer>,
        specs: D::As<Spec>,
    ) -> D::As<CubeTensor> {
        each_of_both::<D, _, _, _>(buffers, specs, |buffer, spec| self.tensor(buffer, &spec))
    }
}

/// What the operands are like.
pub(crate) fn specs<D: Declared>(operands: &D::As<CubeTensor>) -> D::As<Spec>
where
    D::As<CubeTensor>: Clone,
{
    each::<D, _, _>(operands.clone(), |tensor| spec(&tensor))
}

/// The shape of every operand.
pub(crate) fn shapes<D: Declared>(specs: &D::As<Spec>) -> D::As<Vec<usize>>
where
    D::As<Spec>: Clone,
{
    each::<D, _, _>(specs.clone(), |spec| spec.shape)
}

/// What was admitted before the launch can fail only by a defect of this crate or of the kernel.
pub(crate) fn launched<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("a call that the device had admitted failed before its launch: {error}"),
    }
}

/// Checks that a device can hold tensors.
///
/// # Errors
/// [`Error::Capability`] for an element type that it lacks, [`Error::TooLarge`] for more bytes than fit into a buffer.
pub(crate) fn admit<'a>(client: &Client, specs: impl IntoIterator<Item = &'a Spec>) -> Result<(), Error> {
    let limit = cube::Limits::of(client).buffer_bytes;
    for spec in specs {
        let dtype = kernel_type(spec.dtype);
        if !dtype.is_supported(client) {
            return Err(Error::Capability {
                capability: match dtype {
                    cube::DType::F32 => "f32",
                    cube::DType::F16 => "f16",
                    cube::DType::BF16 => "bf16",
                },
                needed_for: "a tensor of it",
            });
        }
        let values = spec
            .shape
            .iter()
            .fold(1u64, |len, &dim| len.saturating_mul(dim as u64));
        let found = values.saturating_mul(dtype.size() as u64);
        if found > limit {
            return Err(Error::TooLarge {
                what: "the size of a tensor in bytes",
                limit,
                found,
            });
        }
    }
    Ok(())
}

pub(crate) fn spec(tensor: &CubeTensor) -> Spec {
    let shape: Vec<_> = tensor.meta.shape().iter().copied().collect();
    Spec::new(shape, tensor.dtype)
}

/// Rows of the last `trailing` dimensions, flattened, in the tensor's own element type.
pub(crate) fn rows(tensor: CubeTensor, trailing: usize) -> DeviceRows {
    let tensor = untile(tensor);
    let dims = spec(&tensor).shape;
    let split = dims.len() - trailing;
    let (rows, cols): (usize, usize) = (dims[..split].iter().product(), dims[split..].iter().product());
    let strides: Vec<_> = tensor
        .meta
        .strides()
        .iter()
        .map(|&stride| stride as isize)
        .collect();
    let (tensor, stride) = match row_stride(&dims, &strides, split) {
        Some(stride) => (tensor, stride.max(cols)),
        None => (into_contiguous(tensor), cols),
    };
    let len = match rows * cols {
        0 => 0,
        _ => (rows - 1) * stride + cols,
    };
    let buffer = launched(DeviceBuffer::new(tensor.handle, len, kernel_type(tensor.dtype)));
    let stride = if len == 0 { cols } else { stride };
    launched(DeviceRows::new(buffer, 0, rows, cols, stride))
}

/// As [`rows`], rounded or widened to `dtype`.
pub(crate) fn rows_as(tensor: CubeTensor, trailing: usize, dtype: DType) -> DeviceRows {
    rows(cast(tensor, dtype), trailing)
}

/// The element types in which a kernel takes what there is per token, constant decays included; all else it takes in f32.
#[derive(Clone, Copy)]
pub(crate) struct Types {
    pub(crate) tokens: DType,
    pub(crate) gates: DType,
}

impl Types {
    /// Gates in the type of the tokens.
    pub(crate) fn all(dtype: DType) -> Self {
        Self {
            tokens: dtype,
            gates: dtype,
        }
    }

    /// The rows of an operand over tokens `[batch, time, …]`.
    pub(crate) fn rows(self, operand: Operand, tensor: CubeTensor) -> DeviceRows {
        let trailing = tensor.meta.shape().iter().skip(2).count().max(1);
        rows_as(tensor, trailing, self.of(operand))
    }

    /// The values of an operand without tokens.
    pub(crate) fn values(self, operand: Operand, tensor: CubeTensor) -> DeviceBuffer {
        values_as(tensor, self.of(operand))
    }

    fn of(self, operand: Operand) -> DType {
        match operand.kind {
            Kind::Rows => self.tokens,
            Kind::Gates => self.gates,
            Kind::Values => DType::F32,
        }
    }
}

/// All values in order, as f32: states and parameters.
pub(crate) fn values(tensor: CubeTensor) -> DeviceBuffer {
    values_as(tensor, DType::F32)
}

/// All values in order, rounded or widened to `dtype`.
pub(crate) fn values_as(tensor: CubeTensor, dtype: DType) -> DeviceBuffer {
    let tensor = into_contiguous(cast(tensor, dtype));
    let len = spec(&tensor).shape.iter().product();
    launched(DeviceBuffer::new(tensor.handle, len, kernel_type(dtype)))
}

fn burn_type(dtype: cube::DType) -> DType {
    match dtype {
        cube::DType::F32 => DType::F32,
        cube::DType::F16 => DType::F16,
        cube::DType::BF16 => DType::BF16,
    }
}

pub(crate) fn kernel_type(dtype: DType) -> cube::DType {
    match dtype {
        DType::F16 => cube::DType::F16,
        DType::BF16 => cube::DType::BF16,
        // The only other type that is let in.
        _ => cube::DType::F32,
    }
}
