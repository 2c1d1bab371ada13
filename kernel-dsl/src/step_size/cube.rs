//! Step sizes on a device: the same mathematics as CubeCL kernels.

use cubecl::prelude::*;

use super::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Problem};
use crate::cube::math::{sigmoid, softplus};
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, address_type, cubes};
use crate::operands::ElementTypes;

/// Units of a cube.
const UNITS: usize = 64;
/// Tokens whose contributions to bias and A_log one unit adds up, and partial sums from which it adds up more.
const TOKENS_PER_UNIT: usize = 16;
const MANY_PARTS: usize = 256;

impl DeviceInputs {
    fn constants(&self, problem: &Problem) -> ConstantsLaunch {
        let (low, high) = problem.limit;
        // WGSL has no literal for an infinite bound.
        let high = high.min(f32::MAX);
        ConstantsLaunch::new(self.bias.arg(), self.a_log.arg(), problem.heads, low, high)
    }
}

fn validate(
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: Option<&DeviceCotangents>,
) -> Result<(), Error> {
    problem.validate().map_err(Error::problem)?;
    problem.expect_on_device(inputs, cotangents, types(inputs))
}

/// Step sizes and decays are f32, whatever they are made of.
fn types(inputs: &DeviceInputs) -> ElementTypes {
    ElementTypes {
        tokens: inputs.raw.dtype(),
        gates: DType::F32,
    }
}

#[derive(CubeType, CubeLaunch)]
struct Constants {
    bias: Box<[f32]>,
    a_log: Box<[f32]>,
    heads: usize,
    low: f32,
    high: f32,
}

/// Δ and log α (see [`step_size`](crate::step_size) for the formula).
///
/// # Errors
/// [`Error`] when a shape, a type or a limit is wrong, or when the device cannot run it.
pub fn step_size(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceOutputs, Error> {
    validate(problem, inputs, None)?;
    let len = problem.tokens * problem.heads;
    let outputs = DeviceOutputs {
        step: DeviceBuffer::empty(client, len, DType::F32)?,
        log_decay: DeviceBuffer::empty(client, len, DType::F32)?,
    };
    if len > 0 {
        step_size_kernel::launch(
            client,
            cubes(client, len.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, inputs.raw.buffer().len().max(len))?,
            inputs.raw.view(),
            inputs.constants(problem),
            outputs.step.arg(),
            outputs.log_decay.arg(),
            len,
            inputs.raw.dtype().elem(),
        );
    }
    Ok(outputs)
}

#[cube(launch, address_type = "dynamic")]
fn step_size_kernel<F: Float>(
    raw: &RowsView<F>,
    constants: &Constants,
    step: &mut [f32],
    log_decay: &mut [f32],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < len {
        let head = ABSOLUTE_POS % constants.heads;
        let x = raw.at(ABSOLUTE_POS / constants.heads, head) + constants.bias[head];
        let delta = clamped(softplus(x), constants);
        step[ABSOLUTE_POS] = delta;
        log_decay[ABSOLUTE_POS] = -delta * constants.a_log[head].exp();
    }
}

/// `max` and `min` could turn a NaN into a bound.
#[cube]
fn clamped(free: f32, constants: &Constants) -> f32 {
    let mut delta = free;
    if free < constants.low {
        delta = constants.low;
    }
    if free > constants.high {
        delta = constants.high;
    }
    delta
}

/// Gradients of the loss by all that [`step_size`] reads.
///
/// # Errors
/// [`Error`] when a shape, a type or a limit is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    validate(problem, inputs, Some(cotangents))?;
    let Problem { tokens, heads, .. } = *problem;
    let tokens_per_unit = tokens.div_ceil(MANY_PARTS).max(TOKENS_PER_UNIT);
    let parts = tokens.div_ceil(tokens_per_unit);
    let partial = || DeviceBuffer::empty(client, parts * heads, DType::F32);
    let (biases, a_logs) = (partial()?, partial()?);
    let gradients = inputs.extents(problem).empty(client, types(inputs))?;
    if parts * heads > 0 {
        let cotangent = |view: &Option<DeviceRows>| view.as_ref().unwrap_or(&inputs.raw).view();
        backward_kernel::launch(
            client,
            cubes(client, (parts * heads).div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, inputs.raw.buffer().len().max(tokens * heads))?,
            inputs.raw.view(),
            inputs.constants(problem),
            // An absent cotangent is not read.
            cotangent(&cotangents.step),
            cotangent(&cotangents.log_decay),
            gradients.raw.arg(),
            biases.arg(),
            a_logs.arg(),
            tokens,
            tokens_per_unit,
            parts * heads,
            cotangents.step.is_some(),
            cotangents.log_decay.is_some(),
            inputs.raw.dtype().elem(),
        );
    }
    sum_partials(client, &biases, &gradients.bias, parts, heads)?;
    sum_partials(client, &a_logs, &gradients.a_log, parts, heads)?;
    Ok(gradients)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float>(
    raw: &RowsView<F>,
    constants: &Constants,
    step: &RowsView<f32>,
    log_decay: &RowsView<f32>,
    by_raw: &mut [F],
    biases: &mut [f32],
    a_logs: &mut [f32],
    tokens: usize,
    tokens_per_unit: usize,
    total: usize,
    #[comptime] by_step: bool,
    #[comptime] by_log_decay: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let head = ABSOLUTE_POS % constants.heads;
        let part = ABSOLUTE_POS / constants.heads;
        let rate = -constants.a_log[head].exp();
        let mut bias = 0.0f32;
        let mut a_log = 0.0f32;
        for row in part * tokens_per_unit..min((part + 1) * tokens_per_unit, tokens) {
            let x = raw.at(row, head) + constants.bias[head];
            let free = softplus(x);
            let mut gradient = 0.0f32;
            if comptime!(by_step) {
                gradient += step.at(row, head);
            }
            if comptime!(by_log_decay) {
                let cotangent = log_decay.at(row, head);
                gradient += rate * cotangent;
                a_log += cotangent * (clamped(free, constants) * rate);
            }
            gradient *= sigmoid(x);
            if free < constants.low || free > constants.high {
                gradient = 0.0f32;
            }
            by_raw[row * constants.heads + head] = F::cast_from(gradient);
            bias += gradient;
        }
        biases[ABSOLUTE_POS] = bias;
        a_logs[ABSOLUTE_POS] = a_log;
    }
}
