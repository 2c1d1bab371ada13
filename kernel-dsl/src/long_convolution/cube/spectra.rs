//! The kernels of the convolution by transforms: signals become points, spectra meet, points become values.

use cubecl::prelude::*;

use super::operands::{Added, Cotangent, Given, Present, cotangent_at, write_place};
use super::transform::{Turns, product, product_conjugate, read, write};

#[cube(launch, address_type = "dynamic")]
pub(super) fn fold_input_kernel<F: Float>(
    given: &Given<F>,
    turns: &Turns,
    sequence: usize,
    spectrum: &mut [f32],
    total: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let channel = ABSOLUTE_POS % given.channels;
        let point = ABSOLUTE_POS / given.channels;
        let n = point % turns.points;
        let row = (sequence + point / turns.points) * given.time;
        let mut low = 0.0f32;
        let mut high = 0.0f32;
        if n < given.time {
            low = given.input.at(row + n, channel);
        }
        if n + turns.points < given.time {
            high = given.input.at(row + n + turns.points, channel);
        }
        let at = point * 2 * given.channels + channel;
        let folded = turns.folded(n, low, high);
        write(spectrum, at, given.channels, &folded);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn fold_taps_kernel<F: Float>(
    given: &Given<F>,
    turns: &Turns,
    spectrum: &mut [f32],
    ahead: usize,
    later: usize,
    shift: usize,
    total: usize,
    #[comptime] both: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % given.outputs;
        let n = ABSOLUTE_POS / given.outputs;
        let base = column * given.taps;
        let mut low = 0.0f32;
        let mut high = 0.0f32;
        if n < ahead {
            low = given.kernel[base + n];
        }
        if n + turns.points < ahead {
            high = given.kernel[base + n + turns.points];
        }
        if comptime!(both) {
            // Tap s of lag −(s + shift) lies so many places before the end, with the sign changed; that of lag 0 at the beginning.
            if n == 0 && shift == 0 && later > 0 {
                low += given.later_kernel[base];
            }
            let before_end = 2 * turns.points - n;
            if before_end < later + shift {
                low -= given.later_kernel[base + before_end - shift];
            }
            let before_end = turns.points - n;
            if before_end < later + shift {
                high -= given.later_kernel[base + before_end - shift];
            }
        }
        let at = n * 2 * given.outputs + column;
        let folded = turns.folded(n, low * turns.scale, high * turns.scale);
        write(spectrum, at, given.outputs, &folded);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn fold_cotangent_kernel<F: Float>(
    cotangent: &Cotangent<F>,
    turns: &Turns,
    sequence: usize,
    spectrum: &mut [f32],
    positions: usize,
    total: usize,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let outputs = cotangent.outputs;
        let column = ABSOLUTE_POS % outputs;
        let point = ABSOLUTE_POS / outputs;
        let n = point % turns.points;
        let b = sequence + point / turns.points;
        let mut low = 0.0f32;
        let mut high = 0.0f32;
        if n < positions {
            low = cotangent_at::<F>(cotangent, b, n, column, by_out, by_tail);
        }
        if n + turns.points < positions {
            high = cotangent_at::<F>(cotangent, b, n + turns.points, column, by_out, by_tail);
        }
        let at = point * 2 * outputs + column;
        let folded = turns.folded(n, low, high);
        write(spectrum, at, outputs, &folded);
    }
}

/// For every output, the product of its input's spectrum and its kernel's.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel(
    signal: &[f32],
    kernels: &[f32],
    found: &mut [f32],
    points: usize,
    channels: usize,
    outputs: usize,
    total: usize,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % outputs;
        let point = ABSOLUTE_POS / outputs;
        let x = read(signal, point * 2 * channels + column % channels, channels);
        let k = read(kernels, point % points * 2 * outputs + column, outputs);
        let y = product(&x, &k);
        let at = point * 2 * outputs + column;
        found[at] = y.re;
        found[at + outputs] = y.im;
    }
}

/// The spectrum of K̄, summed up over sequences.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn correlate_kernel(
    signal: &[f32],
    seen: &[f32],
    by_kernels: &mut [f32],
    points: usize,
    channels: usize,
    outputs: usize,
    batch: usize,
    total: usize,
    #[comptime] more: bool,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % outputs;
        let n = ABSOLUTE_POS / outputs;
        let at = n * 2 * outputs + column;
        let mut re = 0.0f32;
        let mut im = 0.0f32;
        if comptime!(more) {
            re = by_kernels[at];
            im = by_kernels[at + outputs];
        }
        for b in 0..batch {
            let point = b * points + n;
            let x = read(signal, point * 2 * channels + column % channels, channels);
            let y = product_conjugate(&x, &read(seen, point * 2 * outputs + column, outputs));
            re += y.re;
            im += y.im;
        }
        by_kernels[at] = re;
        by_kernels[at + outputs] = im;
    }
}

/// The spectrum of ū, summed up over the outputs of a channel.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn pull_back_kernel(
    kernels: &[f32],
    seen: &[f32],
    by_input: &mut [f32],
    points: usize,
    channels: usize,
    outputs: usize,
    total: usize,
) {
    if ABSOLUTE_POS < total {
        let channel = ABSOLUTE_POS % channels;
        let point = ABSOLUTE_POS / channels;
        let mut re = 0.0f32;
        let mut im = 0.0f32;
        for m in 0..outputs / channels {
            let column = m * channels + channel;
            let k = read(kernels, point % points * 2 * outputs + column, outputs);
            let x = product_conjugate(&k, &read(seen, point * 2 * outputs + column, outputs));
            re += x.re;
            im += x.im;
        }
        let at = point * 2 * channels + channel;
        by_input[at] = re;
        by_input[at + channels] = im;
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn output_kernel<F: Float>(
    spectrum: &[f32],
    turns: &Turns,
    sequence: usize,
    given: &Given<F>,
    added: &Added<F>,
    out: &mut [F],
    tail: &mut [f32],
    positions: usize,
    total: usize,
    #[comptime] present: Present,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let column = ABSOLUTE_POS % given.outputs;
        let line = ABSOLUTE_POS / given.outputs / positions;
        let t = ABSOLUTE_POS / given.outputs % positions;
        let first = line * turns.points * 2 * given.outputs + column;
        let sum = turns.unfolded(t, spectrum, first, given.outputs);
        write_place::<F>(given, added, out, tail, sequence + line, t, column, sum, present);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn input_kernel<F: Float>(
    spectrum: &[f32],
    turns: &Turns,
    sequence: usize,
    given: &Given<F>,
    cotangent: &Cotangent<F>,
    by_input: &mut [F],
    total: usize,
    #[comptime] present: Present,
    #[comptime] by_out: bool,
    #[comptime] by_tail: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let channel = ABSOLUTE_POS % given.channels;
        let line = ABSOLUTE_POS / given.channels / given.time;
        let t = ABSOLUTE_POS / given.channels % given.time;
        let first = line * turns.points * 2 * given.channels + channel;
        let mut sum = turns.unfolded(t, spectrum, first, given.channels);
        let b = sequence + line;
        if comptime!(present.skip) {
            for m in 0..given.outputs / given.channels {
                let column = m * given.channels + channel;
                sum += given.skip[column] * cotangent_at::<F>(cotangent, b, t, column, by_out, by_tail);
            }
        }
        by_input[(b * given.time + t) * given.channels + channel] = F::cast_from(sum);
    }
}

/// Taps from the places of their lags; those behind `count` meet nothing.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(super) fn taps_kernel(
    spectrum: &[f32],
    turns: &Turns,
    by_taps: &mut [f32],
    taps: usize,
    count: usize,
    shift: usize,
    outputs: usize,
    total: usize,
    #[comptime] later: bool,
) {
    if ABSOLUTE_POS < total {
        let tap = ABSOLUTE_POS % taps;
        let column = ABSOLUTE_POS / taps;
        let mut value = 0.0f32;
        if tap < count {
            let mut place = tap;
            let mut scale = turns.scale;
            if comptime!(later) {
                if tap + shift > 0 {
                    place = 2 * turns.points - tap - shift;
                    scale = -scale;
                }
            }
            value = scale * turns.unfolded(place, spectrum, column, outputs);
        }
        by_taps[ABSOLUTE_POS] = value;
    }
}
