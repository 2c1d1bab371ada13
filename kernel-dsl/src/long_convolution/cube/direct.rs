//! Tap by tap: for few taps or few tokens.

use cubecl::prelude::*;

use super::operands::{Added, Cotangent, Given, Present, cotangent, cotangent_at, longest, write_place};
use super::{MANY_PARTS, PullBack, TOKENS_PER_UNIT, UNITS};
use crate::cube::partial::sum_partials;
use crate::cube::{Client, DType, DeviceBuffer, Error, address_type, cubes};
use crate::long_convolution::{DeviceGradients, DeviceInputs, DeviceOutputs, Problem};

/// Partial sums of a gradient that may be in memory together, if there are as many taps.
const MANY_SUMS: usize = 1 << 24;

pub(super) fn forward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    outputs: &DeviceOutputs,
) -> Result<(), Error> {
    let positions = problem.reach().positions;
    let total = problem.batch * positions * problem.outputs();
    forward_kernel::launch(
        client,
        cubes(client, total.div_ceil(UNITS))?,
        CubeDim::new_1d(UNITS as u32),
        address_type(client, longest(inputs, outputs))?,
        Given::of(problem, inputs),
        Added::of(problem, inputs),
        outputs.out.arg(),
        outputs.tail.arg(),
        positions,
        problem.reach().shift,
        total,
        Present::of(inputs),
        inputs.input.dtype().elem(),
    );
    Ok(())
}

pub(super) fn backward(call: &PullBack, gradients: &DeviceGradients) -> Result<(), Error> {
    let PullBack {
        client,
        problem,
        inputs,
        ..
    } = *call;
    let (positions, (by_out, by_tail)) = (problem.reach().positions, call.seen());
    let total = gradients.input.len();
    if total > 0 {
        let lengths = [
            inputs.input.buffer().len(),
            inputs.kernel.len(),
            call.cotangents.out.as_ref().map_or(0, |rows| rows.buffer().len()),
        ];
        input_kernel::launch(
            client,
            cubes(client, total.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, lengths.into_iter().fold(total, usize::max))?,
            Given::of(problem, inputs),
            cotangent(call),
            gradients.input.arg(),
            positions,
            problem.reach().shift,
            total,
            Present::of(inputs),
            by_out,
            by_tail,
            inputs.input.dtype().elem(),
        );
    }
    taps(call, &gradients.kernel, false)?;
    match &gradients.later_kernel {
        Some(kernel) => taps(call, kernel, true),
        None => Ok(()),
    }
}

/// The gradient of one of the kernels, in partial sums over stretches of tokens.
fn taps(call: &PullBack, gradient: &DeviceBuffer, later: bool) -> Result<(), Error> {
    let PullBack {
        client,
        problem,
        inputs,
        ..
    } = *call;
    let tokens = problem.tokens();
    let most = (MANY_SUMS / gradient.len().max(1)).clamp(1, MANY_PARTS);
    let tokens_per_unit = tokens.div_ceil(most).max(TOKENS_PER_UNIT);
    let parts = tokens.div_ceil(tokens_per_unit);
    let sums = DeviceBuffer::empty(client, parts * gradient.len(), DType::F32)?;
    let (by_out, by_tail) = call.seen();
    if !sums.is_empty() {
        taps_kernel::launch(
            client,
            cubes(client, sums.len().div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, sums.len().max(inputs.input.buffer().len()))?,
            Given::of(problem, inputs),
            cotangent(call),
            sums.arg(),
            problem.reach().positions,
            problem.reach().shift,
            tokens,
            tokens_per_unit,
            sums.len(),
            later,
            by_out,
            by_tail,
            inputs.input.dtype().elem(),
        );
    }
    sum_partials(client, &sums, gradient, parts, gradient.len())
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn forward_kernel<F: Float>(
    given: &Given<F>,
    added: &Added<F>,
    out: &mut [F],
    tail: &mut [f32],
    positions: usize,
    shift: usize,
    total: usize,
    #[comptime] present: Present,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % given.outputs;
        let channel = column % given.channels;
        let base = column * given.taps;
        let b = ABSOLUTE_POS / given.outputs / positions;
        let t = ABSOLUTE_POS / given.outputs % positions;
        let row = b * given.time;
        let mut sum = 0.0f32;
        // Behind the last token the first taps meet nothing.
        let first = max(t + 1, given.time) - given.time;
        for s in first..min(given.taps, t + 1) {
            sum += given.kernel[base + s] * given.input.at(row + t - s, channel);
        }
        if comptime!(present.later) {
            let from = min(t + shift, given.time);
            for s in 0..min(given.taps, given.time - from) {
                sum += given.later_kernel[base + s] * given.input.at(row + from + s, channel);
            }
        }
        write_place::<F>(given, added, out, tail, b, t, column, sum, present);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn input_kernel<F: Float>(
    given: &Given<F>,
    cotangent: &Cotangent<F>,
    by_input: &mut [F],
    positions: usize,
    shift: usize,
    total: usize,
    #[comptime] present: Present,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let channel = ABSOLUTE_POS % given.channels;
        let b = ABSOLUTE_POS / given.channels / given.time;
        let t = ABSOLUTE_POS / given.channels % given.time;
        let mut sum = 0.0f32;
        for m in 0..given.outputs / given.channels {
            let column = m * given.channels + channel;
            let base = column * given.taps;
            for s in 0..min(given.taps, positions - t) {
                sum +=
                    given.kernel[base + s] * cotangent_at::<F>(cotangent, b, t + s, column, by_out, by_tail);
            }
            if comptime!(present.later) {
                for s in 0..min(given.taps, max(t + 1, shift) - shift) {
                    sum += given.later_kernel[base + s]
                        * cotangent_at::<F>(cotangent, b, t - shift - s, column, by_out, by_tail);
                }
            }
            if comptime!(present.skip) {
                sum += given.skip[column] * cotangent_at::<F>(cotangent, b, t, column, by_out, by_tail);
            }
        }
        by_input[ABSOLUTE_POS] = F::cast_from(sum);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn taps_kernel<F: Float>(
    given: &Given<F>,
    cotangent: &Cotangent<F>,
    sums: &mut [f32],
    positions: usize,
    shift: usize,
    tokens: usize,
    tokens_per_unit: usize,
    total: usize,
    #[comptime] later: bool,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        // Neighbours take neighbouring channels of one tap.
        let all = given.outputs * given.taps;
        let part = ABSOLUTE_POS / all;
        let place = ABSOLUTE_POS % all;
        let tap = place / given.outputs;
        let column = place % given.outputs;
        let channel = column % given.channels;
        let mut sum = 0.0f32;
        for row in part * tokens_per_unit..min((part + 1) * tokens_per_unit, tokens) {
            let b = row / given.time;
            let t = row % given.time;
            if comptime!(later) {
                if t >= tap + shift {
                    let seen = cotangent_at::<F>(cotangent, b, t - shift - tap, column, by_out, by_tail);
                    sum += seen * given.input.at(row, channel);
                }
            } else if t + tap < positions {
                let seen = cotangent_at::<F>(cotangent, b, t + tap, column, by_out, by_tail);
                sum += seen * given.input.at(row, channel);
            }
        }
        sums[part * all + column * given.taps + tap] = sum;
    }
}
