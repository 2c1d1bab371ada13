//! Kernels of diagonal and low-rank systems for a device: computed on the CPU, because sums near the frequency of a slowly decaying mode, and the transform, need f64, which WGSL does not have.
//!
//! What is read and written is small beside what a layer does with it: parameters, and a kernel row for each channel.

use super::problem::OPERATOR;
use super::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Operands, Problem, Results, host,
};
use crate::cube::host_copy::{RowsCopy, upload_like};
use crate::cube::{Client, DType, DeviceBuffer, Error};
use crate::operands::ElementTypes;
use crate::shape::Role;

/// As [`kernel`](super::kernel), with operands of a device; waits for it.
///
/// # Errors
/// [`Error`] when a shape, a type or a value is wrong, or when the device fails.
pub fn kernel(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceOutputs, Error> {
    let copies = copy_inputs(client, problem, inputs)?;
    let shapes = Results {
        kernel: (),
        state_kernel: (),
    };
    let mut results = shapes.extents(problem).zeros::<f32>();
    host::kernel(problem, &view(&copies)?, &mut results.as_written()).map_err(Error::problem)?;
    results
        .as_ref()
        .try_map(|_, rows| DeviceBuffer::from_f32(client, rows))
}

/// As [`backward`](super::backward), with operands of a device; waits for it.
///
/// # Errors
/// [`Error`] when a shape, a type or a value is wrong, or when the device fails.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    let copies = copy_inputs(client, problem, inputs)?;
    let subject = OPERATOR.on_device(Role::Cotangent, ElementTypes::all(DType::F32));
    cotangents.expect(&subject, &cotangents.extents(problem))?;
    let held = cotangents
        .as_ref()
        .try_map(|_, rows| rows.as_ref().map(|rows| RowsCopy::new(client, rows)).transpose())?;
    let cotangents = held
        .as_ref()
        .try_map(|_, rows| rows.as_ref().map(RowsCopy::view).transpose())?;
    let mut gradients = inputs.extents(problem).zeros::<f32>();
    host::backward(problem, &view(&copies)?, &cotangents, &mut gradients.as_written())
        .map_err(Error::problem)?;
    gradients.as_ref().try_map(
        |_, rows| upload_like(client, rows, &inputs.c),
        |_, values| DeviceBuffer::from_f32(client, values),
    )
}

fn copy_inputs(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
) -> Result<Operands<RowsCopy, Vec<f32>>, Error> {
    problem.validate().map_err(Error::problem)?;
    let types = ElementTypes::all(inputs.c.dtype());
    inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(problem))?;
    inputs.as_ref().try_map(
        |_, rows| RowsCopy::new(client, rows),
        |_, values| values.read(client),
    )
}

fn view(copies: &Operands<RowsCopy, Vec<f32>>) -> Result<super::Inputs<'_>, Error> {
    copies
        .as_ref()
        .try_map(|_, rows| rows.view(), |_, values| Ok(values.as_slice()))
}
