//! The sweep back over one head: forwards through each chunk to have its states again, then backwards.

use cubecl::prelude::*;

use super::operands::{Gates, Place, Sizes, Stage, Tokens, Variant, written, zeros};
use crate::cube::view::RowsView;
use crate::decay::DecayScope;

/// The gradient of v, and partial sums of the others.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Parts {
    pub value: Box<[f32]>,
    pub query: Box<[f32]>,
    pub key: Box<[f32]>,
    pub p: Box<[f32]>,
    pub b: Box<[f32]>,
    pub log_decay: Box<[f32]>,
    pub beta: Box<[f32]>,
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn sweep<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    by_out: &RowsView<F>,
    by_end: &[f32],
    states: &[f32],
    trail: &mut [f32],
    parts: &mut Parts,
    by_begin: &mut [f32],
    chunks: &[u32],
    sequences: &[u32],
    chunk_size: usize,
    #[comptime] variant: Variant,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if CUBE_POS >= sizes.cubes {
        terminate!();
    }
    let place = sizes.place(variant);
    let units = comptime!(variant.tile.units());
    // What a unit keeps of one token.
    let kept = comptime!((variant.tile.rows + 1) * variant.tile.units());
    let mut stage = Stage::new(variant);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(variant.tile.staged() * (variant.tile.columns + 1)));
    let mut by_state = sizes.load(by_end, place.state, &place, variant);
    let head_len = sizes.key_dim * sizes.value_dim;
    let first_chunk = sequences[2 * place.sequence] as usize;
    let after_chunks = sequences[2 * place.sequence + 1] as usize;
    for later in first_chunk..after_chunks {
        let chunk = after_chunks + first_chunk - 1 - later;
        let start = chunks[3 * chunk] as usize;
        let stop = chunks[3 * chunk + 1] as usize;
        let offset = (chunk * sizes.heads + place.head) * head_len + place.column;
        let mut state = sizes.load(states, offset, &place, variant);
        for row in start..stop {
            stage.fill::<F, G>(tokens, gates, sizes, &place, row, variant);
            let read = stage.read(&state, &place, variant);
            let written = written::<F, G>(tokens, gates, sizes, &place, row, read, variant);
            let at = (CUBE_POS * chunk_size + row - start) * kept + UNIT_POS as usize;
            trail[at] = read;
            #[unroll(variant.tile.unrolled)]
            for r in 0..comptime!(variant.tile.rows) {
                trail[at + (r + 1) * units] = state[r];
                state[r] = stage.updated(state[r], read, written, place.first + r, variant);
            }
        }
        for after in start..stop {
            let row = stop + start - 1 - after;
            let at = (CUBE_POS * chunk_size + row - start) * kept + UNIT_POS as usize;
            let read = trail[at];
            #[unroll(variant.tile.unrolled)]
            for r in 0..comptime!(variant.tile.rows) {
                state[r] = trail[at + (r + 1) * units];
            }
            stage.fill::<F, G>(tokens, gates, sizes, &place, row, variant);
            token::<F, G>(
                tokens,
                gates,
                sizes,
                by_out,
                &place,
                row,
                read,
                &state,
                &mut by_state,
                &mut stage,
                &mut sums,
                parts,
                variant,
            );
        }
    }
    sizes.store(by_begin, &by_state, place.state, &place, variant);
}

/// Goes back through one token, given the state before it and what was read of it: G from dS_t to dS_{t−1}, all else gets its
/// share.
#[cube]
#[allow(clippy::too_many_arguments)]
fn token<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    by_out: &RowsView<F>,
    place: &Place,
    row: usize,
    read: f32,
    before: &Array<f32>,
    by_state: &mut Array<f32>,
    stage: &mut Stage,
    sums: &mut Shared<[f32]>,
    parts: &mut Parts,
    #[comptime] variant: Variant,
) {
    let rows = comptime!(variant.tile.rows);
    let on_value = place.head * sizes.value_dim + place.column;
    let at_value = row * sizes.heads * sizes.value_dim + on_value;
    let written = written::<F, G>(tokens, gates, sizes, place, row, read, variant);
    let mut dy = 0.0f32;
    if place.active {
        dy = by_out.at(row, on_value);
    }
    // dq, and G complete; the columns of kᵀG and bᵀG.
    let mut share = zeros(variant);
    let mut by_written = 0.0f32;
    let mut by_read = 0.0f32;
    #[unroll(variant.tile.unrolled)]
    for r in 0..rows {
        let n = place.first + r;
        share[r] = sizes.scale * stage.updated(before[r], read, written, n, variant) * dy;
        by_state[r] += stage.query[n] * dy;
        by_written += stage.key[n] * by_state[r];
        if comptime!(!variant.delta()) {
            by_read += stage.b[n] * by_state[r];
        }
    }
    row_sums(sizes, place, row, &share, sums, &mut parts.query, variant);
    by_written = stage.column_sum(by_written, variant);
    if comptime!(variant.delta()) {
        // With β in `written` = β e: de = β kᵀG, and e itself only for dβ.
        let mut by_error = 0.0f32;
        if place.active {
            by_error = gates.beta.at(row, place.head) * by_written;
            if place.first == 0 {
                parts.value[at_value] = by_error;
                parts.beta[at_value] = by_written * (tokens.value.at(row, on_value) - read);
            }
        }
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            let n = place.first + r;
            share[r] = by_state[r] * written - stage.decay[n] * before[r] * by_error;
            by_state[r] -= stage.key[n] * by_error;
        }
        row_sums(sizes, place, row, &share, sums, &mut parts.key, variant);
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            let n = place.first + r;
            share[r] = by_state[r] * stage.decay[n] * before[r];
            by_state[r] *= stage.decay[n];
        }
    } else {
        by_read = stage.column_sum(by_read, variant);
        if place.active && place.first == 0 {
            parts.value[at_value] = by_written;
        }
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            share[r] = by_state[r] * written;
        }
        row_sums(sizes, place, row, &share, sums, &mut parts.key, variant);
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            share[r] = by_state[r] * read;
        }
        row_sums(sizes, place, row, &share, sums, &mut parts.b, variant);
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            share[r] = before[r] * by_read;
        }
        row_sums(sizes, place, row, &share, sums, &mut parts.p, variant);
        #[unroll(variant.tile.unrolled)]
        for r in 0..rows {
            let n = place.first + r;
            by_state[r] *= stage.decay[n];
            share[r] = by_state[r] * before[r];
            by_state[r] += stage.p[n] * by_read;
        }
    }
    if comptime!(variant.decay != DecayScope::None) {
        row_sums(sizes, place, row, &share, sums, &mut parts.log_decay, variant);
    }
}

/// Sums over the columns of the cube, one per row of the state, to `[rows, heads, tiles, key_dim]`.
#[cube]
fn row_sums(
    sizes: &Sizes,
    place: &Place,
    row: usize,
    values: &Array<f32>,
    sums: &mut Shared<[f32]>,
    out: &mut [f32],
    #[comptime] variant: Variant,
) {
    let columns = comptime!(variant.tile.columns);
    // One more than the columns, so that both ways through it touch all banks.
    let pitch = comptime!(variant.tile.columns + 1);
    sync_cube();
    #[unroll(variant.tile.unrolled)]
    for r in 0..comptime!(variant.tile.rows) {
        sums[(place.first + r) * pitch + UNIT_POS as usize % columns] = values[r];
    }
    sync_cube();
    let offset = ((row * sizes.heads + place.head) * place.tiles + place.tile) * sizes.key_dim;
    let mut n = UNIT_POS as usize;
    while n < sizes.key_dim {
        let mut sum = 0.0f32;
        for p in 0..columns {
            sum += sums[n * pitch + p];
        }
        out[offset + n] = sum;
        n += comptime!(variant.tile.units());
    }
}
