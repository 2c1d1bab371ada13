//! Chunks of the delta rule: what does not depend on the state that a chunk begins with, for all chunks at once.
//!
//! With S the state before a chunk, A_t the product of the decays of its tokens up to t, and products ⟨x, y⟩_{ts} =
//! Σ_n x_tn y_sn Π_{s<τ≤t} a_τn, what the tokens of a chunk read of the state solves a unit triangular system (the WY form;
//! Yang et al., 2024, section 3.2, with decays as in their "Gated delta networks", section 3.3):
//!
//! ```text
//! low rank   U = T (P̂ S + N V)      T = (I − M)⁻¹   M = ⟨p, b⟩ and N = ⟨p, k⟩ for s < t, without a_t; P̂ = p∘A_{t−1}
//! delta      W = T (V − K̂ S)        T = (I + diag(β) ⟨k, k⟩)⁻¹ diag(β) with s < t;    K̂ = k∘A_t
//! ```
//!
//! so that outputs and the next state are linear in S and V, with matrices that are all made here:
//!
//! ```text
//! Y  = Q' S + D V                   S' = A∘S + Bᵀ (X S) + Eᵀ V
//! low rank   X = T P̂    Q' = Q̂ + ⟨q, b⟩ T P̂    D = ⟨q, k⟩ + ⟨q, b⟩ T N    B = b∘A/A_t    E = k∘A/A_t + (T N)ᵀ B
//! delta      X = −T K̂   Q' = Q̂ − ⟨q, k⟩ T K̂    D = ⟨q, k⟩ T               B = k∘A/A_t    E = Tᵀ B
//! ```
//!
//! Decays enter as products of neighbours, never as quotients, so that a decay of 0 stays one.

use cubecl::prelude::*;

use super::operands::{Gates, Sizes, Tokens, Variant};

/// Tokens of a chunk.
pub(super) const LENGTH: usize = 16;
/// Values of a matrix over pairs of tokens.
pub(super) const PAIRS: usize = LENGTH * LENGTH;
/// Units that share the keys of one token.
const SLICES: usize = 8;
/// Units of a cube.
pub(super) const UNITS: usize = LENGTH * SLICES;
/// Keys that are staged in shared memory at a time.
const KEYS: usize = 32;

/// Bytes that [`prepare`] keeps in shared memory: five vectors of the staged keys, partial sums, eight matrices.
pub(super) const SHARED_MEMORY: usize = 4 * (5 * LENGTH * KEYS + SLICES * PAIRS + 8 * PAIRS);

/// Values that a chunk of a head has with `key_dim` keys: Q', X, B and E, then A, then D.
#[cube]
pub(super) fn prepared_len(key_dim: usize) -> usize {
    (4 * LENGTH + 1) * key_dim + PAIRS
}

/// The tokens of one head in one chunk. Beyond the last token vectors are 0 and decays 1.
#[derive(CubeType)]
struct Chunk {
    start: usize,
    len: usize,
    head: usize,
    group: usize,
}

/// What the vectors over keys have at one token and key.
#[derive(CubeType)]
struct Value {
    query: f32,
    key: f32,
    decay: f32,
    /// p and b of a low-rank transition.
    p: f32,
    b: f32,
}

#[cube]
impl Chunk {
    fn value<F: Float, G: Float>(
        &self,
        tokens: &Tokens<F>,
        gates: &Gates<G>,
        sizes: &Sizes,
        t: usize,
        n: usize,
        #[comptime] variant: Variant,
    ) -> Value {
        let inside = t < self.len && n < sizes.key_dim;
        let row = self.start + min(t, self.len - 1);
        let key = min(n, sizes.key_dim - 1);
        let column = self.group * sizes.key_dim + key;
        let mut p = 0.0f32;
        let mut b = 0.0f32;
        if comptime!(!variant.delta()) {
            p = select(inside, tokens.p.at(row, column), 0.0f32);
            b = select(inside, tokens.b.at(row, column), 0.0f32);
        }
        Value {
            query: select(inside, sizes.scale * tokens.query.at(row, column), 0.0f32),
            key: select(inside, tokens.key.at(row, column), 0.0f32),
            decay: select(inside, gates.decay(sizes, row, self.head, key, variant), 1.0f32),
            p,
            b,
        }
    }
}

/// The sums over pairs of tokens of one unit: one token t, every s, some of the keys.
#[derive(CubeType)]
struct Products {
    /// The unit's part of ⟨p, b⟩ for every token s; low rank only.
    read_b: Array<f32>,
    /// ⟨p, k⟩, or ⟨k, k⟩ of the delta rule.
    read_k: Array<f32>,
    /// The unit's part of ⟨q, b⟩ for every token s; low rank only.
    query_b: Array<f32>,
    /// The unit's part of ⟨q, k⟩ for every token s.
    query_k: Array<f32>,
}

#[cube]
fn no_products() -> Array<f32> {
    let mut values = Array::<f32>::new(LENGTH);
    #[unroll]
    for s in 0..LENGTH {
        values[s] = 0.0f32;
    }
    values
}

/// The matrices of every chunk and head, `[chunks, heads, prepared_len]`.
#[cube(launch, address_type = "dynamic")]
pub(super) fn prepare<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    prepared: &mut [f32],
    chunks: &[u32],
    #[comptime] variant: Variant,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if CUBE_POS >= sizes.cubes {
        terminate!();
    }
    let index = CUBE_POS / sizes.heads;
    let head = CUBE_POS % sizes.heads;
    let start = chunks[3 * index] as usize;
    let chunk = Chunk {
        start,
        len: chunks[3 * index + 1] as usize - start,
        head,
        group: head / sizes.heads_per_group,
    };
    let mut products = Products {
        read_b: no_products(),
        read_k: no_products(),
        query_b: no_products(),
        query_k: no_products(),
    };
    multiply::<F, G>(tokens, gates, sizes, &chunk, &mut products, variant);
    let mut partial = Shared::<[f32]>::new_slice(comptime!(SLICES * PAIRS));
    let mut read_k = Shared::<[f32]>::new_slice(PAIRS);
    let mut query_k = Shared::<[f32]>::new_slice(PAIRS);
    gather(&products.read_k, &mut partial, &mut read_k);
    gather(&products.query_k, &mut partial, &mut query_k);
    let mut read_b = Shared::<[f32]>::new_slice(PAIRS);
    let mut query_b = Shared::<[f32]>::new_slice(PAIRS);
    if comptime!(!variant.delta()) {
        gather(&products.read_b, &mut partial, &mut read_b);
        gather(&products.query_b, &mut partial, &mut query_b);
    }
    sync_cube();
    let mut inverse = Shared::<[f32]>::new_slice(PAIRS);
    let unit = UNIT_POS as usize;
    if unit < LENGTH {
        if comptime!(variant.delta()) {
            invert_delta::<G>(gates, &chunk, &read_k, &mut inverse, unit);
        } else {
            invert_low_rank(&read_b, &mut inverse, unit);
        }
    }
    sync_cube();
    // By what V, and by what P̂ or K̂, come into what is read and into the outputs.
    let mut read_v = Shared::<[f32]>::new_slice(PAIRS);
    let mut out_hat = Shared::<[f32]>::new_slice(PAIRS);
    let mut e = unit;
    while e < PAIRS {
        if comptime!(variant.delta()) {
            read_v[e] = inverse[e];
            out_hat[e] = -product(&query_k, &inverse, e);
        } else {
            read_v[e] = product(&inverse, &read_k, e);
            out_hat[e] = product(&query_b, &inverse, e);
        }
        e += UNITS;
    }
    sync_cube();
    let base = CUBE_POS * prepared_len(sizes.key_dim);
    e = unit;
    while e < PAIRS {
        let direct = if comptime!(variant.delta()) {
            -out_hat[e]
        } else {
            query_k[e] + product(&query_b, &read_v, e)
        };
        prepared[base + (4 * LENGTH + 1) * sizes.key_dim + e] = direct;
        e += UNITS;
    }
    let mut n = unit;
    while n < sizes.key_dim {
        write_key::<F, G>(
            tokens,
            gates,
            sizes,
            &chunk,
            n,
            base,
            &inverse,
            &out_hat,
            &read_v,
            &mut partial,
            prepared,
            variant,
        );
        n += UNITS;
    }
}

/// Adds up the products of all pairs of tokens: unit `t·SLICES + j` has token t, and every SLICES-th key from j on.
#[cube]
fn multiply<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    chunk: &Chunk,
    products: &mut Products,
    #[comptime] variant: Variant,
) {
    let staged = comptime!(LENGTH * KEYS);
    let mut query = Shared::<[f32]>::new_slice(staged);
    let mut key = Shared::<[f32]>::new_slice(staged);
    let mut decay = Shared::<[f32]>::new_slice(staged);
    let mut p = Shared::<[f32]>::new_slice(staged);
    let mut b = Shared::<[f32]>::new_slice(staged);
    let unit = UNIT_POS as usize;
    let t = unit / SLICES;
    for block in 0..sizes.key_dim.div_ceil(KEYS) {
        sync_cube();
        let mut i = unit;
        while i < staged {
            let value = chunk.value::<F, G>(tokens, gates, sizes, i / KEYS, block * KEYS + i % KEYS, variant);
            query[i] = value.query;
            key[i] = value.key;
            decay[i] = value.decay;
            if comptime!(!variant.delta()) {
                p[i] = value.p;
                b[i] = value.b;
            }
            i += UNITS;
        }
        sync_cube();
        for m in 0..comptime!(KEYS / SLICES) {
            let c = m * SLICES + unit % SLICES;
            let at = t * KEYS + c;
            let decayed_query = query[at] * decay[at];
            let reader = if comptime!(variant.delta()) {
                key[at] * decay[at]
            } else {
                p[at]
            };
            // The decays between s and t, both excluded.
            let mut between = 1.0f32;
            #[unroll]
            for back in 0..LENGTH {
                let s = comptime!(LENGTH - 1 - back);
                let from = s * KEYS + c;
                if s < t {
                    let kept = between * key[from];
                    products.read_k[s] += reader * kept;
                    products.query_k[s] += decayed_query * kept;
                    if comptime!(!variant.delta()) {
                        let kept = between * b[from];
                        products.read_b[s] += reader * kept;
                        products.query_b[s] += decayed_query * kept;
                    }
                    between *= decay[from];
                } else if s == t {
                    products.query_k[s] += query[at] * key[at];
                    if comptime!(!variant.delta()) {
                        products.query_b[s] += query[at] * b[at];
                    }
                }
            }
        }
    }
}

/// Adds up the sums of the units that share a token, in the order of the units.
#[cube]
fn gather(values: &Array<f32>, partial: &mut Shared<[f32]>, out: &mut Shared<[f32]>) {
    let unit = UNIT_POS as usize;
    sync_cube();
    #[unroll]
    for s in 0..LENGTH {
        partial[unit % SLICES * PAIRS + unit / SLICES * LENGTH + s] = values[s];
    }
    sync_cube();
    let mut e = unit;
    while e < PAIRS {
        let mut sum = 0.0f32;
        for j in 0..SLICES {
            sum += partial[j * PAIRS + e];
        }
        out[e] = sum;
        e += UNITS;
    }
}

/// Column `j` of (I + diag(β) ⟨k, k⟩)⁻¹ diag(β), from the top.
#[cube]
fn invert_delta<G: Float>(
    gates: &Gates<G>,
    chunk: &Chunk,
    products: &Shared<[f32]>,
    inverse: &mut Shared<[f32]>,
    j: usize,
) {
    for i in 0..LENGTH {
        let mut value = select(i == j, 1.0f32, 0.0f32);
        for s in j..i {
            value -= products[i * LENGTH + s] * inverse[s * LENGTH + j];
        }
        let beta = gates.beta.at(chunk.start + min(i, chunk.len - 1), chunk.head);
        inverse[i * LENGTH + j] = select(i < chunk.len, beta * value, 0.0f32);
    }
}

/// Column `j` of (I − ⟨p, b⟩)⁻¹, from the top.
#[cube]
fn invert_low_rank(products: &Shared<[f32]>, inverse: &mut Shared<[f32]>, j: usize) {
    for i in 0..LENGTH {
        let mut value = select(i == j, 1.0f32, 0.0f32);
        for s in j..i {
            value += products[i * LENGTH + s] * inverse[s * LENGTH + j];
        }
        inverse[i * LENGTH + j] = value;
    }
}

/// Element `e` of the product of two matrices over pairs of tokens.
#[cube]
fn product(left: &Shared<[f32]>, right: &Shared<[f32]>, e: usize) -> f32 {
    let mut sum = 0.0f32;
    for s in 0..LENGTH {
        sum += left[e / LENGTH * LENGTH + s] * right[s * LENGTH + e % LENGTH];
    }
    sum
}

/// Q', X, B, E and A of key `n`. `own` has one value per token for every unit.
#[cube]
#[allow(clippy::too_many_arguments)]
fn write_key<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    chunk: &Chunk,
    n: usize,
    base: usize,
    inverse: &Shared<[f32]>,
    out_hat: &Shared<[f32]>,
    read_v: &Shared<[f32]>,
    own: &mut Shared<[f32]>,
    prepared: &mut [f32],
    #[comptime] variant: Variant,
) {
    let key_dim = sizes.key_dim;
    let block = LENGTH * key_dim;
    let unit = UNIT_POS as usize;
    // P̂ or K̂, then Q' and X, which at a token take what came before it.
    let mut passed = 1.0f32;
    for t in 0..LENGTH {
        let value = chunk.value::<F, G>(tokens, gates, sizes, t, n, variant);
        let before = passed;
        passed *= value.decay;
        let hat = if comptime!(variant.delta()) {
            value.key * passed
        } else {
            value.p * before
        };
        own[t * UNITS + unit] = hat;
        let mut read = 0.0f32;
        let mut out = value.query * passed;
        for s in 0..t + 1 {
            let earlier = own[s * UNITS + unit];
            read += inverse[t * LENGTH + s] * earlier;
            out += out_hat[t * LENGTH + s] * earlier;
        }
        prepared[base + t * key_dim + n] = out;
        prepared[base + block + t * key_dim + n] = if comptime!(variant.delta()) { -read } else { read };
    }
    prepared[base + 4 * block + n] = passed;
    // B, then E, which at a token takes what comes after it.
    let mut left = 1.0f32;
    for back in 0..LENGTH {
        let s = LENGTH - 1 - back;
        let value = chunk.value::<F, G>(tokens, gates, sizes, s, n, variant);
        let kept = left
            * if comptime!(variant.delta()) {
                value.key
            } else {
                value.b
            };
        own[s * UNITS + unit] = kept;
        prepared[base + 2 * block + s * key_dim + n] = kept;
        let mut written = 0.0f32;
        if comptime!(!variant.delta()) {
            written = left * value.key;
        }
        for t in s..LENGTH {
            written += read_v[t * LENGTH + s] * own[t * UNITS + unit];
        }
        prepared[base + 3 * block + s * key_dim + n] = written;
        left *= value.decay;
    }
}
