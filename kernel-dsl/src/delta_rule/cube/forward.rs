//! Token by token: a cube for each (sequence, head, tile of value columns), its state in registers.

use cubecl::prelude::*;

use super::chunked::{chunked, is_preferred};
use super::operands::{Gates, Sizes, Stage, Tokens, Variant, written};
use super::plan::Tile;
use super::token_buffer;
use crate::cube::{ChunkTable, Client, DType, DeviceBuffer, Error, Limits, address_type, cubes};
use crate::delta_rule::problem::{DeltaRuleError, DeviceInputs, DeviceOutputs, Problem};

/// The delta rule over one token of every sequence.
///
/// # Shapes
/// As for [`forward`], with one row per sequence.
///
/// # Errors
/// As for [`forward`]; [`DeltaRuleError::NotOneToken`] for sequences of other lengths.
pub fn step(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    inputs.sequences.validate(problem.batch, problem.time)?;
    for sequence in 0..problem.batch {
        let found = inputs.sequences.span(sequence, problem.time).len();
        if found != 1 {
            return Err(Error::problem(DeltaRuleError::NotOneToken { sequence, found }));
        }
    }
    sequential(client, problem, inputs, state)
}

/// The delta rule (see [`delta_rule`](crate::delta_rule) for the formula), in the form that suits the device.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]` in f32, zeros if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn forward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    match is_preferred(problem, &Limits::of(client)) {
        true => chunked(client, problem, inputs, state),
        false => sequential(client, problem, inputs, state),
    }
}

/// The delta rule token by token.
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
    let tile = Tile::forward(problem, &Limits::of(client))?;
    let out = token_buffer(
        client,
        problem,
        inputs,
        problem.heads * problem.value_dim,
        inputs.dtype(),
    )?;
    let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, usize::MAX)?;
    let end = walk(client, problem, inputs, tile, &table, state, Keep::Outputs(&out))?;
    Ok(DeviceOutputs { out, state: end })
}

/// What a walk over all tokens writes beside the final states.
pub(super) enum Keep<'a> {
    /// Outputs y of all tokens, `[rows, heads·value_dim]`.
    Outputs(&'a DeviceBuffer),
    /// The state that each chunk begins with, `[chunks, heads, key_dim, value_dim]`.
    States(&'a DeviceBuffer),
}

/// Walks all tokens; gives the final states.
pub(super) fn walk(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    tile: Tile,
    table: &ChunkTable,
    state: Option<&DeviceBuffer>,
    keep: Keep,
) -> Result<DeviceBuffer, Error> {
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    // Without key_dim there is no state, but there are outputs, which are 0.
    let total = problem.batch * problem.heads * tile.tiles(problem);
    if total == 0 || problem.key_dim == 0 {
        return Ok(end);
    }
    // What the walk does not write is bound to an input, so that no buffer is bound twice to be written.
    let unused = inputs.query.buffer();
    let (out, states, outputs) = match keep {
        Keep::Outputs(out) => (out, unused, true),
        Keep::States(states) => (unused, states, false),
    };
    let begin = super::state_or_zeros(client, problem, state)?;
    walk_kernel::launch(
        client,
        cubes(client, total)?,
        CubeDim::new_1d(tile.units() as u32),
        address_type(client, inputs.longest(out.len().max(states.len()).max(end.len())))?,
        inputs.tokens(),
        inputs.gates(),
        inputs.sizes(problem, total),
        begin.arg(),
        end.arg(),
        out.arg(),
        states.arg(),
        table.chunks(),
        table.sequences(),
        Variant::new(problem, tile),
        outputs,
        [inputs.dtype().elem(), inputs.gate_type().elem()],
    );
    Ok(end)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn walk_kernel<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    begin: &[f32],
    end: &mut [f32],
    out: &mut [F],
    states: &mut [f32],
    chunks: &[u32],
    sequences: &[u32],
    #[comptime] variant: Variant,
    #[comptime] outputs: bool,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if CUBE_POS >= sizes.cubes {
        terminate!();
    }
    let place = sizes.place(variant);
    let mut stage = Stage::new(variant);
    let mut state = sizes.load(begin, place.state, &place, variant);
    let head_len = sizes.key_dim * sizes.value_dim;
    let first_chunk = sequences[2 * place.sequence] as usize;
    let after_chunks = sequences[2 * place.sequence + 1] as usize;
    for chunk in first_chunk..after_chunks {
        if comptime!(!outputs) {
            let offset = (chunk * sizes.heads + place.head) * head_len + place.column;
            sizes.store(states, &state, offset, &place, variant);
        }
        for row in chunks[3 * chunk] as usize..chunks[3 * chunk + 1] as usize {
            stage.fill::<F, G>(tokens, gates, sizes, &place, row, variant);
            let read = stage.read(&state, &place, variant);
            let written = written::<F, G>(tokens, gates, sizes, &place, row, read, variant);
            let mut sum = 0.0f32;
            #[unroll(variant.tile.unrolled)]
            for r in 0..comptime!(variant.tile.rows) {
                let n = place.first + r;
                state[r] = stage.updated(state[r], read, written, n, variant);
                sum += stage.query[n] * state[r];
            }
            if comptime!(outputs) {
                let y = stage.column_sum(sum, variant);
                if place.active && place.first == 0 {
                    out[(row * sizes.heads + place.head) * sizes.value_dim + place.column] = F::cast_from(y);
                }
            }
        }
    }
    sizes.store(end, &state, place.state, &place, variant);
}
