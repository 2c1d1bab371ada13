//! Forward: sequences as a whole, or chunks in three passes.
//!
//! A segment of tokens maps the state by h ↦ e^{A ΣΔ}∘h + U. Pass one takes ΣΔ and U of every chunk, pass two goes through
//! the chunks of a sequence and leaves the state that each begins with, pass three reads out. One unit has one channel in
//! every pass; loads of u, Δ and z are contiguous over the units of a cube, those of B and C are the same for all.

use cubecl::prelude::*;

use super::operands::{Scan, Variant, zeros};
use super::plan::Tile;

use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, Limits, SequenceTable, address_type, cubes, launch_units,
    preferred_chunk_size, token_buffer,
};
use crate::selective_scan::problem::{DeviceInputs, DeviceOutputs, Problem, ScanError};

/// The selective scan over one token of every sequence.
///
/// # Shapes
/// As for [`forward`], with `time = 1`.
///
/// # Errors
/// As for [`forward`]; [`ScanError::NotOneToken`] for other lengths.
pub fn step(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    if problem.time != 1 {
        return Err(Error::problem(ScanError::NotOneToken { found: problem.time }));
    }
    sequential(client, problem, inputs, state)
}

/// The selective scan (see [`selective_scan`](crate::selective_scan) for the formula), in the form that suits the device.
///
/// # Shapes
/// `state` `[batch, channels, state_dim]` in f32, zeros if there is none; see [`DeviceOutputs`] for the results.
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

/// The selective scan token by token.
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
    let tile = Tile::new(problem, &Limits::of(client));
    let total = DeviceInputs::cubes(problem, tile, problem.batch);
    if total > 0 {
        let partial = partial_out(client, problem, tile, &out)?;
        read_out::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(tile.units as u32),
            address_type(client, inputs.longest(&[out.len(), end.len()]))?,
            inputs.scan(problem, table.arg(), total),
            state.unwrap_or(&inputs.a).arg(),
            end.arg(),
            partial.arg(),
            out.arg(),
            inputs.variant(tile, 2),
            problem.state_dim <= tile.state,
            state.is_some(),
            true,
            inputs.dtype().elem(),
        );
    }
    Ok(DeviceOutputs { out, state: end })
}

/// The selective scan by chunks of `chunk_size` tokens, all at once.
///
/// # Shapes
/// As for [`forward`].
///
/// # Errors
/// As for [`forward`]; [`ScanError::EmptyChunk`] for chunks without a token.
pub fn chunked(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    chunk_size: usize,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    if chunk_size == 0 {
        return Err(Error::problem(ScanError::EmptyChunk));
    }
    let out = token_buffer(
        client,
        &inputs.sequences,
        problem.rows(&inputs.sequences) * problem.channels,
        inputs.dtype(),
    )?;
    let chunks = Chunks::new(client, problem, inputs, chunk_size)?;
    let (states, end) = chunks.states(client, problem, inputs, state)?;
    let total = DeviceInputs::cubes(problem, chunks.tile, chunks.table.count());
    if total > 0 {
        let partial = partial_out(client, problem, chunks.tile, &out)?;
        read_out::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(chunks.tile.units as u32),
            address_type(client, inputs.longest(&[out.len(), states.len()]))?,
            inputs.scan(problem, chunks.table.chunks(), total),
            states.arg(),
            end.arg(),
            partial.arg(),
            out.arg(),
            inputs.variant(chunks.tile, 3),
            problem.state_dim <= chunks.tile.state,
            true,
            false,
            inputs.dtype().elem(),
        );
    }
    Ok(DeviceOutputs { out, state: end })
}

/// Sums in f32 for states that take several tiles; nothing where one tile is enough.
fn partial_out(
    client: &Client,
    problem: &Problem,
    tile: Tile,
    out: &DeviceBuffer,
) -> Result<DeviceBuffer, Error> {
    let len = if problem.state_dim <= tile.state {
        0
    } else {
        out.len()
    };
    DeviceBuffer::empty(client, len, DType::F32)
}

/// The chunks of all sequences, with ΣΔ of each once their states are known.
pub(super) struct Chunks {
    pub table: ChunkTable,
    pub tile: Tile,
    /// Sum ΣΔ of the step sizes of every chunk, `[chunks, channels]`.
    step_sums: DeviceBuffer,
}

impl Chunks {
    pub(super) fn new(
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        chunk_size: usize,
    ) -> Result<Self, Error> {
        let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, chunk_size)?;
        let step_sums = DeviceBuffer::empty(client, table.count() * problem.channels, DType::F32)?;
        Ok(Self {
            table,
            tile: Tile::new(problem, &Limits::of(client)),
            step_sums,
        })
    }

    /// The state that each chunk begins with, `[chunks, channels, state_dim]`, and the final states.
    pub(super) fn states(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        state: Option<&DeviceBuffer>,
    ) -> Result<(DeviceBuffer, DeviceBuffer), Error> {
        let len = self.table.count() * problem.channels * problem.state_dim;
        let states = DeviceBuffer::empty(client, len, DType::F32)?;
        let total = DeviceInputs::cubes(problem, self.tile, self.table.count());
        if total > 0 {
            summarise::launch(
                client,
                cubes(client, total)?,
                CubeDim::new_1d(self.tile.units as u32),
                address_type(client, inputs.longest(&[len]))?,
                inputs.scan(problem, self.table.chunks(), total),
                states.arg(),
                self.step_sums.arg(),
                inputs.variant(self.tile, 3),
                inputs.dtype().elem(),
            );
        }
        let end = self.pass(client, problem, inputs, &states, state, false)?;
        Ok((states, end))
    }

    /// Turns what each chunk adds to a state into the state that it gets, in place; gives what leaves each sequence.
    pub(super) fn pass(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        elements: &DeviceBuffer,
        state: Option<&DeviceBuffer>,
        reverse: bool,
    ) -> Result<DeviceBuffer, Error> {
        let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
        launch_units!(
            pass_states,
            client,
            problem.state_len(),
            elements.len().max(end.len()),
            elements.arg(),
            self.step_sums.arg(),
            inputs.a.arg(),
            self.table.sequences(),
            state.unwrap_or(&inputs.a).arg(),
            end.arg(),
            problem.channels,
            problem.state_dim,
            problem.state_len(),
            state.is_some(),
            reverse,
        );
        Ok(end)
    }
}

/// What each chunk adds to the state, and its ΣΔ.
#[cube(launch, address_type = "dynamic")]
fn summarise<F: Float>(
    scan: &Scan<F>,
    updates: &mut [f32],
    step_sums: &mut [f32],
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= scan.cubes {
        terminate!();
    }
    let place = scan.place(variant);
    if !place.active {
        terminate!();
    }
    let mut sum = 0.0f32;
    for row in place.start..place.end {
        sum += scan.step_size.at(row, place.channel);
    }
    step_sums[place.segment * scan.groups * scan.channels_per_group + place.channel] = sum;
    for t in 0..scan.state_dim.div_ceil(comptime!(variant.tile.state)) {
        let first = t * comptime!(variant.tile.state);
        let a = scan.load(&scan.a, place.constants, first, variant);
        let mut state = zeros(variant);
        for row in place.start..place.end {
            scan.advance(&place, row, first, &a, &mut state, variant);
        }
        scan.store(updates, &state, place.states, first, variant);
    }
}

/// An exclusive scan over the chunks of each sequence, in place, from the front or from the back.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn pass_states(
    elements: &mut [f32],
    step_sums: &[f32],
    a: &[f32],
    sequences: &[u32],
    begin: &[f32],
    end: &mut [f32],
    channels: usize,
    state_dim: usize,
    total: usize,
    #[comptime] has_begin: bool,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let size = channels * state_dim;
    let sequence = ABSOLUTE_POS / size;
    let i = ABSOLUTE_POS % size;
    let rate = a[i];
    let mut carried = 0.0f32;
    if comptime!(has_begin) {
        carried = begin[ABSOLUTE_POS];
    }
    let first = sequences[2 * sequence] as usize;
    let after = sequences[2 * sequence + 1] as usize;
    for k in first..after {
        let mut chunk = k;
        if comptime!(reverse) {
            chunk = after + first - 1 - k;
        }
        let added = elements[chunk * size + i];
        elements[chunk * size + i] = carried;
        carried = (rate * step_sums[chunk * channels + i / state_dim]).exp() * carried + added;
    }
    end[ABSOLUTE_POS] = carried;
}

/// The outputs of every segment from the state that it begins with.
#[cube(launch, address_type = "dynamic")]
// Some conditions are decided when the kernel is compiled, and stand apart from those that units decide.
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
fn read_out<F: Float>(
    scan: &Scan<F>,
    begin: &[f32],
    end: &mut [f32],
    partial: &mut [f32],
    out: &mut [F],
    #[comptime] variant: Variant,
    #[comptime] one_tile: bool,
    #[comptime] has_begin: bool,
    #[comptime] keep_end: bool,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= scan.cubes {
        terminate!();
    }
    let place = scan.place(variant);
    if !place.active {
        terminate!();
    }
    let channels = scan.groups * scan.channels_per_group;
    let tiles = scan.state_dim.div_ceil(comptime!(variant.tile.state));
    for t in 0..tiles {
        let first = t * comptime!(variant.tile.state);
        let a = scan.load(&scan.a, place.constants, first, variant);
        let mut state = if comptime!(has_begin) {
            scan.load(begin, place.states, first, variant)
        } else {
            zeros(variant)
        };
        for row in place.start..place.end {
            scan.advance(&place, row, first, &a, &mut state, variant);
            let at = row * channels + place.channel;
            let mut y = 0.0f32;
            if comptime!(!one_tile) {
                if t > 0 {
                    y = partial[at];
                }
            }
            #[unroll]
            for i in 0..comptime!(variant.tile.state) {
                y += scan.c_at(row, place.group, first + i, variant) * state[i];
            }
            if comptime!(!one_tile) {
                partial[at] = y;
            }
            if t + 1 == tiles {
                y += scan.skipped(row, place.channel, variant);
                out[at] = F::cast_from(y * scan.silu_of_gate(row, place.channel, variant));
            }
        }
        if comptime!(keep_end) {
            scan.store(end, &state, place.states, first, variant);
        }
    }
}
