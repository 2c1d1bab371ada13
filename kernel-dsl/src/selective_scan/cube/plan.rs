//! How a selective scan is cut up on a device.

use crate::cube::{Client, Limits};
use crate::selective_scan::problem::Problem;

/// Sizes of a cube that are fixed when its kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Units, one channel each.
    pub units: usize,
    /// Values of the state that a unit keeps in registers at a time.
    pub state: usize,
    /// Whether `state` divides the state dimension.
    pub exact: bool,
    /// Tokens whose states the backward pass keeps in shared memory.
    pub tokens: usize,
    /// States that the backward pass keeps in shared memory, `tokens` apart.
    pub marks: usize,
}

impl Tile {
    /// The largest tile that the device has shared memory for.
    pub(super) fn new(problem: &Problem, limits: &Limits) -> Self {
        let narrow = if problem.state_dim <= 8 { 8 } else { 16 };
        let units = limits.units.clamp(1, 32);
        let tile = |state: usize, tokens| Self {
            units,
            state,
            exact: problem.state_dim.is_multiple_of(state),
            tokens,
            marks: 4,
        };
        let tiles = [tile(narrow, 8), tile(8, 8), tile(8, 4), tile(4, 4)];
        let fits = |tile: &Tile| tile.shared_memory() <= limits.shared_memory;
        // The last one takes 10 KiB with 32 units; WebGPU promises 16.
        tiles.into_iter().find(fits).unwrap_or(tile(4, 1))
    }

    /// Tokens of a chunk of the backward pass.
    pub(super) fn chunk_size(self) -> usize {
        self.tokens * self.marks
    }

    /// Bytes that the backward pass keeps in shared memory.
    fn shared_memory(self) -> usize {
        4 * self.units * self.state * (self.tokens + self.marks) + 8 * self.state * (self.units + 1)
    }
}

/// Tokens of a chunk of the forward pass: a chunk's state is read and written once for as many.
const CHUNK_SIZE: usize = 128;

/// Units above which more of them make no call faster: 2048 on each of 128 multiprocessors.
const ENOUGH_UNITS: usize = 1 << 18;

/// Tokens of a chunk, or `None` where walking each sequence as a whole is as fast.
///
/// Chunks cost every token twice and read every chunk's state; they pay where the channels of all sequences are too few to
/// fill the device.
pub(super) fn preferred_chunk_size(client: &Client, problem: &Problem) -> Option<usize> {
    let units = problem.batch * problem.channels;
    let long = problem.time >= 2 * CHUNK_SIZE;
    let worthwhile = long && 2 * units <= ENOUGH_UNITS && !Limits::of(client).software;
    worthwhile.then_some(CHUNK_SIZE)
}
