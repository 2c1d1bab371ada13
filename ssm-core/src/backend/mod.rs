//! How an operator of `spillway-kernel-dsl` reaches tensors on every device.
//!
//! ```text
//! public function ─► validation ─► run ─► Dispatch ─► Flex                  kernel-dsl's host path
//! (shapes, values)   (devices, dtypes)       │   ├──► Cube (with or without fusion)   kernel-dsl's CubeCL kernels
//!                                            │   └──► Autodiff over any of these      one graph node per operator
//! ```
//!
//! Every operator is a value that implements [`Operator`]; two backend extensions ([`extension`]) carry all of them. So a new
//! operator is one file in `operators/`, and a new kind of device is one file here.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod extension;
pub(crate) mod flex;
pub(crate) mod host;
pub(crate) mod operands;
pub(crate) mod operator;
mod over_rows;
mod over_sequences;
mod spec;
mod tensors;

use crate::error::{Error, Result};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, FloatDType, Tensor};
pub(crate) use extension::Forward;
pub(crate) use operands::{Output, named, operands};
pub(crate) use operator::{In, Operator, Out};
pub(crate) use over_rows::{by_kind, over_rows, seen};
pub(crate) use over_sequences::over_sequences;
pub(crate) use spec::Spec;
pub(crate) use spillway_kernel_dsl::operands::{List, Named};
use std::sync::Arc;
pub(crate) use tensors::SLOTS;
use tensors::Tensors;

/// An operand of a call.
#[allow(
    clippy::large_enum_variant,
    reason = "a dozen of these exist for the length of a call; a box would cost more"
)]
pub(crate) enum Input<'a> {
    /// A tensor that is read.
    Read(DispatchTensor),
    /// A state that the operator replaces: f32, whatever the other tensors are.
    State(&'a mut dyn Carried),
}

impl<const D: usize> From<Tensor<D>> for Input<'_> {
    fn from(tensor: Tensor<D>) -> Self {
        Self::Read(tensor.into_dispatch())
    }
}

impl Input<'_> {
    fn device(&self) -> Device {
        match self {
            Self::Read(tensor) => Device::new(tensor.device()),
            Self::State(state) => state.device(),
        }
    }

    fn spec(&self) -> Spec {
        match self {
            Self::Read(tensor) => spec(tensor),
            Self::State(state) => state.spec(),
        }
    }

    fn take(self) -> DispatchTensor {
        match self {
            Self::Read(tensor) => tensor,
            Self::State(state) => state.take(),
        }
    }
}

fn spec(tensor: &DispatchTensor) -> Spec {
    let shape: Vec<_> = tensor.shape().iter().copied().collect();
    Spec::new(shape, tensor.dtype())
}

/// A tensor that an operator takes from its owner.
pub(crate) trait Carried {
    fn device(&self) -> Device;
    fn spec(&self) -> Spec;
    /// Takes the tensor out, so that nobody shares it and its storage can be reused.
    fn take(&mut self) -> DispatchTensor;
}

impl<const D: usize> Carried for Tensor<D> {
    fn device(&self) -> Device {
        Tensor::device(self)
    }

    fn spec(&self) -> Spec {
        Spec::new(self.dims(), Tensor::dtype(self))
    }

    fn take(&mut self) -> DispatchTensor {
        // What is left behind is gone before anyone looks, so it may as well be on the cheapest device.
        std::mem::replace(self, Tensor::zeros([0; D], &Device::flex())).into_dispatch()
    }
}

/// The kinds of device that operators know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flex,
    #[cfg(feature = "cube")]
    Cube,
}

/// Runs an operator whose shapes have been validated, wherever its tensors live. The first operand decides on which device and
/// in which element type. States are taken: whoever gives one puts the output of its name in its place.
///
/// # Errors
/// [`Error::Device`] when the tensors live apart or on a device that operators do not know, [`Error::DType`] when an
/// element type is not one of f32, bf16 and f16, differs from the first operand's without being f32, or when a state is
/// not f32, [`Error::Kernel`] when a CubeCL device cannot run the operator. The states are left as they are then.
pub(crate) fn run<O: Operator>(operator: O, inputs: In<O, Input<'_>>) -> Result<Out<O, DispatchTensor>> {
    let names = <In<O, Input<'_>> as Named<Input<'_>>>::names();
    let inputs = inputs.into_list();
    let kind = check(&names, &inputs)?;
    #[cfg(feature = "cube")]
    admit(&operator, &inputs)?;
    let tensors: List<_> = inputs.into_iter().map(|input| Some(input?.take())).collect();
    let specs = tensors.iter().map(|tensor| tensor.as_ref().map(spec)).collect();
    let outputs = operator.outputs(named(specs)).into_list();
    let tensors = tensors.into_iter().map(|tensor| {
        let tensor = tensor?;
        // kernel-dsl's host path reads f32.
        Some(match kind {
            Kind::Flex => cast(tensor, DType::F32),
            #[cfg(feature = "cube")]
            Kind::Cube => tensor,
        })
    });
    let found = Dispatch::forward(Tensors::new(tensors), Arc::new(operator)).into_array();
    let found = found.into_iter().zip(outputs);
    let found = found.map(|(tensor, spec)| Some(cast(tensor?, spec?.dtype)));
    Ok(named(found.collect()))
}

fn cast(tensor: DispatchTensor, dtype: DType) -> DispatchTensor {
    if tensor.dtype() == dtype {
        return tensor;
    }
    Dispatch::float_cast(tensor, FloatDType::from(dtype))
}

/// Checks devices and element types; gives the kind of device that all tensors live on.
fn check(names: &[&'static str], inputs: &List<Input<'_>>) -> Result<Kind> {
    let mut given = names
        .iter()
        .zip(inputs)
        .filter_map(|(name, input)| Some((*name, input.as_ref()?)));
    let Some((first, decides)) = given.next() else {
        unreachable!("every operator has an input");
    };
    let (device, io) = (decides.device(), decides.spec().dtype);
    if !matches!(io, DType::F32 | DType::BF16 | DType::F16) {
        return Err(dtype_error(first, "f32, bf16 or f16", io));
    }
    for (name, input) in given {
        let dtype = input.spec().dtype;
        match input {
            Input::State(_) if dtype != DType::F32 => {
                return Err(dtype_error(name, "f32, as all states", dtype));
            }
            Input::Read(_) if dtype != io && dtype != DType::F32 => {
                let expected = match io {
                    DType::F32 => format!("f32, as {first}"),
                    _ => format!("f32, or {} as {first}", io.name()),
                };
                return Err(dtype_error(name, expected, dtype));
            }
            _ => check_device(name, input.device(), first, &device)?,
        }
    }
    kind_of(first, device)
}

/// Asks a CubeCL device whether it can run the operator, before anything is taken or queued.
#[cfg(feature = "cube")]
fn admit<O: Operator>(operator: &O, inputs: &List<Input<'_>>) -> Result<()> {
    let Some(first) = inputs.iter().flatten().next() else {
        return Ok(());
    };
    let device = first.device().inner();
    let DispatchDevice::Cube(device) = device.as_dispatch() else {
        return Ok(());
    };
    let specs = inputs
        .iter()
        .map(|input| input.as_ref().map(Input::spec))
        .collect();
    operator
        .admit_cube(&device.client(), named(specs))
        .map_err(|error| Error::Kernel {
            operation: operator.name(),
            reason: error.to_string(),
        })
}

fn check_device(what: &'static str, found: Device, first: &str, expected: &Device) -> Result<()> {
    // Autodiff is no part of equality: constants on the inner device are welcome.
    if found != *expected || differing_strategies(&found, expected) {
        return Err(Error::Device {
            what,
            expected: format!("the device of {first}, {expected:?}"),
            found: format!("{found:?}"),
        });
    }
    Ok(())
}

fn kind_of(what: &'static str, device: Device) -> Result<Kind> {
    match device.inner().as_dispatch() {
        DispatchDevice::Flex(_) => Ok(Kind::Flex),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => Ok(Kind::Cube),
        #[allow(unreachable_patterns, reason = "Burn may have further backends")]
        other => Err(Error::Device {
            what,
            expected: "a flex device, or a CubeCL device whose runtime is a feature of this crate".into(),
            found: format!("{:?}", Device::new(other.clone())),
        }),
    }
}

/// Whether two autodiff devices checkpoint differently, which Burn cannot join in one operation.
fn differing_strategies(a: &Device, b: &Device) -> bool {
    match (
        a.gradient_checkpointing_strategy(),
        b.gradient_checkpointing_strategy(),
    ) {
        (Some(a), Some(b)) => a != b,
        _ => false,
    }
}

fn dtype_error(what: &'static str, expected: impl Into<String>, found: DType) -> Error {
    Error::DType {
        what,
        expected: expected.into(),
        found: found.name().into(),
    }
}
