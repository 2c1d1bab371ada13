//! Kernels of more positions than [`MOST_POSITIONS`](super::positions::MOST_POSITIONS), whose phases need f64: computed on the CPU.

use super::super::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Inputs, Operands, Problem, Results, host,
};
use crate::cube::host_copy::{RowsCopy, upload_like};
use crate::cube::{Client, DeviceBuffer, Error};

/// As [`kernel`](super::kernel), of operands that fit.
pub(super) fn kernel(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
) -> Result<DeviceOutputs, Error> {
    let copies = copy_inputs(client, inputs)?;
    let shapes = Results {
        kernel: (),
        state_kernel: (),
        next_state: (),
    };
    let mut results = shapes.extents(problem).zeros::<f32>();
    host::kernel(problem, &view(&copies)?, &mut results.as_written()).map_err(Error::problem)?;
    results.as_ref().try_map(
        |_, rows| DeviceBuffer::from_f32(client, rows),
        |_, values| DeviceBuffer::from_f32(client, values),
    )
}

/// As [`backward`](super::backward), of operands that fit.
pub(super) fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    let copies = copy_inputs(client, inputs)?;
    let held = cotangents.as_ref().try_map(
        |_, rows| rows.as_ref().map(|rows| RowsCopy::new(client, rows)).transpose(),
        |_, values| values.as_ref().map(|values| values.read(client)).transpose(),
    )?;
    let cotangents = held.as_ref().try_map(
        |_, rows| rows.as_ref().map(RowsCopy::view).transpose(),
        |_, values| Ok(values.as_deref()),
    )?;
    let mut gradients = inputs.extents(problem).zeros::<f32>();
    host::backward(problem, &view(&copies)?, &cotangents, &mut gradients.as_written())
        .map_err(Error::problem)?;
    gradients.as_ref().try_map(
        |_, rows| upload_like(client, rows, &inputs.signal),
        |_, values| DeviceBuffer::from_f32(client, values),
    )
}

fn copy_inputs(client: &Client, inputs: &DeviceInputs) -> Result<Operands<RowsCopy, Vec<f32>>, Error> {
    inputs.as_ref().try_map(
        |_, rows| RowsCopy::new(client, rows),
        |_, values| values.read(client),
    )
}

fn view(copies: &Operands<RowsCopy, Vec<f32>>) -> Result<Inputs<'_>, Error> {
    copies
        .as_ref()
        .try_map(|_, rows| rows.view(), |_, values| Ok(values.as_slice()))
}
