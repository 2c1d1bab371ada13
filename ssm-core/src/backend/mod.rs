//! How an operator of `kernel-dsl` reaches tensors on every device.
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
pub(crate) mod operator;
mod tensors;

use crate::error::{Error, Result};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, FloatDType, Tensor};
pub(crate) use extension::Forward;
pub(crate) use operator::{List, Operator, Spec, first};
use std::sync::Arc;
pub(crate) use tensors::PLACES;
use tensors::Tensors;

/// A tensor that an operator reads, with its name in messages.
pub(crate) struct Operand {
    what: &'static str,
    tensor: DispatchTensor,
}

impl Operand {
    pub(crate) fn new<const D: usize>(what: &'static str, tensor: Tensor<D>) -> Option<Self> {
        let tensor = tensor.into_dispatch();
        Some(Self { what, tensor })
    }

    pub(crate) fn optional<const D: usize>(what: &'static str, tensor: Option<Tensor<D>>) -> Option<Self> {
        Self::new(what, tensor?)
    }

    fn spec(&self) -> Spec {
        let shape: Vec<_> = self.tensor.shape().iter().copied().collect();
        Spec::new(shape, self.tensor.dtype())
    }
}

/// A state that an operator replaces: f32, whatever the other tensors are.
pub(crate) trait Carried {
    fn device(&self) -> Device;
    fn dtype(&self) -> DType;
    /// Takes the tensor out, so that nobody shares it and its storage can be reused.
    fn take(&mut self) -> DispatchTensor;
    fn put(&mut self, tensor: DispatchTensor);
}

impl<const D: usize> Carried for Tensor<D> {
    fn device(&self) -> Device {
        Tensor::device(self)
    }

    fn dtype(&self) -> DType {
        Tensor::dtype(self)
    }

    fn take(&mut self) -> DispatchTensor {
        // What is left behind is gone before anyone looks, so it may as well be on the cheapest device.
        std::mem::replace(self, Tensor::zeros([0; D], &Device::flex())).into_dispatch()
    }

    fn put(&mut self, tensor: DispatchTensor) {
        *self = Tensor::from_dispatch(tensor);
    }
}

/// The kinds of device that operators know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flex,
    #[cfg(feature = "cube")]
    Cube,
}

/// Runs an operator whose shapes have been validated, wherever its tensors live, and gives its outputs. The first operand
/// decides on which device and in which element type; states are the last inputs and the last outputs, and are replaced.
///
/// # Errors
/// [`Error::Device`] when the tensors live apart or on a device that operators do not know, [`Error::DType`] when an
/// element type is not one of f32, bf16 and f16, differs from the first operand's without being f32, or when a state is
/// not f32, [`Error::Kernel`] when a CubeCL device cannot run the operator. The states are left as they are then.
pub(crate) fn run<const OUTPUTS: usize>(
    operator: impl Operator,
    operands: Vec<Option<Operand>>,
    states: &mut [(&'static str, &mut dyn Carried)],
) -> Result<[DispatchTensor; OUTPUTS]> {
    let kind = check(&operands, states)?;
    #[cfg(feature = "cube")]
    admit(&operator, &operands)?;
    let states_in = states.iter_mut().map(|(what, state)| {
        Some(Operand {
            what,
            tensor: state.take(),
        })
    });
    let operands: Vec<_> = operands.into_iter().chain(states_in).collect();
    let specs: Vec<_> = operands
        .iter()
        .map(|operand| operand.as_ref().map(Operand::spec))
        .collect();
    let outputs = operator.outputs(&specs);
    let inputs = operands.into_iter().map(|operand| {
        let tensor = operand?.tensor;
        // kernel-dsl's host path reads f32.
        Some(match kind {
            Kind::Flex => cast(tensor, DType::F32),
            #[cfg(feature = "cube")]
            Kind::Cube => tensor,
        })
    });
    let found = Dispatch::forward(Tensors::new(inputs), Arc::new(operator)).into_array();
    let mut found = found.into_iter().flatten().zip(outputs);
    let mut next = || match found.next() {
        Some((tensor, spec)) => cast(tensor, spec.dtype),
        None => unreachable!("an operator gives as many outputs as its caller takes"),
    };
    let outputs = std::array::from_fn(|_| next());
    for (_, state) in states {
        state.put(next());
    }
    Ok(outputs)
}

fn cast(tensor: DispatchTensor, dtype: DType) -> DispatchTensor {
    if tensor.dtype() == dtype {
        return tensor;
    }
    Dispatch::float_cast(tensor, FloatDType::from(dtype))
}

/// Checks devices and element types; gives the kind of device that all tensors live on.
fn check(operands: &[Option<Operand>], states: &[(&'static str, &mut dyn Carried)]) -> Result<Kind> {
    let mut given = operands.iter().flatten();
    let Some(first) = given.next() else {
        unreachable!("every operator has an input");
    };
    let (device, io) = (Device::new(first.tensor.device()), first.tensor.dtype());
    if !matches!(io, DType::F32 | DType::BF16 | DType::F16) {
        return Err(dtype_error(first.what, "f32, bf16 or f16", io));
    }
    for operand in given {
        let dtype = operand.tensor.dtype();
        if dtype != io && dtype != DType::F32 {
            let expected = match io {
                DType::F32 => format!("f32, as {}", first.what),
                _ => format!("f32, or {} as {}", io.name(), first.what),
            };
            return Err(dtype_error(operand.what, expected, dtype));
        }
        check_device(
            operand.what,
            Device::new(operand.tensor.device()),
            first.what,
            &device,
        )?;
    }
    for (what, state) in states {
        if state.dtype() != DType::F32 {
            return Err(dtype_error(what, "f32, as all states", state.dtype()));
        }
        check_device(what, state.device(), first.what, &device)?;
    }
    kind_of(first.what, device)
}

/// Asks a CubeCL device whether it can run the operator, before anything is taken or queued.
#[cfg(feature = "cube")]
fn admit(operator: &impl Operator, operands: &[Option<Operand>]) -> Result<()> {
    let Some(first) = operands.iter().flatten().next() else {
        return Ok(());
    };
    let DispatchDevice::Cube(device) = first.tensor.device().inner() else {
        return Ok(());
    };
    let specs: Vec<_> = operands
        .iter()
        .map(|operand| operand.as_ref().map(Operand::spec))
        .collect();
    operator
        .admit_cube(&device.client(), &specs)
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
