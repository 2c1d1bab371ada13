//! Operators that only the CPU has a kernel for, and no gradient: tensors as what they are on the flex device. And tensors of no values,
//! wherever they are.

use super::flex::{contiguous, slice};
use crate::error::{Error, Result};
use burn::backend::{DispatchTensor, Flex};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_flex::FlexTensor;

/// Whether every device is the CPU without autodiff.
pub(crate) fn is_host<'a>(devices: impl IntoIterator<Item = &'a Device>) -> bool {
    devices
        .into_iter()
        .all(|device| matches!(device.as_dispatch(), burn::backend::DispatchDevice::Flex(_)))
}

/// Refuses any device but the CPU without autodiff.
///
/// # Errors
/// [`Error::Unsupported`], naming the operation and the first device that it cannot run on.
pub(crate) fn expect_host<'a>(
    operation: &'static str,
    devices: impl IntoIterator<Item = &'a Device>,
) -> Result<()> {
    match devices.into_iter().find(|device| !is_host([*device])) {
        None => Ok(()),
        Some(device) => Err(Error::Unsupported {
            operation,
            device: format!("{device:?}"),
            instead: "run it on the flex device without autodiff",
        }),
    }
}

/// The tensor as f32 values on the CPU, where [`is_host`] has said that it is.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = match tensor.dtype() {
        DType::F32 => tensor,
        _ => tensor.cast(DType::F32),
    };
    match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(error) => unreachable!("the device has been looked at: {error:?}"),
    }
}

/// A tensor of the CPU.
pub(crate) fn from_host<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// A tensor of no values, in f32.
///
/// Uploaded, not filled: Burn's fusion takes an empty tensor for the shape of a kernel in which it fuses the operations around it, and
/// that kernel then computes none of them.
pub(crate) fn empty<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(Vec::<f32>::new(), shape), device)
}

/// `[first, second, …]` from `[first · second, …]`, in f32.
pub(crate) fn unflattened(tensor: DispatchTensor, shape: [usize; 4]) -> Tensor<4> {
    let tensor = Tensor::<3>::from_dispatch(tensor);
    match shape.contains(&0) {
        // Burn's reshape reads 0 as "as it was".
        true => empty(shape, &tensor.device()),
        false => tensor.reshape(shape),
    }
}

/// Refuses NaN and infinities among parameters, be they on the CPU or elsewhere; waits for them.
///
/// # Errors
/// [`Error::Value`], with the first; [`Error::Kernel`] for values that cannot be had.
pub(crate) fn expect_finite<const D: usize>(what: &'static str, tensor: &Tensor<D>) -> Result<()> {
    let plain = tensor.clone().inner();
    let first = |values: &[f32]| values.iter().copied().find(|value| !value.is_finite());
    let found = if is_host([&plain.device()]) {
        first(slice(&contiguous(host(plain))))
    } else {
        let operation = "reading parameters";
        let values = values(plain).map_err(|reason| Error::Kernel { operation, reason })?;
        first(&values)
    };
    match found {
        None => Ok(()),
        Some(value) => Err(Error::Value {
            what,
            expected: "finite numbers",
            found: value.to_string(),
        }),
    }
}

/// All values of a tensor, wherever it lives; waits for them.
///
/// # Errors
/// What is wrong with them, in words.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> std::result::Result<Vec<f32>, String> {
    let data = tensor.into_data().convert::<f32>();
    data.try_to_vec().map_err(|error| format!("{error:?}"))
}
