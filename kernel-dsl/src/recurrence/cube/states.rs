//! What chunks add to a state, and passing states from chunk to chunk.
//!
//! ```text
//! G_c = Σ_j (k_j ∘ e^{Σ_{t>j} ln a_t}) (δ_j v_j)ᵀ            what chunk c adds        h ← e^{Σ ln a} ∘ h + G_c
//! U_c = Σ_i scale (q_i ∘ e^{Σ_{t≤i} ln a_t}) ȳ_iᵀ            its adjoint, in reverse  h̄ ← e^{Σ ln a} ∘ h̄ + U_c
//! ```
//!
//! With a bonus the sum of the second runs over t < i.

use cubecl::prelude::*;

use super::operands::{Gates, Sizes, Variant};
use super::staging::{
    Factors, Panel, Place, Side, fill_factors, log_decay, stage_decayed, stage_panel, stage_stepped,
};
use crate::cube::product::{Accumulator, Layout, Tiling};
use crate::decay::DecayScope;

/// G_c or U_c, one tile of one (chunk, head) per cube; with [`Side::End`] also the sums of the log decays.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn chunk_updates<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    chunks: &[u32],
    updates: &mut [f32],
    sums: &mut [f32],
    scale: f32,
    total: usize,
    #[comptime] side: Side,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
    #[define(F, G, E)] _types: [ElemType; 3],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let value_tiles = sizes.value_dim.div_ceil(size);
    let tiles = sizes.key_dim.div_ceil(size) * value_tiles;
    let place = Place::of_cube(chunks, sizes.heads, tiles);
    let first_key = CUBE_POS % tiles / value_tiles * size;
    let first_value = CUBE_POS % value_tiles * size;
    let mut factors = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));

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
    match comptime!(side) {
        Side::Begin => stage_panel::<F, E>(&mut right, y, &place, first_value, tiling),
        Side::End => stage_stepped::<F, G, E>(&mut right, y, gates, &place, first_value, variant, tiling),
    }
    sync_cube();
    let mut update = Accumulator::zero(tiling);
    update.add_product::<E>(&left, &right, Layout::Transposed, Layout::Plain, tiling);
    update.store(&mut result, tiling);
    sync_cube();
    let base = place.index * sizes.key_dim * sizes.value_dim;
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let key = first_key + n / size;
        let value = first_value + n % size;
        if key < sizes.key_dim && value < sizes.value_dim {
            updates[base + key * sizes.value_dim + value] = result[n / size * pitch + n % size];
        }
        n += comptime!(tiling.units());
    }
    if comptime!(side == Side::End) {
        if first_value == 0 {
            sum_log_decays::<G>(gates, sizes, &place, first_key, sums, variant, tiling);
        }
    }
}

/// Σ ln a over the chunk: one value per head, or one per key.
#[cube]
fn sum_log_decays<G: Float>(
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    sums: &mut [f32],
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let mut c = UNIT_POS as usize;
    while c < comptime!(tiling.size) {
        let mut sum = 0.0f32;
        for i in 0..place.len {
            sum += log_decay::<G>(gates, sizes, place, i, first + c, variant);
        }
        match comptime!(variant.decay) {
            DecayScope::Key => {
                if first + c < sizes.key_dim {
                    sums[place.index * sizes.key_dim + first + c] = sum;
                }
            }
            _ => {
                if first + c == 0 {
                    sums[place.index] = sum;
                }
            }
        }
        c += comptime!(tiling.units());
    }
}

/// Units of a cube that passes states.
pub(super) const PASSING_UNITS: usize = 64;

/// Replaces what each chunk adds by the state that it meets, and leaves the state after the last one in `end`. In reverse,
/// chunks are met from the last to the first. One unit per value of the state.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn pass_states(
    sizes: &Sizes,
    sequences: &[u32],
    start: &[f32],
    updates: &mut [f32],
    sums: &[f32],
    end: &mut [f32],
    #[comptime] variant: Variant,
    #[comptime] has_start: bool,
    #[comptime] reverse: bool,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let head_len = sizes.key_dim * sizes.value_dim;
    let within = ABSOLUTE_POS % head_len;
    let head = ABSOLUTE_POS / head_len % sizes.heads;
    let sequence = ABSOLUTE_POS / head_len / sizes.heads;
    let low = sequences[2 * sequence] as usize;
    let high = sequences[2 * sequence + 1] as usize;
    let mut h = 0.0f32;
    if comptime!(has_start) {
        h = start[ABSOLUTE_POS];
    }
    for step in 0..high - low {
        let mut chunk = low + step;
        if comptime!(reverse) {
            chunk = high - 1 - step;
        }
        let index = chunk * sizes.heads + head;
        let update = updates[index * head_len + within];
        updates[index * head_len + within] = h;
        match comptime!(variant.decay) {
            DecayScope::None => h += update,
            DecayScope::Head => h = h * sums[index].exp() + update,
            DecayScope::Key => {
                h = h * sums[index * sizes.key_dim + within / sizes.value_dim].exp() + update;
            }
        }
    }
    end[ABSOLUTE_POS] = h;
}
