//! How a delta rule is cut up on a device.

use crate::cube::{Error, Limits};
use crate::delta_rule::problem::Problem;

/// Rows of a state in one unit of the backward pass. With 16, NVRTC spills a few registers at 256 units.
const BACKWARD_ROWS: usize = 8;

/// What a cube holds: unit `s·columns + p` has the rows `s·rows .. (s + 1)·rows` of column `p` of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Rows of the state in one unit.
    pub rows: usize,
    /// Units along the rows: `rows · slices ≥ key_dim`.
    pub slices: usize,
    /// Columns of the state.
    pub columns: usize,
    /// Whether loops over a unit's rows are unrolled, so that the rows stay in registers.
    pub unrolled: bool,
}

impl Tile {
    /// For kernels that hold no part of a state.
    pub(super) const NONE: Self = Self {
        rows: 0,
        slices: 0,
        columns: 0,
        unrolled: false,
    };

    /// Tile of a forward pass: few rows per unit while there are units left, because rows are unrolled.
    pub(super) fn forward(problem: &Problem, limits: &Limits) -> Result<Self, Error> {
        Self::new(problem, limits, 32)
    }

    /// Tile of a walk over chunks, which keeps three values per token beside the rows; its loops over rows hold loops over tokens.
    pub(super) fn chunked(problem: &Problem, limits: &Limits) -> Result<Self, Error> {
        let tile = Self::backward(problem, limits)?;
        Ok(Self {
            unrolled: tile.unrolled && !limits.software,
            ..tile
        })
    }

    /// Tile of the backward pass, which keeps three values per row in registers: fewer columns where more rows than
    /// [`BACKWARD_ROWS`] would not leave room for them.
    pub(super) fn backward(problem: &Problem, limits: &Limits) -> Result<Self, Error> {
        let units = limits.units.clamp(1, 256);
        let columns = (units * BACKWARD_ROWS / problem.key_dim.next_power_of_two().max(1)).clamp(8, 32);
        Self::new(problem, limits, columns)
    }

    fn new(problem: &Problem, limits: &Limits, widest: usize) -> Result<Self, Error> {
        let units = limits.units.clamp(1, 256);
        let widest = problem.value_dim.next_power_of_two().clamp(1, widest).min(units);
        let tile = |columns: usize| {
            let most_slices = (units / columns).max(1);
            let rows = problem.key_dim.div_ceil(most_slices).next_power_of_two().max(8);
            Self {
                rows,
                slices: problem.key_dim.div_ceil(rows).max(1),
                columns,
                // Processors take seconds to compile what is unrolled far.
                unrolled: rows <= if limits.software { 8 } else { 32 },
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
