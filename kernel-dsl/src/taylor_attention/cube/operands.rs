//! Taylor attention's operands as kernels see them, and tiles of them in shared memory.

use cubecl::prelude::*;

pub(super) use crate::cube::place::Place;
use crate::cube::product::Tiling;
pub(super) use crate::feature_map::cube::table::{DeviceTable, Panel, Source, Table};
use crate::taylor_attention::Problem;

/// Whether a token looks back, as queries do, or is looked back at, as keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Query,
    Key,
}

/// Sizes and coefficients that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub heads: usize,
    pub key_dim: usize,
    pub features: usize,
    /// Columns of a state.
    pub columns: usize,
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
        problem.scale,
        c0,
        c1,
        c2,
    )
}

/// Stages some columns of a chunk, tokens down; 0 beyond the chunk and from column `cols` on.
#[cube]
pub(super) fn stage_panel<F: Float>(
    out: &mut Shared<[f32]>,
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
        out[i * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Stages some features of a chunk's keys, tokens down; 0 beyond the chunk and the features.
#[cube]
pub(super) fn stage_features<F: Float>(
    out: &mut Shared<[f32]>,
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
        out[i * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Stages a tile of a chunk's state, features down and columns across.
#[cube]
pub(super) fn stage_state(
    out: &mut Shared<[f32]>,
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
        out[n / size * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Whether own token `a` and other token `b` of a chunk meet: the key is not after the query, and both are there.
#[cube]
pub(super) fn meet(place: &Place, a: usize, b: usize, #[comptime] side: Side) -> bool {
    match comptime!(side) {
        Side::Query => b <= a && a < place.len,
        Side::Key => a <= b && b < place.len,
    }
}
