//! Chunk by chunk: everything that does not depend on the state first, for all chunks at once, then a walk over the chunks.

use cubecl::prelude::*;

use super::operands::{Place, Sizes, Tokens, Variant};
use super::plan::Tile;
use super::prepare::{LENGTH, SHARED_MEMORY, UNITS, prepare, prepared_len};
use super::token_buffer;
use crate::cube::{ChunkTable, Client, DType, DeviceBuffer, Error, Limits, address_type, cubes};
use crate::delta_rule::problem::{DeviceInputs, DeviceOutputs, Problem};

/// Whether a device has what [`chunked`] takes, and gains by it.
pub(super) fn is_preferred(problem: &Problem, limits: &Limits) -> bool {
    let long = problem.time >= 4 * LENGTH;
    long && !limits.software && limits.units >= UNITS && limits.shared_memory >= SHARED_MEMORY
}

/// The delta rule by chunks of 16 tokens.
///
/// What a chunk's tokens read of the state solves a triangular system that does not depend on the state, so that all
/// chunks' systems are solved at once; the walk over the chunks is then by products of matrices.
///
/// # Shapes
/// As for [`forward`](super::forward).
///
/// # Errors
/// As for [`forward`](super::forward); [`Error::TooLarge`] on devices with less than 26 KiB of shared memory or with cubes of
/// less than 128 units.
pub fn chunked(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let limits = Limits::of(client);
    for (what, limit, found) in [
        (
            "the shared memory of a chunk in bytes",
            limits.shared_memory,
            SHARED_MEMORY,
        ),
        ("the number of units of a chunk", limits.units, UNITS),
    ] {
        if found > limit {
            let (limit, found) = (limit as u64, found as u64);
            return Err(Error::TooLarge { what, limit, found });
        }
    }
    let tile = Tile::chunked(problem, &limits)?;
    let out = token_buffer(
        client,
        problem,
        inputs,
        problem.heads * problem.value_dim,
        inputs.dtype(),
    )?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    if problem.state_len() == 0 {
        return Ok(DeviceOutputs { out, state: end });
    }
    let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, LENGTH)?;
    let count = table.count() * problem.heads;
    let prepared = DeviceBuffer::empty(client, count * prepared_len(problem.key_dim), DType::F32)?;
    let types = [inputs.dtype().elem(), inputs.gate_type().elem()];
    let address = address_type(
        client,
        inputs.longest(prepared.len().max(out.len()).max(end.len())),
    )?;
    if count > 0 {
        prepare::launch(
            client,
            cubes(client, count)?,
            CubeDim::new_1d(UNITS as u32),
            address,
            inputs.tokens(),
            inputs.gates(),
            inputs.sizes(problem, count),
            prepared.arg(),
            table.chunks(),
            // Neither pass needs what the other one's form says; one kernel serves more problems so.
            Variant::new(problem, Tile::NONE),
            types,
        );
    }
    let total = problem.batch * problem.heads * tile.tiles(problem);
    walk_chunks::launch(
        client,
        cubes(client, total)?,
        CubeDim::new_1d(tile.units() as u32),
        address,
        inputs.tokens(),
        inputs.sizes(problem, total),
        prepared.arg(),
        super::state_or_zeros(client, problem, state)?.arg(),
        end.arg(),
        out.arg(),
        table.chunks(),
        table.sequences(),
        Variant::of_tile(tile),
        inputs.dtype().elem(),
    );
    Ok(DeviceOutputs { out, state: end })
}

/// Y = Q' S + D V and S' = A∘S + Bᵀ (X S) + Eᵀ V, chunk after chunk, with the state in registers.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn walk_chunks<F: Float>(
    tokens: &Tokens<F>,
    sizes: &Sizes,
    prepared: &[f32],
    begin: &[f32],
    end: &mut [f32],
    out: &mut [F],
    chunks: &[u32],
    sequences: &[u32],
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= sizes.cubes {
        terminate!();
    }
    let place = sizes.place(variant);
    let rows = comptime!(variant.tile.rows);
    let mut meeting = Shared::<[f32]>::new_slice(comptime!(LENGTH * variant.tile.units()));
    let mut state = sizes.load(begin, place.state, &place, variant);
    let key_dim = sizes.key_dim;
    let block = LENGTH * key_dim;
    for chunk in sequences[2 * place.sequence] as usize..sequences[2 * place.sequence + 1] as usize {
        let base = (chunk * sizes.heads + place.head) * prepared_len(key_dim);
        let start = chunks[3 * chunk] as usize;
        let len = chunks[3 * chunk + 1] as usize - start;
        let mut values = Array::<f32>::new(LENGTH);
        let mut read = Array::<f32>::new(LENGTH);
        let mut outputs = Array::<f32>::new(LENGTH);
        #[unroll]
        for i in 0..LENGTH {
            read[i] = 0.0f32;
            outputs[i] = 0.0f32;
            values[i] = 0.0f32;
            if place.active && i < len {
                values[i] = tokens
                    .value
                    .at(start + i, place.head * sizes.value_dim + place.column);
            }
        }
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            let n = min(place.first + r, key_dim - 1);
            #[unroll]
            for i in 0..LENGTH {
                outputs[i] += prepared[base + i * key_dim + n] * state[r];
                read[i] += prepared[base + block + i * key_dim + n] * state[r];
            }
        }
        meet(&outputs, &mut meeting, variant);
        write_outputs::<F>(
            sizes,
            &place,
            &values,
            &meeting,
            prepared,
            out,
            base + 4 * block + key_dim,
            start,
            len,
            variant,
        );
        meet(&read, &mut meeting, variant);
        #[unroll]
        for i in 0..LENGTH {
            read[i] = met(&meeting, i, variant);
        }
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            let n = min(place.first + r, key_dim - 1);
            let mut next = prepared[base + 4 * block + n] * state[r];
            #[unroll]
            for i in 0..LENGTH {
                next += prepared[base + 2 * block + i * key_dim + n] * read[i];
                next += prepared[base + 3 * block + i * key_dim + n] * values[i];
            }
            state[r] = select(place.first + r < key_dim, next, 0.0f32);
        }
    }
    sizes.store(end, &state, place.state, &place, variant);
}

/// The outputs of a chunk; the units of a column share its tokens.
#[cube]
#[allow(clippy::too_many_arguments)]
fn write_outputs<F: Float>(
    sizes: &Sizes,
    place: &Place,
    values: &Array<f32>,
    meeting: &Shared<[f32]>,
    prepared: &[f32],
    out: &mut [F],
    direct: usize,
    start: usize,
    len: usize,
    #[comptime] variant: Variant,
) {
    let slice = UNIT_POS as usize / comptime!(variant.tile.columns);
    let mut i = slice;
    while i < len {
        let mut y = met(meeting, i, variant);
        #[unroll]
        for s in 0..LENGTH {
            y += prepared[direct + i * LENGTH + s] * values[s];
        }
        if place.active {
            let at = ((start + i) * sizes.heads + place.head) * sizes.value_dim + place.column;
            out[at] = F::cast_from(y);
        }
        i += comptime!(variant.tile.slices);
    }
}

/// Puts one value per token of every unit into shared memory, between two waits.
#[cube]
fn meet(values: &Array<f32>, meeting: &mut Shared<[f32]>, #[comptime] variant: Variant) {
    sync_cube();
    #[unroll]
    for i in 0..LENGTH {
        meeting[i * comptime!(variant.tile.units()) + UNIT_POS as usize] = values[i];
    }
    sync_cube();
}

/// The sum of token `i` over the units of a column, in the order of their rows.
#[cube]
fn met(meeting: &Shared<[f32]>, i: usize, #[comptime] variant: Variant) -> f32 {
    let columns = comptime!(variant.tile.columns);
    let mut sum = 0.0f32;
    for s in 0..comptime!(variant.tile.slices) {
        sum += meeting[i * comptime!(variant.tile.units()) + s * columns + UNIT_POS as usize % columns];
    }
    sum
}
