//! What a block of channels reads and writes: a channel in each lane, a vector for each place in time.

use std::ops::Range;

use pulp::Simd;

use crate::long_convolution::problem::Reach;
use crate::long_convolution::{Cotangents, Inputs, Problem};
use crate::simd::mul_add;
use crate::vector::{SharedRows, load_at, part, store_at};

/// Taps of one channel that are moved before those of the next, so that the vectors they lie in stay in the first cache.
const TAPS_PER_TILE: usize = 64;
/// Products that are added up in f32 before their sum becomes a term of one in f64: few, as sums of many lose a digit where products round too.
pub(super) const TERMS: usize = 8;

/// Channels by as many as a vector has lanes.
pub(super) fn columns<S: Simd>(channels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = channels.end;
    channels
        .step_by(S::F32_LANES)
        .map(move |first| first..(first + S::F32_LANES).min(end))
}

#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub problem: &'a Problem,
    pub reach: Reach,
    pub inputs: &'a Inputs<'a>,
    /// y, `[batch · time, outputs]`.
    pub out: SharedRows<'a>,
    /// Z′, `[batch · (taps − 1), outputs]`.
    pub tail: SharedRows<'a>,
}

/// The columns of output `m` of the channels `columns`.
fn outputs(problem: &Problem, m: usize, columns: &Range<usize>) -> Range<usize> {
    m * problem.channels + columns.start..m * problem.channels + columns.end
}

/// Input t of sequence b.
#[inline(always)]
pub(super) fn input<S: Simd>(
    simd: S,
    problem: &Problem,
    inputs: &Inputs,
    b: usize,
    t: usize,
    columns: &Range<usize>,
) -> S::f32s {
    let values = part(&inputs.input, b * problem.time + t, columns.clone());
    load_at(simd, values, 0)
}

/// The taps of output `m` by their lags.
///
/// # Shapes
/// `to` `lags` vectors, overwritten.
pub(super) fn load_kernel<S: Simd>(
    problem: &Problem,
    reach: &Reach,
    inputs: &Inputs,
    m: usize,
    columns: &Range<usize>,
    to: &mut [S::f32s],
) {
    let to: &mut [f32] = bytemuck::cast_slice_mut(to);
    let (lanes, back) = (S::F32_LANES, reach.back());
    // Where only whole vectors of the one kernel are written, nothing need be there before.
    if reach.later > 0 || columns.len() < lanes {
        to.fill(0.0);
    }
    for tile in (0..reach.ahead).step_by(TAPS_PER_TILE) {
        let tile = tile..(tile + TAPS_PER_TILE).min(reach.ahead);
        for (lane, row) in outputs(problem, m, columns).enumerate() {
            let taps = &inputs.kernel[row * problem.taps..][tile.clone()];
            let to = to[(back + tile.start) * lanes + lane..].iter_mut();
            to.step_by(lanes).zip(taps).for_each(|(to, &tap)| *to = tap);
        }
    }
    let Some(kernel) = inputs.later_kernel else { return };
    for tile in (0..reach.later).step_by(TAPS_PER_TILE) {
        let tile = tile..(tile + TAPS_PER_TILE).min(reach.later);
        for (lane, row) in outputs(problem, m, columns).enumerate() {
            let taps = &kernel[row * problem.taps..][tile.clone()];
            for (tap, value) in tile.clone().zip(taps) {
                to[reach.later_index(tap) * lanes + lane] += value;
            }
        }
    }
}

impl Forward<'_> {
    /// Adds to the convolution what else makes place `t` of output `m`, and writes it.
    #[inline(always)]
    pub fn write<S: Simd>(&self, simd: S, [b, m, t]: [usize; 3], columns: &Range<usize>, sum: S::f32s) {
        let (problem, outputs) = (self.problem, outputs(self.problem, m, columns));
        let tail_rows = problem.tail_rows();
        let mut sum = sum;
        if let (Some(tail), true) = (self.inputs.tail, t < tail_rows) {
            let first = (b * tail_rows + t) * problem.outputs();
            let before = &tail[first + outputs.start..first + outputs.end];
            sum = simd.add_f32s(sum, load_at(simd, before, 0));
        }
        let to = if t < problem.time {
            let row = b * problem.time + t;
            if let Some(skip) = self.inputs.skip {
                let skip = load_at(simd, &skip[outputs.clone()], 0);
                let token = input(simd, problem, self.inputs, b, t, columns);
                sum = mul_add(simd, skip, token, sum);
            }
            if let Some(response) = &self.inputs.response {
                sum = simd.add_f32s(sum, load_at(simd, part(response, row, outputs.clone()), 0));
            }
            // SAFETY: tasks write different columns, and a task one place at a time.
            unsafe { self.out.part(row, outputs) }
        } else {
            // SAFETY: as above.
            unsafe { self.tail.part(b * tail_rows + t - problem.time, outputs) }
        };
        store_at(simd, to, 0, sum);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Backward<'a> {
    pub problem: &'a Problem,
    pub reach: Reach,
    pub inputs: &'a Inputs<'a>,
    pub cotangents: &'a Cotangents<'a>,
    /// ū, `[batch · time, channels]`.
    pub input: SharedRows<'a>,
    /// K̄, `[multiplicity · channels, taps]`.
    pub kernel: SharedRows<'a>,
    /// K̄′, `[multiplicity · channels, taps]`, where there is a later kernel.
    pub later_kernel: Option<SharedRows<'a>>,
    /// D̄, `[1, multiplicity · channels]`.
    pub skip: Option<SharedRows<'a>>,
}

impl Backward<'_> {
    /// Ȳ at place `t` of output `m`.
    #[inline(always)]
    pub fn cotangent<S: Simd>(&self, simd: S, [b, m, t]: [usize; 3], columns: &Range<usize>) -> S::f32s {
        let (problem, outputs) = (self.problem, outputs(self.problem, m, columns));
        let found = match (
            t.checked_sub(problem.time),
            &self.cotangents.out,
            self.cotangents.tail,
        ) {
            (None, Some(out), _) => part(out, b * problem.time + t, outputs),
            (Some(j), _, Some(tail)) => {
                let first = (b * problem.tail_rows() + j) * problem.outputs();
                &tail[first + outputs.start..first + outputs.end]
            }
            _ => return simd.splat_f32s(0.0),
        };
        load_at(simd, found, 0)
    }

    /// Adds to the gradient of input `t` what comes by the skips, and writes it.
    #[inline(always)]
    pub fn write_input<S: Simd>(&self, simd: S, [b, t]: [usize; 2], columns: &Range<usize>, sum: S::f32s) {
        let mut sum = sum;
        if let Some(skip) = self.inputs.skip {
            for m in 0..self.problem.multiplicity {
                let skip = load_at(simd, &skip[outputs(self.problem, m, columns)], 0);
                sum = mul_add(simd, skip, self.cotangent(simd, [b, m, t], columns), sum);
            }
        }
        // SAFETY: tasks write different columns, and a task one place at a time.
        let to = unsafe { self.input.part(b * self.problem.time + t, columns.clone()) };
        store_at(simd, to, 0, sum);
    }

    /// Writes the gradients of the kernels of output `m` from those by lag.
    pub fn write_kernel<S: Simd>(&self, m: usize, columns: &Range<usize>, lags: &[S::f32s]) {
        let lags: &[f32] = bytemuck::cast_slice(lags);
        let reach = &self.reach;
        self.write_taps(&self.kernel, m, columns, |tap| match tap < reach.ahead {
            true => lags.get((reach.back() + tap) * S::F32_LANES..),
            false => None,
        });
        if let Some(kernel) = &self.later_kernel {
            self.write_taps(kernel, m, columns, |tap| match tap < reach.later {
                true => lags.get(reach.later_index(tap) * S::F32_LANES..),
                false => None,
            });
        }
    }

    /// Writes the taps of output `m` from the lanes of each; zeros where there are none.
    fn write_taps<'l>(
        &self,
        kernel: &SharedRows,
        m: usize,
        columns: &Range<usize>,
        lanes: impl Fn(usize) -> Option<&'l [f32]>,
    ) {
        for tile in (0..self.problem.taps).step_by(TAPS_PER_TILE) {
            let tile = tile..(tile + TAPS_PER_TILE).min(self.problem.taps);
            for (lane, row) in outputs(self.problem, m, columns).enumerate() {
                // SAFETY: rows are channels, and no two tasks have one in common.
                let to = unsafe { kernel.part(row, tile.clone()) };
                for (tap, to) in tile.clone().zip(to) {
                    *to = lanes(tap).map_or(0.0, |lanes| lanes[lane]);
                }
            }
        }
    }

    /// Writes D̄ = Σ u ȳ, where it is wanted.
    #[inline(always)]
    pub fn write_skip<S: Simd>(&self, simd: S, columns: &Range<usize>) {
        let Some(skip) = &self.skip else { return };
        for m in 0..self.problem.multiplicity {
            let mut sums = vec![0.0_f64; S::F32_LANES];
            for b in 0..self.problem.batch {
                for first in (0..self.problem.time).step_by(TERMS) {
                    let mut sum = simd.splat_f32s(0.0);
                    for t in first..(first + TERMS).min(self.problem.time) {
                        let u = input(simd, self.problem, self.inputs, b, t, columns);
                        sum = mul_add(simd, u, self.cotangent(simd, [b, m, t], columns), sum);
                    }
                    let lanes: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&sum));
                    sums.iter_mut()
                        .zip(lanes)
                        .for_each(|(sum, &lane)| *sum += f64::from(lane));
                }
            }
            // SAFETY: tasks have different columns.
            let to = unsafe { skip.part(0, outputs(self.problem, m, columns)) };
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as f32);
        }
    }
}
