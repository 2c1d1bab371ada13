//! Long convolutions on a device: neighbouring units take neighbouring channels, so that they read and write neighbouring values.

mod direct;
mod fourier;
mod operands;
mod spectra;
mod transform;

use cubecl::prelude::*;

use super::problem::OPERATOR;
use super::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Problem};
use crate::cube::partial::sum_partials;
use crate::cube::{Client, DType, DeviceBuffer, Error, address_type, cubes};
use crate::operands::ElementTypes;
use crate::shape::Role;
use operands::{Cotangent, Given, cotangent, cotangent_at};

/// Units of a cube.
const UNITS: usize = 64;
/// Tokens whose contributions to a gradient one unit adds up, and partial sums from which it adds up more.
const TOKENS_PER_UNIT: usize = 64;
const MANY_PARTS: usize = 256;

fn validate(problem: &Problem, inputs: &DeviceInputs) -> Result<(), Error> {
    problem
        .validate_later(inputs.later_kernel.is_some())
        .map_err(Error::problem)?;
    let types = ElementTypes::all(inputs.input.dtype());
    inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(problem))
}

/// Convolves every channel with its kernels (see [`long_convolution`](crate::long_convolution) for the formula).
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn long_convolution(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
) -> Result<DeviceOutputs, Error> {
    validate(problem, inputs)?;
    let outputs = DeviceOutputs {
        out: DeviceBuffer::empty(client, problem.tokens() * problem.outputs(), inputs.input.dtype())?,
        tail: DeviceBuffer::empty(client, problem.tail_len(), DType::F32)?,
    };
    if outputs.out.is_empty() && outputs.tail.is_empty() {
        return Ok(outputs);
    }
    match problem.is_direct() {
        true => direct::forward(client, problem, inputs, &outputs)?,
        false => fourier::forward(client, problem, inputs, &outputs)?,
    }
    Ok(outputs)
}

/// Gradients of the loss by all that [`long_convolution`] reads.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    validate(problem, inputs)?;
    let types = ElementTypes::all(inputs.input.dtype());
    let subject = OPERATOR.on_device(Role::Cotangent, types);
    cotangents.expect(&subject, &cotangents.extents(problem))?;
    let mut gradients = inputs.extents(problem).empty(client, types)?;
    let pull_back = PullBack {
        client,
        problem,
        inputs,
        cotangents,
    };
    pull_back.copy(gradients.response.as_ref(), problem.time)?;
    pull_back.copy(gradients.tail.as_ref(), problem.tail_rows())?;
    if let Some(skip) = &gradients.skip {
        pull_back.skip(skip)?;
    }
    if problem.tokens() * problem.outputs() == 0 {
        // Nothing meets anything.
        let meeting = [&mut gradients.input, &mut gradients.kernel];
        for gradient in meeting.into_iter().chain(&mut gradients.later_kernel) {
            *gradient = DeviceBuffer::zeros(client, gradient.len(), gradient.dtype())?;
        }
    } else if problem.is_direct() {
        direct::backward(&pull_back, &gradients)?;
    } else {
        fourier::backward(&pull_back, &gradients)?;
    }
    Ok(gradients)
}

/// What a backward pass reads.
struct PullBack<'a> {
    client: &'a Client,
    problem: &'a Problem,
    inputs: &'a DeviceInputs,
    cotangents: &'a DeviceCotangents,
}

impl PullBack<'_> {
    /// Whether the cotangents of output and tail are there.
    fn seen(&self) -> (bool, bool) {
        (self.cotangents.out.is_some(), self.cotangents.tail.is_some())
    }

    /// The first `rows` places of every sequence's cotangent, as they are.
    fn copy(&self, to: Option<&DeviceBuffer>, rows: usize) -> Result<(), Error> {
        let Some(to) = to.filter(|to| !to.is_empty()) else {
            return Ok(());
        };
        let (by_out, by_tail) = self.seen();
        copy_kernel::launch(
            self.client,
            cubes(self.client, to.len().div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(self.client, to.len())?,
            cotangent(self),
            to.arg(),
            rows,
            to.len(),
            by_out,
            by_tail,
            self.inputs.input.dtype().elem(),
            to.dtype().elem(),
        );
        Ok(())
    }

    /// D̄, in partial sums over stretches of tokens.
    fn skip(&self, skip: &DeviceBuffer) -> Result<(), Error> {
        let (tokens, outputs) = (self.problem.tokens(), self.problem.outputs());
        let tokens_per_unit = tokens.div_ceil(MANY_PARTS).max(TOKENS_PER_UNIT);
        let parts = tokens.div_ceil(tokens_per_unit);
        let sums = DeviceBuffer::empty(self.client, parts * outputs, DType::F32)?;
        if parts * outputs > 0 {
            let (by_out, by_tail) = self.seen();
            skip_kernel::launch(
                self.client,
                cubes(self.client, (parts * outputs).div_ceil(UNITS))?,
                CubeDim::new_1d(UNITS as u32),
                address_type(
                    self.client,
                    self.inputs.input.buffer().len().max(tokens * outputs),
                )?,
                Given::of(self.problem, self.inputs),
                cotangent(self),
                sums.arg(),
                tokens,
                tokens_per_unit,
                parts * outputs,
                by_out,
                by_tail,
                self.inputs.input.dtype().elem(),
            );
        }
        sum_partials(self.client, &sums, skip, parts, outputs)
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn copy_kernel<F: Float, G: Float>(
    cotangent: &Cotangent<F>,
    copy: &mut [G],
    rows: usize,
    total: usize,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _from: ElemType,
    #[define(G)] _copied: ElemType,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % cotangent.outputs;
        let row = ABSOLUTE_POS / cotangent.outputs;
        let value = cotangent_at::<F>(cotangent, row / rows, row % rows, column, by_out, by_tail);
        copy[ABSOLUTE_POS] = G::cast_from(value);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn skip_kernel<F: Float>(
    given: &Given<F>,
    cotangent: &Cotangent<F>,
    sums: &mut [f32],
    tokens: usize,
    tokens_per_unit: usize,
    total: usize,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % given.outputs;
        let part = ABSOLUTE_POS / given.outputs;
        let mut sum = 0.0f32;
        for row in part * tokens_per_unit..min((part + 1) * tokens_per_unit, tokens) {
            let seen = cotangent_at::<F>(
                cotangent,
                row / given.time,
                row % given.time,
                column,
                by_out,
                by_tail,
            );
            sum += seen * given.input.at(row, column % given.channels);
        }
        sums[ABSOLUTE_POS] = sum;
    }
}
