//! Forward: sequences as a whole, or chunks in three passes.
//!
//! Pass one takes the sums of every chunk alone, pass two goes through the chunks of a sequence and leaves the state that
//! each begins with, pass three reads out. One unit has one channel in every pass.

use cubecl::prelude::*;

use super::operands::{LEAST_LOG_DECAY, LONGEST_CHUNK, Wkv, combine, empty, load, store};

use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, SequenceTable, launch_units, preferred_chunk_size,
    token_buffer,
};
use crate::wkv4::problem::{DeviceInputs, DeviceOutputs, Problem, Wkv4Error};

/// The WKV-4 recurrence over one token of every sequence.
///
/// # Shapes
/// As for [`forward`], with `time = 1`.
///
/// # Errors
/// As for [`forward`]; [`Wkv4Error::NotOneToken`] for other lengths.
pub fn step(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    if problem.time != 1 {
        return Err(Error::problem(Wkv4Error::NotOneToken { found: problem.time }));
    }
    sequential(client, problem, inputs, state)
}

/// WKV-4 (see [`wkv4`](crate::wkv4) for the formula), in the form that suits the device.
///
/// # Shapes
/// `state` `[batch, 3, channels]` in f32, empty if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn forward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    match preferred_chunk_size(client, problem.batch * problem.channels, problem.time) {
        Some(chunk_size) => chunked(client, problem, inputs, chunk_size, state),
        None => sequential(client, problem, inputs, state),
    }
}

/// WKV-4 token by token.
///
/// # Shapes, Errors
/// As for [`forward`].
pub fn sequential(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let out = token_buffer(
        client,
        &inputs.sequences,
        problem.rows(&inputs.sequences) * problem.channels,
        inputs.dtype(),
    )?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    let table = SequenceTable::new(client, &inputs.sequences, problem.batch, problem.time)?;
    let pass = Pass {
        begin: state.is_some(),
        end: true,
        read: true,
        entry: 2,
    };
    let begin = state.unwrap_or(&end);
    walk(
        client,
        problem,
        inputs,
        (table.arg(), problem.batch),
        [begin, &end, &out],
        pass,
    )?;
    Ok(DeviceOutputs { out, state: end })
}

/// WKV-4 by chunks of `chunk_size` tokens (at most 128), all at once.
///
/// # Shapes
/// As for [`forward`].
///
/// # Errors
/// As for [`forward`]; [`Wkv4Error::EmptyChunk`] for chunks without a token.
pub fn chunked(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    chunk_size: usize,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    if chunk_size == 0 {
        return Err(Error::problem(Wkv4Error::EmptyChunk));
    }
    let out = token_buffer(
        client,
        &inputs.sequences,
        problem.rows(&inputs.sequences) * problem.channels,
        inputs.dtype(),
    )?;
    let chunk_size = chunk_size.min(LONGEST_CHUNK);
    let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, chunk_size)?;
    let (states, end) = chunk_states(client, problem, inputs, &table, state)?;
    let pass = Pass {
        begin: true,
        end: false,
        read: true,
        entry: 3,
    };
    walk(
        client,
        problem,
        inputs,
        (table.chunks(), table.count()),
        [&states, &end, &out],
        pass,
    )?;
    Ok(DeviceOutputs { out, state: end })
}

/// The state that each chunk begins with, `[chunks, 3, channels]`, and the final states.
pub(super) fn chunk_states(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    table: &ChunkTable,
    state: Option<&DeviceBuffer>,
) -> Result<(DeviceBuffer, DeviceBuffer), Error> {
    let states = DeviceBuffer::empty(client, table.count() * 3 * problem.channels, DType::F32)?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    let pass = Pass {
        begin: false,
        end: true,
        read: false,
        entry: 3,
    };
    walk(
        client,
        problem,
        inputs,
        (table.chunks(), table.count()),
        [&end, &states, &end],
        pass,
    )?;
    let units = problem.batch * problem.channels;
    launch_units!(
        pass_states,
        client,
        units,
        states.len().max(end.len()),
        states.arg(),
        inputs.log_decay.arg(),
        table.chunks(),
        table.sequences(),
        state.unwrap_or(&inputs.bonus).arg(),
        end.arg(),
        problem.channels,
        units,
        state.is_some(),
    );
    Ok((states, end))
}

/// What a walk over segments of tokens does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pass {
    /// Whether it begins with given states, not empty ones.
    begin: bool,
    /// Whether it keeps the state that each segment ends with.
    end: bool,
    /// Whether it reads out.
    read: bool,
    /// Values per segment in their table: 2 where a segment is a sequence, 3 where it is a chunk.
    entry: usize,
}

fn walk(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    (segments, count): (BufferArg, usize),
    [begin, end, out]: [&DeviceBuffer; 3],
    pass: Pass,
) -> Result<(), Error> {
    let units = count * problem.channels;
    if units == 0 {
        return Ok(());
    }
    // What a pass does not use is bound to an input, so that no buffer is bound to be read and to be written.
    let bound = |used: bool, buffer: &DeviceBuffer| match used {
        true => buffer.arg(),
        false => inputs.bonus.arg(),
    };
    launch_units!(
        walk_kernel,
        client,
        units,
        inputs.longest(out.len().max(end.len()).max(begin.len())),
        inputs.wkv(problem, segments, count),
        bound(pass.begin, begin),
        bound(pass.end, end),
        bound(pass.read, out),
        pass,
        inputs.dtype().elem(),
    );
    Ok(())
}

#[cube(launch, address_type = "dynamic")]
fn walk_kernel<F: Float>(
    wkv: &Wkv<F>,
    begin: &[f32],
    end: &mut [f32],
    out: &mut [F],
    #[comptime] pass: Pass,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= wkv.units {
        terminate!();
    }
    let place = wkv.place(comptime!(pass.entry));
    let mut state = if comptime!(pass.begin) {
        load(begin, place.segment, wkv.channels, place.channel, 3usize)
    } else {
        empty()
    };
    for row in place.start..place.end {
        if comptime!(pass.read) {
            let read = wkv.read(&state, row, place.channel);
            out[row * wkv.channels + place.channel] = F::cast_from(read[0]);
        }
        wkv.advance(&mut state, row, place.channel);
    }
    if comptime!(pass.end) {
        store(end, &state, place.segment, wkv.channels, place.channel, 3usize);
    }
}

/// An exclusive scan over the chunks of each sequence, in place: from the sums of each alone to the state before it.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn pass_states(
    states: &mut [f32],
    log_decay: &[f32],
    chunks: &[u32],
    sequences: &[u32],
    begin: &[f32],
    end: &mut [f32],
    channels: usize,
    units: usize,
    #[comptime] has_begin: bool,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let sequence = ABSOLUTE_POS / channels;
    let channel = ABSOLUTE_POS % channels;
    let mut carried = if comptime!(has_begin) {
        load(begin, sequence, channels, channel, 3usize)
    } else {
        empty()
    };
    let decay = max(log_decay[channel], LEAST_LOG_DECAY);
    let first = sequences[2 * sequence] as usize;
    let after = sequences[2 * sequence + 1] as usize;
    for chunk in first..after {
        // All values are in registers before any is overwritten.
        let offset = chunk * 3 * channels + channel;
        let n = states[offset];
        let d = states[offset + channels];
        let m = states[offset + 2 * channels];
        store(states, &carried, chunk, channels, channel, 3usize);
        let tokens = f32::cast_from(chunks[3 * chunk + 1] - chunks[3 * chunk]);
        combine(&mut carried, decay * tokens, n, d, m);
    }
    store(end, &carried, sequence, channels, channel, 3usize);
}
