//! What chunks add to a state, and passing states from chunk to chunk.

use cubecl::prelude::*;

use super::Call;
use super::operands::{
    Panel, Place, Side, Sizes, Source, Table, scale_rows, sizes, stage_features, stage_panel,
};
use super::prefix::Prefix;
use crate::cube::product::{Accumulator, Layout, Tiling};
use crate::cube::{DType, DeviceBuffer, Error, address_type, cubes, launch_units};

/// From which end of its sequence a state is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    Backward,
}

impl Direction {
    /// The side of the tokens whose products are passed.
    fn side(self) -> Side {
        match self {
            Self::Forward => Side::Key,
            Self::Backward => Side::Query,
        }
    }
}

impl Call<'_> {
    /// The state that every chunk meets, and that which the last one leaves: Σ φ(x) yᵀ of the chunks before it in that
    /// direction, and what the sequence began with.
    pub(super) fn states(
        &self,
        x: &Source,
        y: &Source,
        start: Option<&DeviceBuffer>,
        direction: Direction,
    ) -> Result<(DeviceBuffer, DeviceBuffer), Error> {
        let problem = self.problem;
        let states = self.chunk_states()?;
        let end = DeviceBuffer::empty(self.client, problem.state_len(), DType::F32)?;
        let (total, count, dim) =
            self.grid(self.tiles(problem.features()) * self.tiles(problem.columns()))?;
        if total > 0 {
            updates::launch(
                self.client,
                count,
                dim,
                address_type(self.client, self.longest())?,
                x.panel(),
                y.panel(),
                self.features.launch(),
                sizes(problem),
                self.chunks.chunks(),
                self.log_decay().arg(),
                states.arg(),
                total,
                direction.side(),
                self.decays(),
                self.plan.tiling(),
                [x.elem(), y.elem(), self.plan.operands()],
            );
        }
        launch_units!(
            pass,
            self.client,
            end.len(),
            self.longest().max(end.len()),
            start.unwrap_or(self.features.any()).arg(),
            states.arg(),
            end.arg(),
            self.chunks.sequences(),
            self.chunks.chunks(),
            self.log_decay().arg(),
            sizes(problem),
            problem.head_state_len(),
            end.len(),
            start.is_some(),
            self.decays(),
            direction,
        );
        Ok((states, end))
    }

    /// What every sequence begins with: `state`, and the sum over its prefix.
    pub(super) fn begin(&self, prefix: &Prefix, state: Option<&DeviceBuffer>) -> Result<DeviceBuffer, Error> {
        let problem = self.problem;
        let begin = DeviceBuffer::empty(self.client, problem.state_len(), DType::F32)?;
        let tiles = self.tiles(problem.features()) * self.tiles(problem.columns());
        let total = problem.batch * problem.heads * tiles;
        if total > 0 {
            sum::launch(
                self.client,
                cubes(self.client, total)?,
                CubeDim::new_1d(self.plan.tiling().units() as u32),
                address_type(self.client, self.longest().max(begin.len()))?,
                prefix.key.panel(),
                prefix.value.panel(),
                self.features.launch(),
                sizes(problem),
                prefix.spans.arg(),
                state.unwrap_or(self.features.any()).arg(),
                begin.arg(),
                total,
                state.is_some(),
                self.plan.tiling(),
                [prefix.key.elem(), prefix.value.elem(), self.plan.operands()],
            );
        }
        Ok(begin)
    }
}

/// What a sequence begins with and Σ φ(x) yᵀ over its rows, one tile of one (sequence, head) per cube.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sum<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<G>,
    table: &Table,
    sizes: &Sizes,
    spans: &[u32],
    start: &[f32],
    end: &mut [f32],
    total: usize,
    #[comptime] has_start: bool,
    #[comptime] tiling: Tiling,
    #[define(F, G, E)] _types: [ElemType; 3],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let size = comptime!(tiling.size);
    let across = sizes.columns.div_ceil(size);
    let tiles = sizes.features.div_ceil(size) * across;
    let index = CUBE_POS / tiles;
    let first_feature = CUBE_POS % tiles / across * size;
    let first_col = CUBE_POS % across * size;
    let first_row = spans[2 * (index / sizes.heads)] as usize;
    let rows = spans[2 * (index / sizes.heads) + 1] as usize - first_row;
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));
    let mut sums = Accumulator::zero(tiling);
    for chunk in 0..rows.div_ceil(size) {
        let place = Place {
            start: first_row + chunk * size,
            len: min(size, rows - chunk * size),
            head: index % sizes.heads,
            index,
        };
        sync_cube();
        stage_features::<F, E>(&mut left, x, table, sizes, &place, first_feature, tiling);
        stage_panel::<G, E>(&mut right, y, &place, first_col, sizes.columns, tiling);
        sync_cube();
        sums.add_product::<E>(&left, &right, Layout::Transposed, Layout::Plain, tiling);
    }
    sums.store(&mut result, tiling);
    sync_cube();
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let d = first_feature + n / size;
        let col = first_col + n % size;
        if d < sizes.features && col < sizes.columns {
            let at = (index * sizes.features + d) * sizes.columns + col;
            let mut value = result[n / size * comptime!(tiling.pitch()) + n % size];
            if comptime!(has_start) {
                value += start[at];
            }
            end[at] = value;
        }
        n += comptime!(tiling.units());
    }
}

/// φ(X)ᵀ Y, one tile of one (chunk, head) per cube.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn updates<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<G>,
    table: &Table,
    sizes: &Sizes,
    chunks: &[u32],
    log_decay: &[f32],
    updates: &mut [f32],
    total: usize,
    #[comptime] side: Side,
    #[comptime] decays: bool,
    #[comptime] tiling: Tiling,
    #[define(F, G, E)] _types: [ElemType; 3],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let size = comptime!(tiling.size);
    let across = sizes.columns.div_ceil(size);
    let tiles = sizes.features.div_ceil(size) * across;
    let place = Place::of_cube(chunks, sizes.heads, tiles);
    let first_feature = CUBE_POS % tiles / across * size;
    let first_col = CUBE_POS % across * size;
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));
    stage_features::<F, E>(&mut left, x, table, sizes, &place, first_feature, tiling);
    stage_panel::<G, E>(&mut right, y, &place, first_col, sizes.columns, tiling);
    if comptime!(decays) {
        let rate = log_decay[place.head];
        scale_rows::<E>(&mut right, rate, &place, first_col, sizes.value_dim, side, tiling);
    }
    sync_cube();
    let mut sums = Accumulator::zero(tiling);
    sums.add_product::<E>(&left, &right, Layout::Transposed, Layout::Plain, tiling);
    sums.store(&mut result, tiling);
    sync_cube();
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let d = first_feature + n / size;
        let col = first_col + n % size;
        if d < sizes.features && col < sizes.columns {
            updates[(place.index * sizes.features + d) * sizes.columns + col] =
                result[n / size * comptime!(tiling.pitch()) + n % size];
        }
        n += comptime!(tiling.units());
    }
}

/// What each chunk adds becomes what it meets; one value of one state per unit.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
fn pass(
    start: &[f32],
    states: &mut [f32],
    end: &mut [f32],
    sequences: &[u32],
    chunks: &[u32],
    log_decay: &[f32],
    sizes: &Sizes,
    state_len: usize,
    total: usize,
    #[comptime] has_start: bool,
    #[comptime] decays: bool,
    #[comptime] direction: Direction,
) {
    if ABSOLUTE_POS < total {
        let sequence = ABSOLUTE_POS / state_len / sizes.heads;
        let head = ABSOLUTE_POS / state_len % sizes.heads;
        let first = sequences[2 * sequence] as usize;
        let last = sequences[2 * sequence + 1] as usize;
        let mut rate = 0.0f32;
        if comptime!(decays) {
            if ABSOLUTE_POS % sizes.columns < sizes.value_dim {
                rate = log_decay[head];
            }
        }
        let mut value = 0.0f32;
        if comptime!(has_start) {
            value = start[ABSOLUTE_POS];
        }
        for step in 0..last - first {
            let mut chunk = first + step;
            if comptime!(direction == Direction::Backward) {
                chunk = last - 1 - step;
            }
            let at = (chunk * sizes.heads + head) * state_len + ABSOLUTE_POS % state_len;
            let added = states[at];
            states[at] = value;
            if comptime!(decays) {
                let tokens = chunks[3 * chunk + 1] - chunks[3 * chunk];
                value *= (rate * f32::cast_from(tokens)).exp();
            }
            value += added;
        }
        end[ABSOLUTE_POS] = value;
    }
}
