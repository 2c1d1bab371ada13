//! Step sizes on a device: the same mathematics as CubeCL kernels.

use cubecl::prelude::*;

use super::StepSizeError;
use super::problem::OPERATOR;
use crate::cube::math::{sigmoid, softplus};
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, address_type, cubes};

/// Units of a cube.
const UNITS: usize = 64;
/// Tokens whose contributions to bias and A_log one unit adds up, and partial sums from which it adds up more.
const TOKENS_PER_UNIT: usize = 16;
const MANY_PARTS: usize = 256;

/// What step sizes are made of on a device. Bias and A_log are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs {
    /// `[tokens, heads]`.
    pub raw: DeviceRows,
    /// `[heads]`.
    pub bias: DeviceBuffer,
    /// `[heads]`.
    pub a_log: DeviceBuffer,
    /// Bounds of Δ.
    pub limit: (f32, f32),
}

/// Δ and log α, `[tokens, heads]` each in f32, whatever the raw values are.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Δ.
    pub step: DeviceBuffer,
    /// log α.
    pub log_decay: DeviceBuffer,
}

/// Derivatives of the loss by Δ and log α, `[tokens, heads]` each in f32; nothing where the loss does not see them.
#[derive(Clone, Debug, Default)]
pub struct DeviceCotangents {
    /// By Δ.
    pub step: Option<DeviceRows>,
    /// By log α.
    pub log_decay: Option<DeviceRows>,
}

/// Derivatives of the loss by what step sizes are made of.
#[derive(Clone, Debug)]
pub struct DeviceGradients {
    /// By the raw values, `[tokens, heads]` in their type.
    pub raw: DeviceBuffer,
    /// By the bias, `[heads]` in f32.
    pub bias: DeviceBuffer,
    /// By A_log, `[heads]` in f32.
    pub a_log: DeviceBuffer,
}

impl DeviceInputs {
    fn validate(&self) -> Result<(), Error> {
        let (low, high) = self.limit;
        if !(low >= 0.0 && low <= high) {
            return Err(Error::problem(StepSizeError::Limit { low, high }));
        }
        let heads = self.raw.cols();
        OPERATOR.device_values("bias", (heads, DType::F32), &self.bias)?;
        OPERATOR.device_values("a_log", (heads, DType::F32), &self.a_log)
    }

    fn constants(&self) -> ConstantsLaunch {
        // WGSL has no literal for an infinite bound.
        let high = self.limit.1.min(f32::MAX);
        ConstantsLaunch::new(
            self.bias.arg(),
            self.a_log.arg(),
            self.raw.cols(),
            self.limit.0,
            high,
        )
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
/// # Shapes
/// As in [`DeviceInputs`] and [`Outputs`].
///
/// # Errors
/// [`Error`] when a shape, a type or a limit is wrong, or when the device cannot run it.
pub fn step_size(client: &Client, inputs: &DeviceInputs) -> Result<Outputs, Error> {
    inputs.validate()?;
    let len = inputs.raw.rows() * inputs.raw.cols();
    let step = DeviceBuffer::empty(client, len, DType::F32)?;
    let log_decay = DeviceBuffer::empty(client, len, DType::F32)?;
    if len > 0 {
        step_size_kernel::launch(
            client,
            cubes(client, len.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, inputs.raw.buffer().len().max(len))?,
            inputs.raw.view(),
            inputs.constants(),
            step.arg(),
            log_decay.arg(),
            len,
            inputs.raw.dtype().elem(),
        );
    }
    Ok(Outputs { step, log_decay })
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
/// # Shapes
/// As in [`DeviceInputs`], [`DeviceCotangents`] and [`DeviceGradients`].
///
/// # Errors
/// [`Error`] when a shape, a type or a limit is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    inputs.validate()?;
    let (tokens, heads) = (inputs.raw.rows(), inputs.raw.cols());
    for (operand, view) in [("step", &cotangents.step), ("log_decay", &cotangents.log_decay)] {
        if let Some(view) = view {
            OPERATOR.device_cotangent_rows(operand, (tokens, heads), DType::F32, view)?;
        }
    }
    let tokens_per_unit = tokens.div_ceil(MANY_PARTS).max(TOKENS_PER_UNIT);
    let parts = tokens.div_ceil(tokens_per_unit);
    let empty = |len| DeviceBuffer::empty(client, len, DType::F32);
    let (biases, a_logs) = (empty(parts * heads)?, empty(parts * heads)?);
    let gradients = DeviceGradients {
        raw: DeviceBuffer::empty(client, tokens * heads, inputs.raw.dtype())?,
        bias: empty(heads)?,
        a_log: empty(heads)?,
    };
    if parts * heads > 0 {
        let cotangent = |view: &Option<DeviceRows>| view.as_ref().unwrap_or(&inputs.raw).view();
        backward_kernel::launch(
            client,
            cubes(client, (parts * heads).div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, inputs.raw.buffer().len().max(tokens * heads))?,
            inputs.raw.view(),
            inputs.constants(),
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
