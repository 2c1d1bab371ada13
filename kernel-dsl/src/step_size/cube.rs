//! Step sizes on a device: the same mathematics as CubeCL kernels.

use cubecl::prelude::*;

use super::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Problem};
use crate::cube::math::{sigmoid, softplus};
use crate::cube::partial::Partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, Error, launch_units};
use crate::operands::ElementTypes;

#[derive(CubeType, CubeLaunch)]
struct Inputs<F: Float> {
    raw: RowsView<F>,
    bias: Box<[f32]>,
    a_log: Box<[f32]>,
    heads: usize,
    low: f32,
    high: f32,
}

impl DeviceInputs {
    fn expected_by(&self, problem: &Problem, cotangents: Option<&DeviceCotangents>) -> Result<(), Error> {
        problem.validate().map_err(Error::problem)?;
        problem.expect_on_device(self, cotangents, self.types())
    }

    /// Step sizes and decays are f32, whatever they are made of.
    fn types(&self) -> ElementTypes {
        ElementTypes {
            tokens: self.raw.dtype(),
            gates: DType::F32,
        }
    }

    fn arg<F: Float>(&self, problem: &Problem) -> InputsLaunch<F> {
        let (low, high) = problem.limit;
        // WGSL has no literal for an infinite bound.
        let high = high.min(f32::MAX);
        let (bias, a_log) = (self.bias.arg(), self.a_log.arg());
        InputsLaunch::new(self.raw.view(), bias, a_log, problem.heads, low, high)
    }
}

#[cube]
impl<F: Float> Inputs<F> {
    /// raw + bias.
    fn at(&self, row: usize, head: usize) -> f32 {
        self.raw.at(row, head) + self.bias[head]
    }

    /// `max` and `min` could turn a NaN into a bound.
    fn clamp(&self, free: f32) -> f32 {
        let mut step = free;
        if free < self.low {
            step = self.low;
        }
        if free > self.high {
            step = self.high;
        }
        step
    }
}

/// Δ and log α (see [`step_size`](crate::step_size) for the formula).
///
/// # Errors
/// [`Error`] when a shape, a type or a limit is wrong, or when the device cannot run it.
pub fn step_size(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceOutputs, Error> {
    inputs.expected_by(problem, None)?;
    let len = problem.tokens * problem.heads;
    let outputs = DeviceOutputs {
        step: DeviceBuffer::empty(client, len, DType::F32)?,
        log_decay: DeviceBuffer::empty(client, len, DType::F32)?,
    };
    launch_units!(
        step_size_kernel,
        client,
        len,
        inputs.raw.buffer().len().max(len),
        inputs.arg(problem),
        outputs.step.arg(),
        outputs.log_decay.arg(),
        len,
        inputs.raw.dtype().elem(),
    );
    Ok(outputs)
}

#[cube(launch, address_type = "dynamic")]
fn step_size_kernel<F: Float>(
    inputs: &Inputs<F>,
    step: &mut [f32],
    log_decay: &mut [f32],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < len {
        let head = ABSOLUTE_POS % inputs.heads;
        let delta = inputs.clamp(softplus(inputs.at(ABSOLUTE_POS / inputs.heads, head)));
        step[ABSOLUTE_POS] = delta;
        log_decay[ABSOLUTE_POS] = -delta * inputs.a_log[head].exp();
    }
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
    inputs.expected_by(problem, Some(cotangents))?;
    let Problem { tokens, heads, .. } = *problem;
    let biases = Partials::of(client, tokens, heads)?;
    let a_logs = Partials::of(client, tokens, heads)?;
    let gradients = inputs.extents(problem).empty(client, inputs.types())?;
    // An absent cotangent is not read.
    let [step, log_decay] = [&cotangents.step, &cotangents.log_decay].map(|view| view.as_ref());
    launch_units!(
        backward_kernel,
        client,
        biases.len(),
        inputs.raw.buffer().len().max(tokens * heads),
        inputs.arg(problem),
        step.unwrap_or(&inputs.raw).view(),
        log_decay.unwrap_or(&inputs.raw).view(),
        gradients.raw.arg(),
        biases.arg(),
        a_logs.arg(),
        tokens,
        biases.rows(),
        biases.len(),
        [step.is_some(), log_decay.is_some()],
        inputs.raw.dtype().elem(),
    );
    biases.sum(client, &gradients.bias)?;
    a_logs.sum(client, &gradients.a_log)?;
    Ok(gradients)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float>(
    inputs: &Inputs<F>,
    step: &RowsView<f32>,
    log_decay: &RowsView<f32>,
    by_raw: &mut [F],
    biases: &mut [f32],
    a_logs: &mut [f32],
    tokens: usize,
    tokens_per_unit: usize,
    total: usize,
    #[comptime] seen: [bool; 2],
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let head = ABSOLUTE_POS % inputs.heads;
        let first = ABSOLUTE_POS / inputs.heads * tokens_per_unit;
        let rate = -inputs.a_log[head].exp();
        let mut bias = 0.0f32;
        let mut a_log = 0.0f32;
        for row in first..min(first + tokens_per_unit, tokens) {
            let x = inputs.at(row, head);
            let free = softplus(x);
            let mut gradient = 0.0f32;
            if comptime!(seen[0]) {
                gradient += step.at(row, head);
            }
            if comptime!(seen[1]) {
                let cotangent = log_decay.at(row, head);
                gradient += rate * cotangent;
                a_log += cotangent * (inputs.clamp(free) * rate);
            }
            gradient *= sigmoid(x);
            if free < inputs.low || free > inputs.high {
                gradient = 0.0f32;
            }
            by_raw[row * inputs.heads + head] = F::cast_from(gradient);
            bias += gradient;
        }
        biases[ABSOLUTE_POS] = bias;
        a_logs[ABSOLUTE_POS] = a_log;
    }
}
