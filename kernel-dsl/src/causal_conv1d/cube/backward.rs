//! Gradients of input, taps, bias and initial state.

use cubecl::prelude::*;

use super::forward::{before, convolve, shift};
use super::operands::{Constants, Place, Variant, place};
use super::{UNITS, chunk_size, pass_through_empty};
use crate::causal_conv1d::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, Problem};
use crate::cube::math::silu_derivative;
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{ChunkTable, Client, DType, DeviceBuffer, Error, SequenceTable, address_type, cubes};

/// Gradients of the loss by all that [`causal_conv1d`](super::causal_conv1d) reads, from its cotangents.
///
/// # Shapes
/// `initial_state` `[batch, channels, width − 1]` in f32, the state before the first token, zeros if there is none; see
/// [`DeviceGradients`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    initial_state: Option<&DeviceBuffer>,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    problem.validate_on_device(inputs, initial_state, Some(cotangents))?;
    let Problem {
        batch,
        time,
        channels,
        width,
        ..
    } = *problem;
    let (rows, dtype, sequences) = (
        problem.rows(&inputs.sequences),
        inputs.input.dtype(),
        &inputs.sequences,
    );
    let chunks = ChunkTable::new(client, sequences, batch, time, chunk_size(problem, rows))?;
    let spans = SequenceTable::new(client, sequences, batch, time)?;
    let gradients = DeviceGradients {
        input: DeviceBuffer::zeros(client, rows * channels, dtype)?,
        weight: DeviceBuffer::empty(client, channels * width, DType::F32)?,
        bias: match &inputs.bias {
            Some(_) => Some(DeviceBuffer::empty(client, channels, DType::F32)?),
            None => None,
        },
        state: DeviceBuffer::empty(client, problem.state_len(), DType::F32)?,
    };
    let state_cotangent = cotangents.state.as_ref();
    pass_through_empty(
        client,
        problem,
        sequences,
        &spans,
        state_cotangent,
        &gradients.state,
    )?;
    let weights = DeviceBuffer::empty(client, chunks.count() * channels * width, DType::F32)?;
    let biases = DeviceBuffer::empty(client, chunks.count() * channels, DType::F32)?;
    let total = chunks.count() * channels.div_ceil(UNITS);
    if total > 0 {
        let lengths = [
            inputs.input.buffer().len(),
            cotangents.out.buffer().len(),
            weights.len(),
        ];
        let longest = lengths.into_iter().fold(gradients.input.len(), usize::max);
        backward_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, longest)?,
            inputs.input.view(),
            inputs.constants(problem, initial_state),
            cotangents.out.view(),
            state_cotangent.unwrap_or(&inputs.weight).arg(),
            gradients.input.arg(),
            gradients.state.arg(),
            weights.arg(),
            biases.arg(),
            chunks.chunks(),
            spans.arg(),
            total,
            Variant::new(
                problem,
                inputs,
                initial_state.is_some(),
                state_cotangent.is_some(),
            ),
            dtype.elem(),
        );
    }
    sum_partials(
        client,
        &weights,
        &gradients.weight,
        chunks.count(),
        channels * width,
    )?;
    if let Some(bias) = &gradients.bias {
        sum_partials(client, &biases, bias, chunks.count(), channels)?;
    }
    Ok(gradients)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float>(
    x: &RowsView<F>,
    constants: &Constants,
    cotangent: &RowsView<F>,
    state_cotangent: &[f32],
    by_input: &mut [F],
    by_state: &mut [f32],
    weights: &mut [f32],
    biases: &mut [f32],
    chunks: &[u32],
    spans: &[u32],
    total: usize,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let (width, past) = comptime!((variant.width, variant.width - 1));
    let channels = constants.channels;
    let place = place(chunks, spans, channels);
    if place.channel < channels {
        let mut window = before::<F>(x, constants, &place, variant);
        // Of the last `width` places of the signal: what the tokens so far add to their gradients.
        let mut sums = zeros(width);
        let mut by_weight = zeros(width);
        let mut by_bias = 0.0f32;
        let length = place.stop - place.first;
        // Up to `past` tokens after the chunk read inputs of the chunk.
        for n in 0..length + past {
            let row = place.first + n;
            let mut delta = 0.0f32;
            if row < place.end {
                window[past] = x.at(row, place.channel);
                delta = cotangent.at(row, place.channel);
                if comptime!(variant.silu) {
                    delta *= silu_derivative(convolve(&window, constants, place.channel, variant));
                }
            }
            let own = n < length;
            #[unroll]
            for j in 0..width {
                if own {
                    by_weight[j] += delta * window[j];
                }
                sums[j] += constants.weight[place.channel * width + j] * delta;
            }
            if own {
                by_bias += delta;
            }
            let value = sums[0];
            write::<F>(
                value,
                n,
                &place,
                channels,
                state_cotangent,
                by_input,
                by_state,
                variant,
            );
            shift(&mut window, variant);
            shift(&mut sums, variant);
            sums[past] = 0.0f32;
        }
        let chunk = CUBE_POS / channels.div_ceil(UNITS);
        #[unroll]
        for j in 0..width {
            weights[(chunk * channels + place.channel) * width + j] = by_weight[j];
        }
        biases[chunk * channels + place.channel] = by_bias;
    }
}

#[cube]
fn zeros(#[comptime] len: usize) -> Array<f32> {
    let mut values = Array::<f32>::new(len);
    #[unroll]
    for i in 0..len {
        values[i] = 0.0f32;
    }
    values
}

/// The gradient of place `i = row − start` of the signal of state and inputs, complete after token `row`.
#[cube]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
fn write<F: Float>(
    sum: f32,
    n: usize,
    place: &Place,
    channels: usize,
    state_cotangent: &[f32],
    by_input: &mut [F],
    by_state: &mut [f32],
    #[comptime] variant: Variant,
) {
    let past = comptime!(variant.width - 1);
    // The first places belong to the state, or to the chunk before.
    if n >= past || place.first == place.start {
        let i = place.first - place.start + n;
        let length = place.end - place.start;
        let base = (place.sequence * channels + place.channel) * past;
        let mut value = sum;
        if comptime!(variant.state_cotangent) {
            if i >= length {
                value += state_cotangent[base + i - length];
            }
        }
        if i < past {
            by_state[base + i] = value;
        } else {
            by_input[(place.start + i - past) * channels + place.channel] = F::cast_from(value);
        }
    }
}
