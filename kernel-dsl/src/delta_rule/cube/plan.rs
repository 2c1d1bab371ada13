//! How a delta rule is cut up on a device.

use crate::cube::{Error, Limits};
use crate::delta_rule::problem::Problem;

/// What a cube holds: unit `s·columns + p` has the rows `s·rows .. (s + 1)·rows` of column `p` of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Rows of the state in one unit.
    pub rows: usize,
    /// Units along the rows: `rows · slices ≥ key_dim`.
    pub slices: usize,
    /// Columns of the state.
    pub columns: usize,
}

impl Tile {
    /// Few rows per unit while there are units left, because rows are unrolled.
    pub(super) fn new(problem: &Problem, limits: &Limits) -> Result<Self, Error> {
        let units = limits.units.clamp(1, 256);
        let widest = problem.value_dim.next_power_of_two().clamp(1, 32).min(units);
        let tile = |columns: usize| {
            let most_slices = (units / columns).max(1);
            let rows = problem.key_dim.div_ceil(most_slices).next_power_of_two().max(8);
            Self {
                rows,
                slices: problem.key_dim.div_ceil(rows).max(1),
                columns,
            }
        };
        // Narrow tiles need less shared memory for sums over columns.
        let mut columns = widest;
        while columns > 8 && tile(columns).shared_memory() > limits.shared_memory {
            columns /= 2;
        }
        let tile = tile(columns);
        if tile.shared_memory() > limits.shared_memory {
            return Err(Error::TooLarge {
                what: "the shared memory of the delta rule, which grows with key_dim, in bytes",
                limit: limits.shared_memory as u64,
                found: tile.shared_memory() as u64,
            });
        }
        Ok(tile)
    }

    /// Units of a cube.
    pub(super) fn units(self) -> usize {
        self.slices * self.columns
    }

    /// Rows of all units together, those beyond the state included.
    pub(super) fn staged(self) -> usize {
        self.slices * self.rows
    }

    /// Whether the loops over a unit's rows are unrolled, so that they stay in registers.
    pub(super) fn unrolled(self) -> bool {
        self.rows <= 32
    }

    /// Tiles along the columns of a state.
    pub(super) fn tiles(self, problem: &Problem) -> usize {
        problem.value_dim.div_ceil(self.columns)
    }

    /// Bytes that the backward pass, which needs the most, keeps in shared memory.
    fn shared_memory(self) -> usize {
        4 * (5 * self.staged() + 2 * self.units() + self.staged() * (self.columns + 1))
    }
}

/// Tokens of a chunk of the backward pass: the states at chunk boundaries and those inside of one chunk are in memory, so
/// that a chunk of √T tokens takes the least.
pub(super) fn backward_chunk_size(time: usize) -> usize {
    time.isqrt().next_power_of_two().clamp(8, 256)
}
