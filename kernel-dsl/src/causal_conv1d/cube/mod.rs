//! The convolution on a device: the same mathematics as CubeCL kernels.
//!
//! A unit walks one channel over a chunk of tokens with the last `width` inputs in registers, so that every input is loaded
//! once per chunk. The sums over tokens that the backward pass needs are partial sums per chunk, added in the order of the
//! chunks: the same call gives the same bits on the same device.

mod backward;
mod forward;
mod operands;

pub use super::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
pub use backward::backward;
pub use forward::causal_conv1d;

use super::Problem;
use crate::cube::{Client, DeviceBuffer, Error, SequenceTable, launch_units};
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
    launch_units!(
        pass_through_kernel,
        client,
        to.len(),
        to.len(),
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
