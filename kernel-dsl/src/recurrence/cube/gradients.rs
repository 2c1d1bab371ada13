//! The last passes of the gradients: decays, sums over the heads of a group, values and step sizes, constants.

use cubecl::prelude::*;

use super::operands::{Constants, Gates, Sizes, Tokens, Variant};
use super::staging::Place;
use crate::cube::view::RowsView;
use crate::decay::DecayScope;

/// Units of a cube.
pub(super) const UNITS: usize = 64;

/// What the log decays of a chunk have a part in, `[rows, heads, key_dim]`, or `[rows, heads, tiles]` to be summed over the
/// tiles when there is one decay per head.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Terms {
    /// q_i times what it reads of the state before the chunk.
    pub read_state: Box<[f32]>,
    /// q_i times what it reads of earlier tokens, decayed.
    pub read_pairs: Box<[f32]>,
    /// k_j times what it leaves to the state after the chunk.
    pub left_state: Box<[f32]>,
    /// k_j times what it leaves to later tokens, decayed.
    pub left_pairs: Box<[f32]>,
    /// Values of a head at one token.
    pub per_head: usize,
}

/// The gradient of the log decays of one (chunk, head) per cube.
///
/// A log decay scales everything that passes its token: its gradient is the sum of the terms that it lies between,
///
/// ```text
/// (ln a_t)¯ = Σ_p e^{Σ ln a} ∘ h_in ∘ h̄_out         what passes the whole chunk
///           + Σ_{i≥t} what q_i reads of h_in          with a bonus i > t, here and below: the read-out comes first
///           + Σ_{j<t} what k_j leaves to h_out
///           + Σ_{i≥t} Σ_{j<t} pairs (i, j)
/// ```
///
/// With one decay per head the last is summed as it stands, over `pairs`. With decays per key it is
/// Σ_{i≥t} (all decayed pairs of q_i) − Σ_{j≥t} (all decayed pairs of k_j), where terms that no decay has a part in never
/// enter, so that nothing large is taken from something of its size.
///
/// # Shapes
/// `out` `[rows, heads, 1 or key_dim]`, or, when the decays are constant, `constant` `[chunks, heads, 1 or key_dim]`: sums over
/// the chunk.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn decay_gradients<G: Float>(
    sizes: &Sizes,
    chunks: &[u32],
    terms: &Terms,
    pairs: &[f32],
    entering: &[f32],
    adjoint: &[f32],
    sums: &[f32],
    out: &mut [G],
    constant: &mut [f32],
    total: usize,
    #[comptime] is_constant: bool,
    #[comptime] variant: Variant,
    #[comptime] chunk_size: usize,
    #[define(G)] _type: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let place = Place::of_cube(chunks, sizes.heads, 1);
    let unit = UNIT_POS as usize;
    // For each unit what its tokens read, leave, and have as pairs; then what passes from before each token.
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS * chunk_size));
    if comptime!(variant.decay == DecayScope::Key) {
        let mut k = unit;
        while k < sizes.key_dim {
            let at = place.index * sizes.key_dim + k;
            let mut passing = sums[at].exp() * state_product(sizes, &place, entering, adjoint, k);
            for i in 0..place.len {
                shared[i * UNITS + unit] = passing;
                passing += terms.left_state[term_at(terms, sizes, &place, i, k)];
            }
            let mut sum = 0.0f32;
            let mut whole = 0.0f32;
            for back in 0..place.len {
                let i = place.len - 1 - back;
                let term = term_at(terms, sizes, &place, i, k);
                // The difference first: it is small where the sum is large.
                let change = (terms.read_pairs[term] - terms.left_pairs[term]) + terms.read_state[term];
                let mut gradient = sum + shared[i * UNITS + unit];
                if comptime!(variant.bonus) {
                    gradient -= terms.left_pairs[term];
                } else {
                    gradient += change;
                }
                sum += change;
                if comptime!(is_constant) {
                    whole += gradient;
                } else {
                    out[((place.start + i) * sizes.heads + place.head) * sizes.key_dim + k] =
                        G::cast_from(gradient);
                }
            }
            if comptime!(is_constant) {
                constant[at] = whole;
            }
            k += UNITS;
        }
    } else {
        let mut product = 0.0f32;
        let mut k = unit;
        while k < sizes.key_dim {
            product += state_product(sizes, &place, entering, adjoint, k);
            k += UNITS;
        }
        let passing = sums[place.index].exp() * sum_of_units(&mut shared, product);
        per_head::<G>(
            sizes,
            &place,
            terms,
            pairs,
            passing,
            &mut shared,
            out,
            constant,
            is_constant,
            variant,
            chunk_size,
        );
    }
}

/// Where a term of token `i` lies.
#[cube]
fn term_at(terms: &Terms, sizes: &Sizes, place: &Place, i: usize, k: usize) -> usize {
    ((place.start + i) * sizes.heads + place.head) * terms.per_head + k
}

/// Σ_p h_in ∘ h̄_out of one key.
#[cube]
fn state_product(sizes: &Sizes, place: &Place, entering: &[f32], adjoint: &[f32], k: usize) -> f32 {
    let at = (place.index * sizes.key_dim + k) * sizes.value_dim;
    let mut sum = 0.0f32;
    for p in 0..sizes.value_dim {
        sum += entering[at + p] * adjoint[at + p];
    }
    sum
}

/// The sum of a value over the units of a cube, the same in each.
#[cube]
fn sum_of_units(shared: &mut Shared<[f32]>, value: f32) -> f32 {
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut sum = 0.0f32;
    for u in 0..comptime!(UNITS) {
        sum += shared[u];
    }
    sync_cube();
    sum
}

/// Gradients by decays that are one per head, one token per unit: the sum over pairs as it stands.
#[cube]
#[allow(clippy::too_many_arguments)]
fn per_head<G: Float>(
    sizes: &Sizes,
    place: &Place,
    terms: &Terms,
    pairs: &[f32],
    passing: f32,
    shared: &mut Shared<[f32]>,
    out: &mut [G],
    constant: &mut [f32],
    #[comptime] is_constant: bool,
    #[comptime] variant: Variant,
    #[comptime] chunk_size: usize,
) {
    let t = UNIT_POS as usize;
    if t < place.len {
        let mut read = 0.0f32;
        let mut left = 0.0f32;
        for tile in 0..terms.per_head {
            let term = term_at(terms, sizes, place, t, tile);
            read += terms.read_state[term];
            left += terms.left_state[term];
        }
        shared[t] = read;
        shared[UNITS + t] = left;
    }
    sync_cube();
    if t < place.len {
        let mut gradient = passing;
        for j in 0..t {
            gradient += shared[UNITS + j];
        }
        for i in t + comptime!(usize::from(variant.bonus))..place.len {
            let row = (place.index * chunk_size + i) * chunk_size;
            let mut sum = shared[i];
            for j in 0..t {
                sum += pairs[row + j];
            }
            gradient += sum;
        }
        shared[2 * UNITS + t] = gradient;
        if comptime!(!is_constant) {
            out[(place.start + t) * sizes.heads + place.head] = G::cast_from(gradient);
        }
    }
    if comptime!(is_constant) {
        sync_cube();
        if t == 0 {
            let mut whole = 0.0f32;
            for i in 0..place.len {
                whole += shared[2 * UNITS + i];
            }
            constant[place.index] = whole;
        }
    }
}

/// Sums over the heads of a group, one (chunk, group) per cube: `[rows, heads, key_dim]` to `[rows, groups, key_dim]`.
///
/// With a bonus, adds `own` · u ∘ `other`, of which `other` is the key for the query and the query for the key.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn sum_heads<F: Float>(
    tokens: &Tokens<F>,
    constants: &Constants,
    sizes: &Sizes,
    chunks: &[u32],
    per_head: &[f32],
    own: &[f32],
    out: &mut [F],
    total: usize,
    #[comptime] of_query: bool,
    #[comptime] variant: Variant,
    #[define(F)] _types: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let groups = sizes.heads / sizes.heads_per_group;
    let chunk = CUBE_POS / groups;
    let group = CUBE_POS % groups;
    let start = chunks[3 * chunk] as usize;
    let values = (chunks[3 * chunk + 1] as usize - start) * sizes.key_dim;
    let mut n = UNIT_POS as usize;
    while n < values {
        let row = start + n / sizes.key_dim;
        let k = n % sizes.key_dim;
        let column = group * sizes.key_dim + k;
        let mut other = 0.0f32;
        if comptime!(variant.bonus) {
            if comptime!(of_query) {
                other = tokens.key.at(row, column);
            } else {
                other = tokens.query.at(row, column);
            }
        }
        let mut sum = 0.0f32;
        for h in 0..sizes.heads_per_group {
            let head = group * sizes.heads_per_group + h;
            sum += per_head[(row * sizes.heads + head) * sizes.key_dim + k];
            if comptime!(variant.bonus) {
                sum += own[row * sizes.heads + head] * constants.bonus[head * sizes.key_dim + k] * other;
            }
        }
        out[row * groups * sizes.key_dim + column] = F::cast_from(sum);
        n += UNITS;
    }
}

/// Takes the gradient ū of u = δ v to v̄ = δ ū + D∘ȳ and δ̄ = v·ū, one (chunk, head) per cube.
///
/// # Shapes
/// `stepped` `[rows, heads, value_dim]`; `value` likewise; `step_size` `[rows, heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn value_gradients<F: Float, G: Float>(
    tokens: &Tokens<F>,
    cotangent: &RowsView<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    chunks: &[u32],
    stepped: &[f32],
    value: &mut [F],
    step_size: &mut [G],
    total: usize,
    #[comptime] variant: Variant,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let place = Place::of_cube(chunks, sizes.heads, 1);
    let mut n = UNIT_POS as usize;
    while n < place.len * sizes.value_dim {
        let row = place.start + n / sizes.value_dim;
        let p = n % sizes.value_dim;
        let column = place.head * sizes.value_dim + p;
        let at = row * sizes.heads * sizes.value_dim + column;
        let mut sum = gates.step_size(row, place.head, variant) * stepped[at];
        if comptime!(variant.skip) {
            sum += constants.skip(place.head, p, variant) * cotangent.at(row, column);
        }
        value[at] = F::cast_from(sum);
        n += UNITS;
    }
    if comptime!(variant.step_size) {
        let mut i = UNIT_POS as usize;
        while i < place.len {
            let row = place.start + i;
            let mut sum = 0.0f32;
            for p in 0..sizes.value_dim {
                let column = place.head * sizes.value_dim + p;
                sum += tokens.value.at(row, column) * stepped[row * sizes.heads * sizes.value_dim + column];
            }
            step_size[row * sizes.heads + place.head] = G::cast_from(sum);
            i += UNITS;
        }
    }
}

/// What a chunk adds to the gradients of bonus and skip, one (chunk, head) per cube.
///
/// # Shapes
/// `bonus` `[chunks, heads, key_dim]`, `skip` `[chunks, heads, value_dim]`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn constant_gradients<F: Float>(
    tokens: &Tokens<F>,
    cotangent: &RowsView<F>,
    sizes: &Sizes,
    chunks: &[u32],
    own: &[f32],
    bonus: &mut [f32],
    skip: &mut [f32],
    total: usize,
    #[comptime] variant: Variant,
    #[define(F)] _types: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let place = Place::of_cube(chunks, sizes.heads, 1);
    if comptime!(variant.bonus) {
        let mut k = UNIT_POS as usize;
        while k < sizes.key_dim {
            let column = place.head / sizes.heads_per_group * sizes.key_dim + k;
            let mut sum = 0.0f32;
            for i in 0..place.len {
                let row = place.start + i;
                sum += own[row * sizes.heads + place.head]
                    * tokens.query.at(row, column)
                    * tokens.key.at(row, column);
            }
            bonus[place.index * sizes.key_dim + k] = sum;
            k += UNITS;
        }
    }
    if comptime!(variant.skip) {
        let mut p = UNIT_POS as usize;
        while p < sizes.value_dim {
            let column = place.head * sizes.value_dim + p;
            let mut sum = 0.0f32;
            for i in 0..place.len {
                let row = place.start + i;
                sum += cotangent.at(row, column) * tokens.value.at(row, column);
            }
            skip[place.index * sizes.value_dim + p] = sum;
            p += UNITS;
        }
    }
}
