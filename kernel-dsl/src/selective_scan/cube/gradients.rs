//! The last pass of the backward: all gradients of one chunk.
//!
//! A unit walks its channel forwards once and marks the state every few tokens, in shared memory. From the last mark to the
//! first it walks those few tokens again, keeps each one's state, and comes back through them with λ. What must be summed
//! over channels meets in shared memory, one token at a time.

use cubecl::prelude::*;

use super::operands::{Place, Scan, Variant, zeros};
use crate::cube::view::RowsView;

/// Gradients per token and channel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Tokens {
    pub input: Box<[f32]>,
    pub step_size: Box<[f32]>,
    pub gate: Box<[f32]>,
}

/// Partial sums of the other gradients.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Parts {
    pub a: Box<[f32]>,
    pub b: Box<[f32]>,
    pub c: Box<[f32]>,
    pub skip: Box<[f32]>,
}

#[cube(launch, address_type = "dynamic")]
// Some conditions are decided when the kernel is compiled, and stand apart from those that units decide.
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(super) fn gradients<F: Float>(
    scan: &Scan<F>,
    cotangent: &RowsView<F>,
    states: &[f32],
    adjoints: &[f32],
    tokens: &mut Tokens,
    parts: &mut Parts,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= scan.cubes {
        terminate!();
    }
    let width = comptime!(variant.tile.state);
    let units = comptime!(variant.tile.units);
    let count = comptime!(variant.tile.tokens);
    let unit = UNIT_POS as usize;
    let place = scan.place(variant);
    let mut marks = Shared::<[f32]>::new_slice(comptime!(
        variant.tile.marks * variant.tile.state * variant.tile.units
    ));
    let mut trail = Shared::<[f32]>::new_slice(comptime!(
        variant.tile.tokens * variant.tile.state * variant.tile.units
    ));
    // One more than the units, so that both ways through it touch all banks.
    let mut meeting =
        Shared::<[f32]>::new_slice(comptime!(2 * variant.tile.state * (variant.tile.units + 1)));
    let segments = (place.end - place.start).div_ceil(count);
    for t in 0..scan.state_dim.div_ceil(width) {
        let first = t * width;
        let a = scan.load(&scan.a, place.constants, first, variant);
        let mut state = scan.load(states, place.states, first, variant);
        for m in 0..segments {
            keep(&mut marks, &state, m * width * units + unit, variant);
            if m + 1 < segments {
                for row in place.start + m * count..place.start + (m + 1) * count {
                    scan.advance(&place, row, first, &a, &mut state, variant);
                }
            }
        }
        let mut adjoint = scan.load(adjoints, place.states, first, variant);
        let mut by_a = zeros(variant);
        for back in 0..segments {
            let m = segments - 1 - back;
            let start = place.start + m * count;
            let end = min(start + count, place.end);
            take(&marks, &mut state, m * width * units + unit, variant);
            for row in start..end {
                keep(&mut trail, &state, (row - start) * width * units + unit, variant);
                scan.advance(&place, row, first, &a, &mut state, variant);
            }
            for later in start..end {
                let row = end + start - 1 - later;
                take(&trail, &mut state, (row - start) * width * units + unit, variant);
                token::<F>(
                    scan,
                    cotangent,
                    &place,
                    row,
                    first,
                    &a,
                    &state,
                    &mut adjoint,
                    &mut by_a,
                    &mut meeting,
                    tokens,
                    variant,
                );
                sync_cube();
                meet::<F>(scan, &place, row, first, &meeting, parts, variant);
                sync_cube();
            }
        }
        if place.active {
            scan.store(&mut parts.a, &by_a, place.states, first, variant);
        }
    }
    if comptime!(variant.skip) {
        if place.active {
            let mut by_skip = 0.0f32;
            for row in place.start..place.end {
                let dy = cotangent.at(row, place.channel) * scan.silu_of_gate(row, place.channel, variant);
                by_skip += dy * scan.input.at(row, place.channel);
            }
            parts.skip[place.segment * scan.groups * scan.channels_per_group + place.channel] = by_skip;
        }
    }
}

/// Goes back through one token, given the state before it: λ from dh_t to dh_{t-1}, everything else gets its share.
#[cube]
#[allow(clippy::too_many_arguments)]
fn token<F: Float>(
    scan: &Scan<F>,
    cotangent: &RowsView<F>,
    place: &Place,
    row: usize,
    first: usize,
    a: &Array<f32>,
    before: &Array<f32>,
    adjoint: &mut Array<f32>,
    by_a: &mut Array<f32>,
    meeting: &mut Shared<[f32]>,
    tokens: &mut Tokens,
    #[comptime] variant: Variant,
) {
    let width = comptime!(variant.tile.state);
    let row_length = comptime!(variant.tile.units + 1);
    let unit = UNIT_POS as usize;
    let step = scan.step_size.at(row, place.channel);
    let input = scan.input.at(row, place.channel);
    // Units without a channel of their own add nothing to the sums over channels.
    let out = select(place.active, cotangent.at(row, place.channel), 0.0f32);
    let silu = scan.silu_of_gate(row, place.channel, variant);
    let dy = out * silu;
    let mut by_input = 0.0f32;
    let mut by_step = 0.0f32;
    let mut read = 0.0f32;
    #[unroll]
    for i in 0..width {
        let b = scan.b_at(row, place.group, first + i, variant);
        let c = scan.c_at(row, place.group, first + i, variant);
        let kept = (step * a[i]).exp() * before[i];
        let after = kept + step * input * b;
        let complete = select(place.active, adjoint[i], 0.0f32) + c * dy;
        read += c * after;
        by_input += complete * b;
        by_step += complete * (a[i] * kept + input * b);
        by_a[i] += complete * step * kept;
        meeting[i * row_length + unit] = step * input * complete;
        meeting[(width + i) * row_length + unit] = dy * after;
        adjoint[i] = (step * a[i]).exp() * complete;
    }
    if place.active {
        by_input *= step;
        let mut by_gate = 0.0f32;
        if comptime!(variant.gate) {
            // SiLU'(z) = σ(z) + SiLU(z) (1 − σ(z)).
            let sigmoid = scan.sigmoid_of_gate(row, place.channel, variant);
            by_gate = out * (sigmoid + silu * (1.0f32 - sigmoid));
        }
        let mut read_gate = by_gate * read;
        let at = row * scan.groups * scan.channels_per_group + place.channel;
        if first == 0 {
            if comptime!(variant.skip) {
                by_input += scan.skip[place.channel] * dy;
                read_gate += by_gate * scan.skipped(row, place.channel, variant);
            }
        } else {
            by_input += tokens.input[at];
            by_step += tokens.step_size[at];
            if comptime!(variant.gate) {
                read_gate += tokens.gate[at];
            }
        }
        tokens.input[at] = by_input;
        tokens.step_size[at] = by_step;
        if comptime!(variant.gate) {
            tokens.gate[at] = read_gate;
        }
    }
}

/// Adds up what the units of the cube have for B and C of one token.
#[cube]
fn meet<F: Float>(
    scan: &Scan<F>,
    place: &Place,
    row: usize,
    first: usize,
    meeting: &Shared<[f32]>,
    parts: &mut Parts,
    #[comptime] variant: Variant,
) {
    let width = comptime!(variant.tile.state);
    let units = comptime!(variant.tile.units);
    let mut v = UNIT_POS as usize;
    while v < 2 * width {
        let n = first + v % width;
        if n < scan.state_dim {
            let mut sum = 0.0f32;
            for u in 0..units {
                sum += meeting[v * (units + 1) + u];
            }
            let at = ((row * scan.groups + place.group) * place.tiles + place.tile) * scan.state_dim + n;
            if v < width {
                parts.b[at] = sum;
            } else {
                parts.c[at] = sum;
            }
        }
        v += units;
    }
}

/// Puts a state into shared memory, the same value of all units side by side.
#[cube]
fn keep(memory: &mut Shared<[f32]>, state: &Array<f32>, offset: usize, #[comptime] variant: Variant) {
    #[unroll]
    for i in 0..comptime!(variant.tile.state) {
        memory[offset + i * comptime!(variant.tile.units)] = state[i];
    }
}

/// Gets a state out of shared memory.
#[cube]
fn take(memory: &Shared<[f32]>, state: &mut Array<f32>, offset: usize, #[comptime] variant: Variant) {
    #[unroll]
    for i in 0..comptime!(variant.tile.state) {
        state[i] = memory[offset + i * comptime!(variant.tile.units)];
    }
}
