//! Taylor attention's operands as kernels see them, and tiles of them in shared memory.

use cubecl::prelude::*;

pub(super) use crate::cube::place::Place;
use crate::cube::product::Tiling;
pub(super) use crate::feature_map::cube::table::{DeviceTable, Panel, Source, Table};
use crate::taylor_attention::Problem;

/// Whether a token looks back, as queries do, or is looked back at, as keys are; those of a prefix meet no other token, and the
/// state of their sequence in the place of their chunk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Query,
    Key,
    Prefix,
}

/// Sizes and coefficients that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub heads: usize,
    pub key_dim: usize,
    pub features: usize,
    /// Columns of a state.
    pub columns: usize,
    /// Columns of a state that decay, if any do.
    pub value_dim: usize,
    pub scale: f32,
    pub c0: f32,
    pub c1: f32,
    pub c2: f32,
}

pub(super) fn sizes(problem: &Problem) -> SizesLaunch {
    let [c0, c1, c2] = problem.expansion.coefficients().map(|c| c as f32);
    SizesLaunch::new(
        problem.heads,
        problem.key_dim,
        problem.features(),
        problem.columns(),
        problem.value_dim,
        problem.scale,
        c0,
        c1,
        c2,
    )
}

/// Stages some columns of a chunk, tokens down; 0 beyond the chunk and from column `cols` on.
#[cube]
pub(super) fn stage_panel<F: Float, E: Float>(
    out: &mut Shared<[E]>,
    panel: &Panel<F>,
    place: &Place,
    first: usize,
    cols: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let col = first + n % size;
        let mut value = 0.0f32;
        if i < place.len && col < cols {
            value = panel.at(place.start + i, place.head, col);
        }
        out[i * comptime!(tiling.pitch()) + n % size] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

/// Stages some features of a chunk's keys, tokens down; 0 beyond the chunk and the features.
#[cube]
pub(super) fn stage_features<F: Float, E: Float>(
    out: &mut Shared<[E]>,
    x: &Panel<F>,
    table: &Table,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let d = first + n % size;
        let mut value = 0.0f32;
        if i < place.len && d < sizes.features {
            value = table.feature::<F>(x, place.start + i, place.head, d);
        }
        out[i * comptime!(tiling.pitch()) + n % size] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

/// Stages a tile of a chunk's state, features down and columns across.
#[cube]
pub(super) fn stage_state<E: Float>(
    out: &mut Shared<[E]>,
    states: &[f32],
    sizes: &Sizes,
    place: &Place,
    first_feature: usize,
    first_col: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let d = first_feature + n / size;
        let col = first_col + n % size;
        let mut value = 0.0f32;
        if d < sizes.features && col < sizes.columns {
            value = states[(place.index * sizes.features + d) * sizes.columns + col];
        }
        out[n / size * comptime!(tiling.pitch()) + n % size] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

/// Whether own token `a` and other token `b` of a chunk meet: the key is not after the query, and both are there.
#[cube]
pub(super) fn meet(place: &Place, a: usize, b: usize, #[comptime] side: Side) -> bool {
    match comptime!(side) {
        Side::Query => b <= a && a < place.len,
        Side::Key => a <= b && b < place.len,
        Side::Prefix => false.runtime(),
    }
}

/// The place of a cube whose tokens are on one side.
#[cube]
pub(super) fn place_of(chunks: &[u32], heads: usize, tiles: usize, #[comptime] side: Side) -> Place {
    let place = Place::of_cube(chunks, heads, tiles);
    let mut index = place.index;
    if comptime!(side == Side::Prefix) {
        index = chunks[3 * (place.index / heads) + 2] as usize * heads + place.head;
    }
    Place {
        start: place.start,
        len: place.len,
        head: place.head,
        index,
    }
}

/// γ to the power of the tokens between token `i` of a chunk and the state that its side meets: the one before the chunk for
/// queries, the one after it for keys.
#[cube]
pub(super) fn decay_to_state(log_decay: f32, place: &Place, i: usize, #[comptime] side: Side) -> f32 {
    let mut tokens = i + 1;
    if comptime!(side == Side::Key) {
        tokens = place.len - 1 - i;
    }
    (log_decay * f32::cast_from(tokens)).exp()
}

/// Multiplies a staged tile, tokens down, by [`decay_to_state`]; of columns from `first` on, only those before `end`. The unit that
/// staged a value also scales it.
#[cube]
pub(super) fn scale_rows<E: Float>(
    tile: &mut Shared<[E]>,
    log_decay: f32,
    place: &Place,
    first: usize,
    end: usize,
    #[comptime] side: Side,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        if i < place.len && first + n % size < end {
            let at = i * comptime!(tiling.pitch()) + n % size;
            let decayed = f32::cast_from(tile[at]) * decay_to_state(log_decay, place, i, side);
            tile[at] = E::cast_from(decayed);
        }
        n += comptime!(tiling.units());
    }
}

/// Tokens between two of a chunk.
#[cube]
pub(super) fn distance(a: usize, b: usize) -> usize {
    max(a, b) - min(a, b)
}
