//! The convolution on a device: the same mathematics as CubeCL kernels.
//!
//! A unit walks one channel over a chunk of tokens with the last `width` inputs in registers, so that every input is loaded
//! once per chunk. The sums over tokens that the backward pass needs are partial sums per chunk, added in the order of the
//! chunks: the same call gives the same bits on the same device.

mod backward;
mod forward;
mod inputs;

pub use crate::cube::{DeviceCotangents, Outputs};
pub use backward::backward;
pub use forward::causal_conv1d;
pub use inputs::{DeviceGradients, DeviceInputs};

use super::{Activation, Problem};
use crate::cube::{Client, DeviceBuffer, Error, SequenceTable, address_type, cubes};
use crate::sequences::Sequences;
use cubecl::prelude::*;

/// Units of a cube, one channel each.
const UNITS: usize = 64;
/// Tokens of a chunk, for calls that are too short to fill a device otherwise.
const SHORTEST_CHUNK: usize = 32;
/// Chunks from which longer ones are better: fewer partial sums, and fewer inputs loaded twice.
const MANY_CHUNKS: usize = 512;

/// Tokens of a chunk. A chunk is at least as long as the state before it.
fn chunk_size(problem: &Problem, rows: usize) -> usize {
    rows.div_ceil(MANY_CHUNKS)
        .next_power_of_two()
        .max(SHORTEST_CHUNK)
        .max(problem.width)
}

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    width: usize,
    silu: bool,
    bias: bool,
    /// Whether there is a state before the first token, or zeros.
    state: bool,
    /// Whether the final state has a cotangent.
    state_cotangent: bool,
}

impl Form {
    fn new(problem: &Problem, inputs: &DeviceInputs, state: bool, state_cotangent: bool) -> Self {
        Self {
            width: problem.width,
            silu: problem.activation == Activation::Silu,
            bias: inputs.bias.is_some(),
            state,
            state_cotangent,
        }
    }
}

/// What a unit reads besides the inputs.
#[derive(CubeType, CubeLaunch)]
struct Constants {
    /// `[channels, width]`.
    weight: Box<[f32]>,
    /// `[channels]`.
    bias: Box<[f32]>,
    /// `[batch, channels, width − 1]`.
    state: Box<[f32]>,
    channels: usize,
}

impl DeviceInputs<'_> {
    /// Where an operand is absent the weight is bound, which the kernel does not read.
    fn constants(&self, problem: &Problem, state: Option<&DeviceBuffer>) -> ConstantsLaunch {
        ConstantsLaunch::new(
            self.weight.arg(),
            self.bias.as_ref().unwrap_or(&self.weight).arg(),
            state.unwrap_or(&self.weight).arg(),
            problem.channels,
        )
    }
}

/// What a sequence without tokens does to a state, or to the cotangent of one: nothing.
fn pass_through_empty(
    client: &Client,
    problem: &Problem,
    sequences: &Sequences,
    table: &SequenceTable,
    from: Option<&DeviceBuffer>,
    to: &DeviceBuffer,
) -> Result<(), Error> {
    let empty = |b| sequences.span(b, problem.time).is_empty();
    if to.is_empty() || !(0..problem.batch).any(empty) {
        return Ok(());
    }
    pass_through_kernel::launch(
        client,
        cubes(client, to.len().div_ceil(UNITS))?,
        CubeDim::new_1d(UNITS as u32),
        address_type(client, to.len())?,
        // Where there is nothing to pass, some other buffer is bound, which the kernel does not read.
        from.map_or_else(|| table.arg(), DeviceBuffer::arg),
        to.arg(),
        table.arg(),
        problem.past_len(),
        to.len(),
        from.is_some(),
    );
    Ok(())
}

#[cube(launch, address_type = "dynamic")]
fn pass_through_kernel(
    from: &[f32],
    to: &mut [f32],
    table: &[u32],
    past_len: usize,
    len: usize,
    #[comptime] given: bool,
) {
    if ABSOLUTE_POS < len {
        let sequence = ABSOLUTE_POS / past_len;
        if table[2 * sequence] == table[2 * sequence + 1] {
            let mut value = 0.0f32;
            if comptime!(given) {
                value = from[ABSOLUTE_POS];
            }
            to[ABSOLUTE_POS] = value;
        }
    }
}

/// The channel and the chunk of a unit.
#[derive(CubeType)]
struct Place {
    channel: usize,
    sequence: usize,
    /// First row of the chunk, and the row after its last.
    first: usize,
    stop: usize,
    /// First row of the sequence, and the row after its last.
    start: usize,
    end: usize,
}

#[cube]
fn place(chunks: &[u32], spans: &[u32], channels: usize) -> Place {
    let tiles = channels.div_ceil(UNITS);
    let chunk = CUBE_POS / tiles;
    let sequence = chunks[3 * chunk + 2] as usize;
    Place {
        channel: CUBE_POS % tiles * UNITS + UNIT_POS as usize,
        sequence,
        first: chunks[3 * chunk] as usize,
        stop: chunks[3 * chunk + 1] as usize,
        start: spans[2 * sequence] as usize,
        end: spans[2 * sequence + 1] as usize,
    }
}
