//! How strongly each token of a chunk reads each other one.
//!
//! ```text
//! W_ij = scale · Σ_k q_i,k k_j,k e^{Σ_{j<t≤i} ln a_t,k}     j ≤ i       W̄_ij = scale · ȳ_i · δ_j v_j
//! ```
//!
//! With a bonus the sum of log decays runs over j < t < i, and W_ii = scale Σ_k q_i,k u_k k_i,k. With one decay per head it is
//! taken out of the product, and W̄ gets it too. With decays per key it is not: between blocks of tokens it is split at the
//! boundary of two blocks into two factors that are at most 1, in levels of shorter and shorter blocks; inside the shortest
//! blocks it is multiplied up token by token.

use cubecl::prelude::*;

use super::operands::{Constants, Gates, Sizes, Variant};
use super::staging::{
    Factors, Panel, Place, Side, fill_factors, log_decay, stage_decayed, stage_panel, stage_stepped,
};
use crate::cube::product::{Accumulator, Layout, Tiling};
use crate::decay::DecayScope;

/// Which vectors of two tokens are multiplied into a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pairs {
    /// Queries and keys: W.
    Tokens,
    /// Gradients of the output and stepped values: W̄.
    Gradients,
}

/// The scores of one (chunk, head) per cube, `[size, size]` each. For gradients with a bonus the diagonal goes to `own`,
/// `[rows, heads]`, and is 0 in the scores; with one decay per head, the pairs' terms of the loss, which are W (`weights`) times
/// ȳ_i · δ_j v_j, go to `terms`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn scores<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    chunks: &[u32],
    weights: &[f32],
    out: &mut [f32],
    own: &mut [f32],
    terms: &mut [f32],
    total: usize,
    #[comptime] pairs: Pairs,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
    #[define(F, G, E)] _types: [ElemType; 3],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let place = Place::of_cube(chunks, sizes.heads, 1);
    let mut left = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut right = Shared::<[E]>::new_slice(comptime!(tiling.len()));
    let mut result = Shared::<[f32]>::new_slice(comptime!(tiling.len()));
    if comptime!(variant.decay == DecayScope::Key && pairs == Pairs::Tokens) {
        let mut factors = Shared::<[f32]>::new_slice(comptime!(tiling.size * tiling.size));
        between_blocks::<F, G, E>(
            x,
            y,
            gates,
            sizes,
            &place,
            &mut left,
            &mut right,
            &mut result,
            &mut factors,
            out,
            variant,
            tiling,
        );
        inside_blocks::<F, G, E>(
            x,
            y,
            gates,
            constants,
            sizes,
            &place,
            &mut left,
            &mut right,
            &mut factors,
            out,
            variant,
            tiling,
        );
    } else {
        at_once::<F, G, E>(
            x,
            y,
            gates,
            constants,
            sizes,
            &place,
            &mut left,
            &mut right,
            &mut result,
            out,
            own,
            weights,
            terms,
            pairs,
            variant,
            tiling,
        );
    }
}

/// Where the score of tokens `i` and `j` lies.
#[cube]
pub(super) fn score_at(place: &Place, i: usize, j: usize, #[comptime] tiling: Tiling) -> usize {
    (place.index * comptime!(tiling.size) + i) * comptime!(tiling.size) + j
}

/// All pairs as one product, decayed afterwards.
#[cube]
#[allow(clippy::too_many_arguments)]
fn at_once<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    place: &Place,
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    result: &mut Shared<[f32]>,
    out: &mut [f32],
    own: &mut [f32],
    weights: &[f32],
    terms: &mut [f32],
    #[comptime] pairs: Pairs,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let unit = UNIT_POS as usize;
    let mut sums = Accumulator::zero(tiling);
    let mut bonus = 0.0f32;
    for tile in 0..x.cols.div_ceil(size) {
        sync_cube();
        stage_panel::<F, E>(left, x, place, tile * size, tiling);
        match comptime!(pairs) {
            Pairs::Tokens => stage_panel::<F, E>(right, y, place, tile * size, tiling),
            Pairs::Gradients => {
                stage_stepped::<F, G, E>(right, y, gates, place, tile * size, variant, tiling)
            }
        }
        sync_cube();
        sums.add_product::<E>(&*left, &*right, Layout::Plain, Layout::Transposed, tiling);
        if comptime!(variant.bonus && pairs == Pairs::Tokens) {
            if unit < size {
                bonus += bonus_of::<E>(
                    &*left,
                    &*right,
                    constants,
                    sizes,
                    place,
                    tile * size,
                    unit,
                    tiling,
                );
            }
        }
    }
    sums.store(result, tiling);
    sync_cube();
    if comptime!(variant.decay == DecayScope::Head && pairs == Pairs::Gradients) {
        let mut n = unit;
        while n < comptime!(tiling.size * tiling.size) {
            let at = score_at(place, n / size, n % size, tiling);
            terms[at] = weights[at] * result[n / size * pitch + n % size];
            n += comptime!(tiling.units());
        }
        sync_cube();
    }
    if unit < size {
        decay_row::<G>(
            result, gates, sizes, place, unit, own, bonus, pairs, variant, tiling,
        );
    }
    sync_cube();
    let mut n = unit;
    while n < comptime!(tiling.size * tiling.size) {
        out[score_at(place, n / size, n % size, tiling)] = result[n / size * pitch + n % size];
        n += comptime!(tiling.units());
    }
}

/// Σ_k q_k u_k k_k of one token over the staged keys.
#[cube]
#[allow(clippy::too_many_arguments)]
fn bonus_of<E: Float>(
    queries: &Shared<[E]>,
    keys: &Shared<[E]>,
    constants: &Constants,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    i: usize,
    #[comptime] tiling: Tiling,
) -> f32 {
    let at = i * comptime!(tiling.pitch());
    let mut sum = 0.0f32;
    for c in 0..comptime!(tiling.size) {
        if first + c < sizes.key_dim {
            let u = constants.bonus[place.head * sizes.key_dim + first + c];
            sum += f32::cast_from(queries[at + c]) * u * f32::cast_from(keys[at + c]);
        }
    }
    sum
}

/// Decays the scores of token `i`, from its own backwards, and sets those of later tokens to 0.
#[cube]
#[allow(clippy::too_many_arguments)]
fn decay_row<G: Float>(
    result: &mut Shared<[f32]>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    i: usize,
    own: &mut [f32],
    bonus: f32,
    #[comptime] pairs: Pairs,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let row = i * comptime!(tiling.pitch());
    let diagonal = result[row + i];
    let mut sum = 0.0f32;
    for back in 0..i + 1 {
        let j = i - back;
        let mut decay = 1.0f32;
        if comptime!(variant.decay == DecayScope::Head) {
            decay = sum.exp();
        }
        result[row + j] *= sizes.scale * decay;
        if comptime!(variant.decay == DecayScope::Head) {
            // With a bonus the read-out precedes the token's own decay.
            if comptime!(variant.bonus) {
                if back > 0 {
                    sum += log_decay::<G>(gates, sizes, place, j, 0, variant);
                }
            } else {
                sum += log_decay::<G>(gates, sizes, place, j, 0, variant);
            }
        }
    }
    for j in i + 1..comptime!(tiling.size) {
        result[row + j] = 0.0f32;
    }
    if comptime!(variant.bonus) {
        match comptime!(pairs) {
            Pairs::Tokens => result[row + i] = sizes.scale * bonus,
            Pairs::Gradients => {
                result[row + i] = 0.0f32;
                if i < place.len {
                    own[(place.start + i) * sizes.heads + place.head] = sizes.scale * diagonal;
                }
            }
        }
    }
}

/// Pairs of different blocks, level by level.
#[cube]
#[allow(clippy::too_many_arguments)]
fn between_blocks<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    result: &mut Shared<[f32]>,
    factors: &mut Shared<[f32]>,
    out: &mut [f32],
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    #[unroll]
    for level in 0..comptime!(levels(variant, tiling)) {
        let block = comptime!(tiling.size >> (level + 1));
        let mut sums = Accumulator::zero(tiling);
        for tile in 0..sizes.key_dim.div_ceil(size) {
            let first = tile * size;
            sync_cube();
            fill_factors::<G>(
                factors,
                gates,
                sizes,
                place,
                first,
                comptime!(Factors::level(Side::Begin, block)),
                variant,
                tiling,
            );
            sync_cube();
            stage_decayed::<F, E>(left, x, &*factors, place, first, sizes.scale, tiling);
            sync_cube();
            fill_factors::<G>(
                factors,
                gates,
                sizes,
                place,
                first,
                comptime!(Factors::level(Side::End, block)),
                variant,
                tiling,
            );
            sync_cube();
            stage_decayed::<F, E>(right, y, &*factors, place, first, 1.0f32, tiling);
            sync_cube();
            sums.add_product::<E>(&*left, &*right, Layout::Plain, Layout::Transposed, tiling);
        }
        sums.store(result, tiling);
        sync_cube();
        let mut n = UNIT_POS as usize;
        while n < comptime!(tiling.size * tiling.size) {
            let i = n / size;
            let j = n % size;
            if neighbours(i, j, block) {
                out[score_at(place, i, j, tiling)] = result[i * pitch + j];
            } else if j > i {
                out[score_at(place, i, j, tiling)] = 0.0f32;
            }
            n += comptime!(tiling.units());
        }
    }
    sync_cube();
}

/// Levels of blocks that a tile has above the shortest ones.
pub(super) fn levels(variant: Variant, tiling: Tiling) -> usize {
    (tiling.size / variant.block).ilog2() as usize
}

/// Whether token `i` lies in an odd block and `j` in the even one before it.
#[cube]
pub(super) fn neighbours(i: usize, j: usize, #[comptime] block: usize) -> bool {
    i / block % 2 == 1 && j / block + 1 == i / block
}

/// Pairs inside of the shortest blocks. Unit (i, s) holds the query of token i times the decays so far, for the keys of
/// slice s, and walks back through its block.
#[cube]
#[allow(clippy::too_many_arguments)]
fn inside_blocks<F: Float, G: Float, E: Float>(
    x: &Panel<F>,
    y: &Panel<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    place: &Place,
    left: &mut Shared<[E]>,
    right: &mut Shared<[E]>,
    decays: &mut Shared<[f32]>,
    out: &mut [f32],
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let slices = comptime!(tiling.units() / tiling.size);
    let width = comptime!(tiling.size * tiling.size / tiling.units());
    let unit = UNIT_POS as usize;
    let i = unit % size;
    let slice = unit / size;
    let block = comptime!(variant.block);
    let low = i / block * block;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(tiling.units() * variant.block));
    for b in 0..block {
        sums[unit * block + b] = 0.0f32;
    }
    for tile in 0..sizes.key_dim.div_ceil(size) {
        let first = tile * size;
        sync_cube();
        stage_panel::<F, E>(left, x, place, first, tiling);
        stage_panel::<F, E>(right, y, place, first, tiling);
        stage_decays::<G>(decays, gates, sizes, place, first, variant, tiling);
        sync_cube();
        let mut query = Array::<f32>::new(width);
        #[unroll]
        for c in 0..width {
            query[c] = f32::cast_from(left[i * pitch + slice * width + c]);
        }
        for back in 0..i - low + 1 {
            let j = i - back;
            let mut sum = 0.0f32;
            #[unroll]
            for c in 0..width {
                let col = slice * width + c;
                let key = f32::cast_from(right[j * pitch + col]);
                if comptime!(variant.bonus) {
                    if back == 0 {
                        let mut u = 0.0f32;
                        if first + col < sizes.key_dim {
                            u = constants.bonus[place.head * sizes.key_dim + first + col];
                        }
                        sum += query[c] * u * key;
                    } else {
                        sum += query[c] * key;
                        query[c] *= decays[j * size + col];
                    }
                } else {
                    sum += query[c] * key;
                    query[c] *= decays[j * size + col];
                }
            }
            sums[unit * block + j - low] += sum;
        }
    }
    sync_cube();
    if slice == 0 {
        for b in 0..block {
            let mut sum = 0.0f32;
            for s in 0..slices {
                sum += sums[(s * size + i) * block + b];
            }
            out[score_at(place, i, low + b, tiling)] = sizes.scale * sum;
        }
    }
}

/// Stages e^{ln a} of every token and key of a tile.
#[cube]
pub(super) fn stage_decays<G: Float>(
    out: &mut Shared<[f32]>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / comptime!(tiling.size);
        let c = n % comptime!(tiling.size);
        out[n] = log_decay::<G>(gates, sizes, place, i, first + c, variant).exp();
        n += comptime!(tiling.units());
    }
}
