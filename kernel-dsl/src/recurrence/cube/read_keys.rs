//! The gradients of queries and keys: a chunk's scores of gradients against keys or queries, and gradients or values
//! against a state.
//!
//! ```text
//! q̄_i = Σ_j W̄_ij e^{Σ_{j<t≤i} ln a_t} ∘ k_j + scale e^{Σ_{t≤i} ln a_t} ∘ (h_in ȳ_i)
//! k̄_j = Σ_i W̄_ij e^{Σ_{j<t≤i} ln a_t} ∘ q_i + e^{Σ_{t>j} ln a_t} ∘ (h̄_out u_j)                u_j = δ_j v_j
//! ```
//!
//! W̄ holds the decays already where there is one per head. Decays per key are split as for the
//! [scores](super::scores): for pairs of different blocks at the boundary between these, inside of a block token by token.
//!
//! For the gradient of the decays the terms are kept apart that a decay has a part in: those of the state, and those of
//! pairs with at least one decay between them. A token's pair with itself (with a bonus: with the one before) has none.

use cubecl::prelude::*;

use super::operands::{Gates, Sizes, Variant};
use super::read_values::stage_state;
use super::scores::{levels, neighbours, score_at, stage_decays};
use super::staging::{Factors, Panel, Place, Side, fill_factors, stage_decayed, stage_panel, stage_stepped};
use crate::cube::product::{Accumulator, Layout, Tiling};
use crate::decay::DecayScope;

/// One tile of keys of one (chunk, head) per cube: q̄ with [`Side::Begin`], k̄ with [`Side::End`], `[rows, heads, key_dim]`.
///
/// `values` are read against `states`; `other` is what the scores weigh; `own` is q or k itself. Its products with the terms
/// of the state and of decayed pairs go to `state_terms` and `pair_terms`, `[rows, heads, key_dim]` or, when decays are not
/// per key, summed over the keys of each tile: `[rows, heads, tiles]`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn read_keys<F: Float, G: Float, E: Float>(
    values: &Panel<F>,
    other: &Panel<F>,
    own: &Panel<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    chunks: &[u32],
    scores: &[f32],
    states: &[f32],
    out: &mut [f32],
    state_terms: &mut [f32],
    pair_terms: &mut [f32],
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
    let tiles = sizes.key_dim.div_ceil(size);
    let place = Place::of_cube(chunks, sizes.heads, tiles);
    let first_key = CUBE_POS % tiles * size;
    let mut factors = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
    let mut of_state = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
    let mut of_pairs = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));

    let mut product = Accumulator::zero(tiling);
    for tile in 0..sizes.value_dim.div_ceil(size) {
        let first_value = tile * size;
        sync_cube();
        match comptime!(side) {
            Side::Begin => stage_panel::<F, E>(&mut left, values, &place, first_value, tiling),
            Side::End => {
                stage_stepped::<F, G, E>(&mut left, values, gates, &place, first_value, variant, tiling)
            }
        }
        stage_state::<E>(&mut right, states, sizes, &place, first_key, first_value, tiling);
        sync_cube();
        product.add_product::<E>(&left, &right, Layout::Plain, Layout::Transposed, tiling);
    }
    clear(&mut of_state, tiling);
    clear(&mut of_pairs, tiling);
    product.store(&mut result, tiling);
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
    add_decayed(&mut of_state, &result, &factors, scale, tiling);
    sync_cube();
    if comptime!(variant.decay == DecayScope::Key) {
        between_blocks::<F, G, E>(
            other,
            gates,
            sizes,
            &place,
            first_key,
            scores,
            &mut left,
            &mut right,
            &mut result,
            &mut factors,
            &mut of_pairs,
            side,
            variant,
            tiling,
        );
        inside_blocks::<F, G>(
            other,
            gates,
            sizes,
            &place,
            first_key,
            scores,
            &mut factors,
            &mut of_pairs,
            side,
            variant,
            tiling,
        );
    } else {
        stage_decayed_scores::<E>(&mut left, scores, &place, 0usize, variant, tiling);
        stage_panel::<F, E>(&mut right, other, &place, first_key, tiling);
        fill_ones(&mut factors, tiling);
        sync_cube();
        add_weighed::<E>(&left, &right, &mut result, side, tiling);
        add_decayed(&mut of_pairs, &result, &factors, 1.0f32, tiling);
    }
    // Each unit wrote the sums that it reads.
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let key = first_key + n % size;
        if i < place.len && key < sizes.key_dim {
            let row = place.start + i;
            let at = (row * sizes.heads + place.head) * sizes.key_dim + key;
            let undecayed = undecayed_pair::<F>(other, &place, scores, i, key, side, variant, tiling);
            out[at] = of_state[n] + of_pairs[n] + undecayed;
            let token = own.at(row, place.head, key);
            of_state[n] *= token;
            of_pairs[n] *= token;
            if comptime!(variant.decay == DecayScope::Key) {
                state_terms[at] = of_state[n];
                pair_terms[at] = of_pairs[n];
            }
        } else {
            of_state[n] = 0.0f32;
            of_pairs[n] = 0.0f32;
        }
        n += comptime!(tiling.units());
    }
    if comptime!(variant.decay == DecayScope::Head) {
        sync_cube();
        let at = CUBE_POS % tiles;
        sum_keys(&of_state, sizes, &place, state_terms, tiles, at, tiling);
        sum_keys(&of_pairs, sizes, &place, pair_terms, tiles, at, tiling);
    }
}

/// Sums over the keys of a tile, one token per unit.
#[cube]
fn sum_keys(
    terms: &Shared<[f32]>,
    sizes: &Sizes,
    place: &Place,
    out: &mut [f32],
    tiles: usize,
    tile: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let i = UNIT_POS as usize;
    if i < place.len {
        let mut sum = 0.0f32;
        for c in 0..size {
            sum += terms[i * size + c];
        }
        out[((place.start + i) * sizes.heads + place.head) * tiles + tile] = sum;
    }
}

/// How far the pair that no decay has a part in is apart: with a bonus, a token reads the one before it undecayed.
fn undecayed(variant: Variant) -> usize {
    usize::from(variant.bonus)
}

/// The term of the pair that no decay has a part in.
#[cube]
fn undecayed_pair<F: Float>(
    other: &Panel<F>,
    place: &Place,
    scores: &[f32],
    own: usize,
    key: usize,
    #[comptime] side: Side,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) -> f32 {
    let distance = comptime!(undecayed(variant));
    let mut term = 0.0f32;
    match comptime!(side) {
        Side::Begin => {
            if own >= distance {
                let j = own - distance;
                term = scores[score_at(place, own, j, tiling)] * other.at(place.start + j, place.head, key);
            }
        }
        Side::End => {
            let i = own + distance;
            if i < place.len {
                term = scores[score_at(place, i, own, tiling)] * other.at(place.start + i, place.head, key);
            }
        }
    }
    term
}

/// Stages the scores of pairs with a decay between them; with a `block`, only of neighbouring blocks of that size.
#[cube]
fn stage_decayed_scores<E: Float>(
    out: &mut Shared<[E]>,
    scores: &[f32],
    place: &Place,
    #[comptime] block: usize,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let j = n % size;
        let mut taken = i > j + comptime!(undecayed(variant));
        if comptime!(block > 0) {
            taken = taken && neighbours(i, j, block);
        }
        let mut score = 0.0f32;
        if taken {
            score = scores[score_at(place, i, j, tiling)];
        }
        out[i * comptime!(tiling.pitch()) + j] = E::cast_from(score);
        n += comptime!(tiling.units());
    }
}

#[cube]
fn clear(sums: &mut Shared<[f32]>, #[comptime] tiling: Tiling) {
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        sums[n] = 0.0f32;
        n += comptime!(tiling.units());
    }
}

#[cube]
fn fill_ones(factors: &mut Shared<[f32]>, #[comptime] tiling: Tiling) {
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        factors[n] = 1.0f32;
        n += comptime!(tiling.units());
    }
}

/// sums += scale · factors ∘ result.
#[cube]
fn add_decayed(
    sums: &mut Shared<[f32]>,
    result: &Shared<[f32]>,
    factors: &Shared<[f32]>,
    scale: f32,
    #[comptime] tiling: Tiling,
) {
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let at = n / comptime!(tiling.size) * comptime!(tiling.pitch()) + n % comptime!(tiling.size);
        sums[n] += scale * factors[n] * result[at];
        n += comptime!(tiling.units());
    }
}

/// Leaves the staged scores times what they weigh in `result`: rows read with [`Side::Begin`], columns with [`Side::End`].
#[cube]
fn add_weighed<E: Float>(
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    result: &mut Shared<[f32]>,
    #[comptime] side: Side,
    #[comptime] tiling: Tiling,
) {
    let mut product = Accumulator::zero(tiling);
    match comptime!(side) {
        Side::Begin => product.add_product::<E>(left, right, Layout::Plain, Layout::Plain, tiling),
        Side::End => product.add_product::<E>(left, right, Layout::Transposed, Layout::Plain, tiling),
    }
    product.store(result, tiling);
    sync_cube();
}

/// Pairs of different blocks, level by level.
#[cube]
#[allow(clippy::too_many_arguments)]
fn between_blocks<F: Float, G: Float, E: Float>(
    other: &Panel<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    first_key: usize,
    scores: &[f32],
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    result: &mut Shared<[f32]>,
    factors: &mut Shared<[f32]>,
    sums: &mut Shared<[f32]>,
    #[comptime] side: Side,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    #[unroll]
    for level in 0..comptime!(levels(variant, tiling)) {
        let block = comptime!(tiling.size >> (level + 1));
        fill_factors::<G>(
            factors,
            gates,
            sizes,
            place,
            first_key,
            comptime!(Factors::level(side.opposite(), block)),
            variant,
            tiling,
        );
        stage_decayed_scores::<E>(left, scores, place, block, variant, tiling);
        sync_cube();
        stage_decayed::<F, E>(right, other, &*factors, place, first_key, 1.0f32, tiling);
        sync_cube();
        fill_factors::<G>(
            factors,
            gates,
            sizes,
            place,
            first_key,
            comptime!(Factors::level(side, block)),
            variant,
            tiling,
        );
        add_weighed::<E>(&*left, &*right, result, side, tiling);
        add_decayed(sums, &*result, &*factors, 1.0f32, tiling);
        sync_cube();
    }
}

/// Pairs inside of the shortest blocks, from each token outwards, with the product of the decays so far.
#[cube]
#[allow(clippy::too_many_arguments)]
fn inside_blocks<F: Float, G: Float>(
    other: &Panel<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    first_key: usize,
    scores: &[f32],
    decays: &mut Shared<[f32]>,
    sums: &mut Shared<[f32]>,
    #[comptime] side: Side,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    stage_decays::<G>(decays, gates, sizes, place, first_key, variant, tiling);
    sync_cube();
    let block = comptime!(variant.block);
    let nearest = comptime!(undecayed(variant) + 1);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let own = n / size;
        let c = n % size;
        let mut decay = 1.0f32;
        let mut sum = 0.0f32;
        if own < place.len && first_key + c < sizes.key_dim {
            match comptime!(side) {
                Side::Begin => {
                    for distance in nearest..own % block + 1 {
                        let j = own - distance;
                        decay *= decays[(j + 1) * size + c];
                        sum += scores[score_at(place, own, j, tiling)]
                            * other.at(place.start + j, place.head, first_key + c)
                            * decay;
                    }
                }
                Side::End => {
                    let reach = min(block - own % block, place.len - own);
                    for distance in nearest..reach {
                        let i = own + distance;
                        decay *= decays[(i - comptime!(undecayed(variant))) * size + c];
                        sum += scores[score_at(place, i, own, tiling)]
                            * other.at(place.start + i, place.head, first_key + c)
                            * decay;
                    }
                }
            }
        }
        sums[n] += sum;
        n += comptime!(tiling.units());
    }
}
