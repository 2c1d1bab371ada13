//! Reading a chunk's scores and a state against values: the output, and the gradient of the values.
//!
//! ```text
//! y_i = Σ_j W_ij δ_j v_j + scale (q_i ∘ e^{Σ_{t≤i} ln a_t})ᵀ h_in + D∘v_i
//! ū_j = Σ_i W_ij ȳ_i     + (k_j ∘ e^{Σ_{t>j} ln a_t})ᵀ h̄_out                   the gradient of u_j = δ_j v_j
//! ```

use cubecl::prelude::*;

use super::operands::{Constants, Gates, Sizes, Variant};
use super::scores::score_at;
use super::staging::{Factors, Panel, Place, Side, fill_factors, stage_decayed, stage_panel, stage_stepped};
use crate::cube::product::{Accumulator, Layout, Tiling};

/// One tile of values of one (chunk, head) per cube: y with [`Side::Begin`], ū with [`Side::End`].
///
/// `x` is decayed towards `side` and read against `states`; `y` is what the scores weigh.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn read_values<F: Float, G: Float, E: Float, O: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    chunks: &[u32],
    scores: &[f32],
    states: &[f32],
    out: &mut [O],
    scale: f32,
    total: usize,
    #[comptime] side: Side,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
    #[define(F, G, E, O)] _types: [ElemType; 4],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let tiles = sizes.value_dim.div_ceil(size);
    let place = Place::of_cube(chunks, sizes.heads, tiles);
    let first_value = CUBE_POS % tiles * size;
    let mut factors = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));

    let mut sums = Accumulator::zero(tiling);
    stage_scores::<E>(&mut left, scores, &place, tiling);
    match comptime!(side) {
        Side::Begin => {
            stage_stepped::<F, G, E>(&mut right, y, gates, &place, first_value, variant, tiling);
            sync_cube();
            sums.add_product::<E>(&left, &right, Layout::Plain, Layout::Plain, tiling);
        }
        Side::End => {
            stage_panel::<F, E>(&mut right, y, &place, first_value, tiling);
            sync_cube();
            sums.add_product::<E>(&left, &right, Layout::Transposed, Layout::Plain, tiling);
        }
    }
    for tile in 0..sizes.key_dim.div_ceil(size) {
        let first_key = tile * size;
        fill_factors::<G>(
            &mut factors,
            gates,
            sizes,
            &place,
            first_key,
            comptime!(Factors::whole(side, variant, tiling)),
            variant,
            tiling,
        );
        sync_cube();
        stage_decayed::<F, E>(&mut left, x, &factors, &place, first_key, scale, tiling);
        stage_state::<E>(&mut right, states, sizes, &place, first_key, first_value, tiling);
        sync_cube();
        sums.add_product::<E>(&left, &right, Layout::Plain, Layout::Plain, tiling);
    }
    sums.store(&mut result, tiling);
    sync_cube();
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let column = first_value + n % size;
        if i < place.len && column < sizes.value_dim {
            let row = place.start + i;
            let mut value = result[i * pitch + n % size];
            if comptime!(variant.skip && side == Side::Begin) {
                value += constants.skip(place.head, column, variant) * y.at(row, place.head, column);
            }
            out[(row * sizes.heads + place.head) * sizes.value_dim + column] = O::cast_from(value);
        }
        n += comptime!(tiling.units());
    }
}

/// Stages the scores of a chunk.
#[cube]
pub(super) fn stage_scores<E: Float>(
    out: &mut Shared<[E]>,
    scores: &[f32],
    place: &Place,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        out[n / size * comptime!(tiling.pitch()) + n % size] =
            E::cast_from(scores[score_at(place, n / size, n % size, tiling)]);
        n += comptime!(tiling.units());
    }
}

/// Stages a tile of a chunk's state, keys down and values across.
#[cube]
pub(super) fn stage_state<E: Float>(
    out: &mut Shared<[E]>,
    states: &[f32],
    sizes: &Sizes,
    place: &Place,
    first_key: usize,
    first_value: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let key = first_key + n / size;
        let column = first_value + n % size;
        let mut value = 0.0f32;
        if key < sizes.key_dim && column < sizes.value_dim {
            value = states[(place.index * sizes.key_dim + key) * sizes.value_dim + column];
        }
        out[n / size * comptime!(tiling.pitch()) + n % size] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}
