//! Reading a chunk's weights and a state against values.
//!
//! ```text
//! ỹ_i = Σ_{j≤i} W_ij ṽ_j + Sᵀ φ(q_i)                 own tokens are queries
//! v̄_j = Σ_{i≥j} W_ij ȳ_i + S̄ᵀ φ(k_j)                 own tokens are keys
//! v̄′_e = S̄ᵀ φ(k′_e)                                  own tokens are those of a prefix
//! ```
//!
//! Where the numerator decays, W_ij is γ^{i−j} W_ij, and S and S̄ have lost what they lose on the way, in all columns but the
//! denominator's, which then has a tile of its own.

use cubecl::prelude::*;

use super::operands::{
    Panel, Place, Side, Sizes, Table, distance, meet, place_of, scale_rows, stage_features, stage_panel,
    stage_state,
};
use crate::cube::product::{Accumulator, Layout, Tiling};

/// Reads one tile of columns of one (chunk, head) per cube; there are `cols` columns in all.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn read<F: Float, G: Float, E: Float>(
    own: &Panel<F>,
    other: &Panel<F>,
    values: &Panel<G>,
    table: &Table,
    sizes: &Sizes,
    chunks: &[u32],
    states: &[f32],
    log_decay: &[f32],
    out: &mut [f32],
    cols: usize,
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
    let pitch = comptime!(tiling.pitch());
    let mut tiles = cols.div_ceil(size);
    if comptime!(decays) {
        tiles = sizes.value_dim.div_ceil(size) + cols - sizes.value_dim;
    }
    let place = place_of(chunks, sizes.heads, tiles, side);
    let mut first = CUBE_POS % tiles * size;
    let mut end = cols;
    let mut rate = 0.0f32;
    if comptime!(decays) {
        if first < sizes.value_dim {
            end = sizes.value_dim;
            rate = log_decay[place.head];
        } else {
            first = sizes.value_dim;
        }
    }
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));

    let mut sums = Accumulator::zero(tiling);
    if comptime!(side != Side::Prefix) {
        products::<F, E>(
            &mut left,
            &mut right,
            &mut result,
            own,
            other,
            sizes,
            &place,
            tiling,
        );
        let mut n = UNIT_POS as usize;
        while n < comptime!(tiling.size * tiling.size) {
            let at = n / size * pitch + n % size;
            let mut weight = 0.0f32;
            if meet(&place, n / size, n % size, side) {
                let x = sizes.scale * result[at];
                weight = (sizes.c2 * x + sizes.c1) * x + sizes.c0;
                if comptime!(decays) {
                    weight *= (rate * f32::cast_from(distance(n / size, n % size))).exp();
                }
            }
            left[at] = E::cast_from(weight);
            n += comptime!(tiling.units());
        }
        stage_panel::<G, E>(&mut right, values, &place, first, end, tiling);
        sync_cube();
        sums.add_product::<E>(&left, &right, Layout::Plain, Layout::Plain, tiling);
    }
    for tile in 0..sizes.features.div_ceil(size) {
        sync_cube();
        stage_features::<F, E>(&mut left, own, table, sizes, &place, tile * size, tiling);
        if comptime!(decays) {
            scale_rows::<E>(&mut left, rate, &place, 0usize, size, side, tiling);
        }
        stage_state::<E>(&mut right, states, sizes, &place, tile * size, first, tiling);
        sync_cube();
        sums.add_product::<E>(&left, &right, Layout::Plain, Layout::Plain, tiling);
    }
    sums.store(&mut result, tiling);
    sync_cube();
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let (i, col) = (n / size, first + n % size);
        if i < place.len && col < end {
            out[((place.start + i) * sizes.heads + place.head) * cols + col] = result[i * pitch + n % size];
        }
        n += comptime!(tiling.units());
    }
}

/// The inner products of own and other tokens of a chunk, own ones down, in `result`.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn products<F: Float, E: Float>(
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    result: &mut Shared<[f32]>,
    own: &Panel<F>,
    other: &Panel<F>,
    sizes: &Sizes,
    place: &Place,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut sums = Accumulator::zero(tiling);
    for tile in 0..sizes.key_dim.div_ceil(size) {
        sync_cube();
        stage_panel::<F, E>(left, own, place, tile * size, sizes.key_dim, tiling);
        stage_panel::<F, E>(right, other, place, tile * size, sizes.key_dim, tiling);
        sync_cube();
        sums.add_product::<E>(&*left, &*right, Layout::Plain, Layout::Transposed, tiling);
    }
    sums.store(result, tiling);
    sync_cube();
}
