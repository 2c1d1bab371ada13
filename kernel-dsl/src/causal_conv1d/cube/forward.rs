//! Output and final state.

use cubecl::prelude::*;

use super::operands::{Constants, Place, Variant, place};
use super::{UNITS, chunk_size, pass_through_empty};
use crate::causal_conv1d::problem::{DeviceInputs, DeviceOutputs, Problem};
use crate::cube::math::silu;
use crate::cube::view::RowsView;
use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, SequenceTable, address_type, cubes, token_buffer,
};

/// Convolves every channel over time (see [`causal_conv1d`](crate::causal_conv1d) for the formula).
///
/// # Shapes
/// `state` `[batch, channels, width − 1]` in f32, oldest first, zeros if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn causal_conv1d(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let sequences = &inputs.sequences;
    let (rows, dtype) = (problem.rows(sequences), inputs.input.dtype());
    let out = token_buffer(client, sequences, rows * problem.channels, dtype)?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    let spans = SequenceTable::new(client, sequences, problem.batch, problem.time)?;
    pass_through_empty(client, problem, sequences, &spans, state, &end)?;
    let chunks = ChunkTable::new(
        client,
        sequences,
        problem.batch,
        problem.time,
        chunk_size(problem, rows),
    )?;
    let total = chunks.count() * problem.channels.div_ceil(UNITS);
    if total > 0 {
        let longest = inputs.input.buffer().len().max(out.len()).max(end.len());
        forward_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, longest)?,
            inputs.input.view(),
            inputs.constants(problem, state),
            out.arg(),
            end.arg(),
            chunks.chunks(),
            spans.arg(),
            total,
            Variant::new(problem, inputs, state.is_some(), false),
            dtype.elem(),
        );
    }
    Ok(DeviceOutputs { out, state: end })
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn forward_kernel<F: Float>(
    x: &RowsView<F>,
    constants: &Constants,
    out: &mut [F],
    end: &mut [f32],
    chunks: &[u32],
    spans: &[u32],
    total: usize,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let past = comptime!(variant.width - 1);
    let channels = constants.channels;
    let place = place(chunks, spans, channels);
    if place.channel < channels {
        let mut window = before::<F>(x, constants, &place, variant);
        for row in place.first..place.stop {
            window[past] = x.at(row, place.channel);
            let mut y = convolve(&window, constants, place.channel, variant);
            if comptime!(variant.silu) {
                y = silu(y);
            }
            out[row * channels + place.channel] = F::cast_from(y);
            shift(&mut window, variant);
        }
        if place.stop == place.end {
            let base = (place.sequence * channels + place.channel) * past;
            #[unroll]
            for j in 0..past {
                end[base + j] = window[j];
            }
        }
    }
}

/// The inputs before the chunk, oldest first, with room for the current one.
#[cube]
pub(super) fn before<F: Float>(
    x: &RowsView<F>,
    constants: &Constants,
    place: &Place,
    #[comptime] variant: Variant,
) -> Array<f32> {
    let past = comptime!(variant.width - 1);
    let mut window = Array::<f32>::new(comptime!(variant.width));
    let behind = place.first - place.start;
    #[unroll]
    for j in 0..past {
        // In the signal of state and inputs, token 0 lies at `past`.
        let i = behind + j;
        let mut value = 0.0f32;
        if i >= past {
            value = x.at(place.start + i - past, place.channel);
        } else if comptime!(variant.state) {
            let line = place.sequence * constants.channels + place.channel;
            value = constants.state[line * past + i];
        }
        window[j] = value;
    }
    window[past] = 0.0f32;
    window
}

/// p: bias + Σ_j weight_j s_{t+j}.
#[cube]
pub(super) fn convolve(
    window: &Array<f32>,
    constants: &Constants,
    channel: usize,
    #[comptime] variant: Variant,
) -> f32 {
    let mut sum = 0.0f32;
    if comptime!(variant.bias) {
        sum = constants.bias[channel];
    }
    #[unroll]
    for j in 0..comptime!(variant.width) {
        sum += constants.weight[channel * comptime!(variant.width) + j] * window[j];
    }
    sum
}

/// Moves the window on by one token.
#[cube]
pub(super) fn shift(window: &mut Array<f32>, #[comptime] variant: Variant) {
    #[unroll]
    for j in 0..comptime!(variant.width - 1) {
        window[j] = window[j + 1];
    }
}
