//! Inputs and cotangents as the kernels of both forms read them.

use cubecl::prelude::*;

use super::PullBack;
use crate::cube::view::RowsView;
use crate::cube::{DeviceBuffer, DeviceRows};
use crate::long_convolution::{DeviceInputs, DeviceOutputs, Problem};

/// Inputs, and sizes. What is absent is bound to something else and not read.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Given<F: Float> {
    pub input: RowsView<F>,
    pub kernel: Box<[f32]>,
    pub later_kernel: Box<[f32]>,
    pub skip: Box<[f32]>,
    pub time: usize,
    pub channels: usize,
    pub outputs: usize,
    pub taps: usize,
}

impl<F: Float> Given<F> {
    pub fn of(problem: &Problem, inputs: &DeviceInputs) -> GivenLaunch<F> {
        let kernel = &inputs.kernel;
        GivenLaunch::new(
            inputs.input.view(),
            kernel.arg(),
            inputs.later_kernel.as_ref().unwrap_or(kernel).arg(),
            inputs.skip.as_ref().unwrap_or(kernel).arg(),
            problem.time,
            problem.channels,
            problem.outputs(),
            problem.taps,
        )
    }
}

/// What is added to a convolution, and where the sums go.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Added<F: Float> {
    response: RowsView<F>,
    tail: Box<[f32]>,
    tail_rows: usize,
}

impl<F: Float> Added<F> {
    pub fn of(problem: &Problem, inputs: &DeviceInputs) -> AddedLaunch<F> {
        AddedLaunch::new(
            inputs.response.as_ref().unwrap_or(&inputs.input).view(),
            inputs.tail.as_ref().unwrap_or(&inputs.kernel).arg(),
            problem.tail_rows(),
        )
    }
}

/// What there is beside input and kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Present {
    pub later: bool,
    pub skip: bool,
    pub response: bool,
    pub tail: bool,
}

impl Present {
    pub fn of(inputs: &DeviceInputs) -> Self {
        Self {
            later: inputs.later_kernel.is_some(),
            skip: inputs.skip.is_some(),
            response: inputs.response.is_some(),
            tail: inputs.tail.as_ref().is_some_and(|tail| !tail.is_empty()),
        }
    }
}

/// The largest buffer of a call, which decides how it is indexed.
pub(super) fn longest(inputs: &DeviceInputs, outputs: &DeviceOutputs) -> usize {
    let response = inputs.response.as_ref().map_or(0, |rows| rows.buffer().len());
    [
        inputs.input.buffer().len(),
        inputs.kernel.len(),
        response,
        outputs.out.len(),
        outputs.tail.len(),
    ]
    .into_iter()
    .fold(0, usize::max)
}

/// Adds to the convolution what else makes place `t`, and writes it.
#[cube]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(super) fn write_place<F: Float>(
    given: &Given<F>,
    added: &Added<F>,
    out: &mut [F],
    tail: &mut [f32],
    b: usize,
    t: usize,
    column: usize,
    convolved: f32,
    #[comptime] present: Present,
) {
    let mut sum = convolved;
    if comptime!(present.tail) {
        if t < added.tail_rows {
            sum += added.tail[(b * added.tail_rows + t) * given.outputs + column];
        }
    }
    if t < given.time {
        let row = b * given.time + t;
        if comptime!(present.skip) {
            sum += given.skip[column] * given.input.at(row, column % given.channels);
        }
        if comptime!(present.response) {
            sum += added.response.at(row, column);
        }
        out[row * given.outputs + column] = F::cast_from(sum);
    } else {
        tail[(b * added.tail_rows + t - given.time) * given.outputs + column] = sum;
    }
}

/// The cotangents of output and tail, one behind the other.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Cotangent<F: Float> {
    out: RowsView<F>,
    tail: Box<[f32]>,
    time: usize,
    tail_rows: usize,
    pub outputs: usize,
}

pub(super) fn cotangent<F: Float>(call: &PullBack) -> CotangentLaunch<F> {
    let (problem, inputs) = (call.problem, call.inputs);
    let out: &DeviceRows = call.cotangents.out.as_ref().unwrap_or(&inputs.input);
    let tail: &DeviceBuffer = call.cotangents.tail.as_ref().unwrap_or(&inputs.kernel);
    CotangentLaunch::new(
        out.view(),
        tail.arg(),
        problem.time,
        problem.tail_rows(),
        problem.outputs(),
    )
}

/// Ȳ at place `t`, which is one of the tokens or of the tail.
#[cube]
pub(super) fn cotangent_at<F: Float>(
    cotangent: &Cotangent<F>,
    b: usize,
    t: usize,
    column: usize,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
) -> f32 {
    let mut value = 0.0f32;
    if t < cotangent.time {
        if comptime!(by_out) {
            value = cotangent.out.at(b * cotangent.time + t, column);
        }
    } else if comptime!(by_tail) {
        let row = b * cotangent.tail_rows + t - cotangent.time;
        value = cotangent.tail[row * cotangent.outputs + column];
    }
    value
}
