//! How a selective scan is cut up on a device.

use crate::cube::Limits;
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
