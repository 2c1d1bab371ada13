//! An A of low rank on a device: computed on the CPU, from copies of the operands.
//!
//! Every token of every channel needs sums over all modes between two steps of each, which a cube would form at a barrier per token
//! and rank; the system is made discrete in f64, which WGSL does not have.

use crate::cube::host_copy::RowsCopy;
use crate::cube::{Client, DType, DeviceBuffer, Error};
use crate::linear_state_space::problem::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Inputs, Operands, Problem, Results,
};
use crate::linear_state_space::{DEFAULT_CHUNK_SIZE, host};

/// As [`forward`](super::forward); waits for the device.
pub(super) fn forward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
) -> Result<DeviceOutputs, Error> {
    let copies = Copies::new(client, inputs)?;
    let shapes = Results { out: (), state: () };
    let mut found = shapes.extents(problem).zeros::<f32>();
    host::forward(problem, &copies.view()?, &mut found.as_written()).map_err(Error::problem)?;
    found.as_ref().try_map(
        |_, rows| DeviceBuffer::from_f32_as(client, rows, inputs.input.dtype()),
        |_, values| DeviceBuffer::from_f32(client, values),
    )
}

/// As [`backward`](super::backward), of operands that were checked; waits for the device.
pub(super) fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    let copies = Copies::new(client, inputs)?;
    let held = cotangents.as_ref().try_map(
        |_, rows| rows.as_ref().map(|rows| RowsCopy::new(client, rows)).transpose(),
        |_, values| values.as_ref().map(|values| values.read(client)).transpose(),
    )?;
    let cotangents = held.as_ref().try_map(
        |_, rows| rows.as_ref().map(RowsCopy::view).transpose(),
        |_, values| Ok(values.as_deref()),
    )?;
    let mut found = inputs.extents(problem).zeros::<f32>();
    host::backward(
        problem,
        &copies.view()?,
        DEFAULT_CHUNK_SIZE,
        &cotangents,
        &mut found.as_written(),
    )
    .map_err(Error::problem)?;
    let tokens: DType = inputs.input.dtype();
    found.as_ref().try_map(
        |_, rows| DeviceBuffer::from_f32_as(client, rows, tokens),
        |_, values| DeviceBuffer::from_f32(client, values),
    )
}

/// The operands in memory.
struct Copies(Operands<RowsCopy, Vec<f32>>);

impl Copies {
    fn new(client: &Client, inputs: &DeviceInputs) -> Result<Self, Error> {
        let copies = inputs.as_ref().try_map(
            |_, rows| RowsCopy::new(client, rows),
            |_, values| values.read(client),
        );
        Ok(Self(copies?))
    }

    fn view(&self) -> Result<Inputs<'_>, Error> {
        self.0
            .as_ref()
            .try_map(|_, rows| rows.view(), |_, values| Ok(values.as_slice()))
    }
}
