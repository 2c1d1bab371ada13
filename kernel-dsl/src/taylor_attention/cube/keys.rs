//! Gradients of queries and of keys.
//!
//! ```text
//! q̄_i = scale Σ_{j≤i} (c₁ + 2 c₂ X_ij) ⟨ȳ_i, ṽ_j⟩ k_j + φ′(q_i)ᵀ S ȳ_i             own tokens are queries
//! k̄_j = scale Σ_{i≥j} (c₁ + 2 c₂ X_ij) ⟨ȳ_i, ṽ_j⟩ q_i + φ′(k_j)ᵀ S̄ ṽ_j             own tokens are keys
//! k̄′_e = φ′(k′_e)ᵀ S̄ ṽ′_e                                                          own tokens are those of a prefix
//! ```
//!
//! Where the numerator decays, the columns but the denominator's lose what they do in [`read`](super::read).

use cubecl::prelude::*;

use super::operands::{
    Panel, Place, Side, Sizes, Table, distance, meet, place_of, scale_rows, stage_panel, stage_state,
};
use super::read::products;
use crate::cube::product::{Accumulator, Layout, Tiling};

/// Gradients of queries or of keys, one (chunk, head) per cube.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn keys<F: Float, G: Float, H: Float, E: Float>(
    own: &Panel<F>,
    other: &Panel<F>,
    own_values: &Panel<G>,
    other_values: &Panel<H>,
    table: &Table,
    sizes: &Sizes,
    chunks: &[u32],
    states: &[f32],
    log_decay: &[f32],
    out: &mut [f32],
    total: usize,
    #[comptime] side: Side,
    #[comptime] decays: bool,
    #[comptime] tiling: Tiling,
    #[define(F, G, H, E)] _types: [ElemType; 4],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let size = comptime!(tiling.size);
    let place = place_of(chunks, sizes.heads, 1usize, side);
    let mut rate = 0.0f32;
    if comptime!(decays) {
        rate = log_decay[place.head];
    }
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));
    if comptime!(side == Side::Prefix) {
        let mut n = UNIT_POS as usize;
        while n < place.len * sizes.key_dim {
            out[start_of(&place, sizes, n / sizes.key_dim) + n % sizes.key_dim] = 0.0f32;
            n += comptime!(tiling.units());
        }
    } else {
        inside::<F, G, H, E>(
            &mut left,
            &mut right,
            &mut result,
            own,
            other,
            own_values,
            other_values,
            sizes,
            &place,
            rate,
            out,
            side,
            decays,
            tiling,
        );
    }
    for tile in 0..sizes.features.div_ceil(size) {
        let mut sums = Accumulator::zero(tiling);
        for across in 0..sizes.columns.div_ceil(size) {
            sync_cube();
            stage_panel::<G, E>(
                &mut left,
                own_values,
                &place,
                across * size,
                sizes.columns,
                tiling,
            );
            if comptime!(decays) {
                scale_rows::<E>(
                    &mut left,
                    rate,
                    &place,
                    across * size,
                    sizes.value_dim,
                    side,
                    tiling,
                );
            }
            stage_state::<E>(
                &mut right,
                states,
                sizes,
                &place,
                tile * size,
                across * size,
                tiling,
            );
            sync_cube();
            sums.add_product::<E>(&left, &right, Layout::Plain, Layout::Transposed, tiling);
        }
        sums.store(&mut result, tiling);
        sync_cube();
        pull_back::<F>(&result, own, table, sizes, &place, tile * size, out, tiling);
    }
}

/// What the other tokens of the chunk give.
#[cube]
#[allow(clippy::too_many_arguments)]
fn inside<F: Float, G: Float, H: Float, E: Float>(
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    result: &mut Shared<[f32]>,
    own: &Panel<F>,
    other: &Panel<F>,
    own_values: &Panel<G>,
    other_values: &Panel<H>,
    sizes: &Sizes,
    place: &Place,
    rate: f32,
    out: &mut [f32],
    #[comptime] side: Side,
    #[comptime] decays: bool,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(tiling.len()));

    products::<F, E>(left, right, result, own, other, sizes, place, tiling);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let at = n / size * pitch + n % size;
        let mut slope = 0.0f32;
        if meet(place, n / size, n % size, side) {
            slope = sizes.scale * (sizes.c1 + 2.0f32 * sizes.c2 * sizes.scale * result[at]);
        }
        slopes[at] = slope;
        n += comptime!(tiling.units());
    }
    let mut sums = Accumulator::zero(tiling);
    let mut columns = sizes.columns;
    if comptime!(decays) {
        columns = sizes.value_dim;
    }
    for tile in 0..columns.div_ceil(size) {
        sync_cube();
        stage_panel::<G, E>(left, own_values, place, tile * size, columns, tiling);
        stage_panel::<H, E>(right, other_values, place, tile * size, columns, tiling);
        sync_cube();
        sums.add_product::<E>(&*left, &*right, Layout::Plain, Layout::Transposed, tiling);
    }
    sums.store(result, tiling);
    sync_cube();
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let at = n / size * pitch + n % size;
        let mut product = result[at];
        if comptime!(decays) {
            product *= (rate * f32::cast_from(distance(n / size, n % size))).exp();
            if sizes.value_dim < sizes.columns && meet(place, n / size, n % size, side) {
                let ones = own_values.at(place.start + n / size, place.head, sizes.value_dim);
                product += ones * other_values.at(place.start + n % size, place.head, sizes.value_dim);
            }
        }
        left[at] = E::cast_from(slopes[at] * product);
        n += comptime!(tiling.units());
    }
    for tile in 0..sizes.key_dim.div_ceil(size) {
        sync_cube();
        stage_panel::<F, E>(right, other, place, tile * size, sizes.key_dim, tiling);
        sync_cube();
        let mut sums = Accumulator::zero(tiling);
        sums.add_product::<E>(&*left, &*right, Layout::Plain, Layout::Plain, tiling);
        sums.store(result, tiling);
        sync_cube();
        // The same unit adds to the same value below: no other needs to see it.
        let mut n = UNIT_POS as usize;
        while n < place.len * sizes.key_dim {
            let (i, key) = (n / sizes.key_dim, n % sizes.key_dim);
            if key / size == tile {
                out[start_of(place, sizes, i) + key] = result[i * pitch + key % size];
            }
            n += comptime!(tiling.units());
        }
    }
}

/// Where the gradient of token `i` of the chunk begins.
#[cube]
fn start_of(place: &Place, sizes: &Sizes, i: usize) -> usize {
    ((place.start + i) * sizes.heads + place.head) * sizes.key_dim
}

/// Adds what a tile of cotangents of features, tokens down, gives the gradients of the keys.
#[cube]
#[allow(clippy::too_many_arguments)]
fn pull_back<F: Float>(
    cotangent: &Shared<[f32]>,
    own: &Panel<F>,
    table: &Table,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    out: &mut [f32],
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let count = min(size, sizes.features - first);
    let mut n = UNIT_POS as usize;
    while n < place.len * sizes.key_dim {
        let (i, key) = (n / sizes.key_dim, n % sizes.key_dim);
        let row = place.start + i;
        let mut sum = 0.0f32;
        for f in 0..count {
            let slope = table.slope::<F>(own, row, place.head, first + f, key);
            sum += slope * cotangent[i * comptime!(tiling.pitch()) + f];
        }
        let at = start_of(place, sizes, i) + key;
        out[at] += sum;
        n += comptime!(tiling.units());
    }
}
