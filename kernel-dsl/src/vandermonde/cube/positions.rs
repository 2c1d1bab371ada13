//! Rows over positions that modes make, and sums over positions, with powers that keep their phase.
//!
//! A mode ā = e^{r + 2πi t} has t in 44 bits, so that l t is exact in whole numbers and loses no digit in f32 up to 2²⁰ positions; r l is
//! rounded once. Within [`RUN`] positions a power is the one before it times ā.

use std::f64::consts::TAU;

use cubecl::prelude::*;

use super::super::channel::{Channel, Sums};
use crate::complex::Complex64;
use crate::cube::math::sin_cos;
use crate::cube::partial::Partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, Words, launch_units};

/// Positions that are reached by multiplying from one whose power is exact.
const RUN: usize = 16;
/// Bits of a turn below the upper 32.
const LOWER_BITS: u32 = 12;
/// Positions up to which phases are exact: the lower bits times a position fit 32.
pub(super) const MOST_POSITIONS: usize = 1 << (32 - LOWER_BITS);

/// The roots of all channels on a device.
pub(super) struct Roots {
    /// ln |ā| and ā, `[channels, modes, 3]`.
    values: DeviceBuffer,
    /// Turns of ā, `[channels, modes, 2]`: the upper 32 bits and the lower 12.
    turns: Words,
    channels: usize,
    modes: usize,
    length: usize,
}

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writing {
    /// Whether positions count from the last.
    pub from_last: bool,
    /// Whether the row is added to what is there.
    pub adding: bool,
}

impl Roots {
    pub fn new(client: &Client, channels: &[Channel]) -> Result<Self, Error> {
        let (mut values, mut turns) = (Vec::new(), Vec::new());
        for root in channels
            .iter()
            .flat_map(|channel| channel.modes.iter().map(|mode| mode.root))
        {
            // e^{−10⁴} is 0 as well, and 0 times −∞ would be none.
            values.push(root.norm().ln().max(-1e4) as f32);
            values.extend([root.re as f32, root.im as f32]);
            let turn = (root.arg() / TAU).rem_euclid(1.0) * (1_u64 << (32 + LOWER_BITS)) as f64;
            let turn = turn.round() as u64;
            turns.extend([
                (turn >> LOWER_BITS) as u32,
                (turn & ((1 << LOWER_BITS) - 1)) as u32,
            ]);
        }
        let problem = channels.first().map(|channel| channel.problem);
        Ok(Self {
            values: DeviceBuffer::from_f32(client, &values)?,
            turns: Words::new(client, &turns),
            channels: channels.len(),
            modes: problem.map_or(0, |problem| problem.modes),
            length: problem.map_or(0, |problem| problem.length),
        })
    }

    /// out_l = Re Σ_n weight_n ā_n^{p(l)} in every row, of channel `row % channels`; `weights` `[rows, modes]` as pairs.
    pub fn evaluate(
        &self,
        client: &Client,
        weights: &[f32],
        out: &DeviceBuffer,
        writing: Writing,
    ) -> Result<(), Error> {
        let rows = out.len() / self.length.max(1);
        let weights = DeviceBuffer::from_f32(client, weights)?;
        let runs = self.length.div_ceil(RUN);
        launch_units!(
            evaluate_kernel,
            client,
            rows * runs,
            out.len().max(weights.len()).max(self.values.len()),
            weights.arg(),
            self.values.arg(),
            self.turns.arg(),
            out.arg(),
            self.channels,
            self.modes,
            self.length,
            rows * runs,
            writing,
            out.dtype().elem(),
        );
        Ok(())
    }

    /// Σ_l s_l āˡ and Σ_l l s_l ā^{l−1} of every row s, whose positions count from the last where `from_last`; waits for the device.
    pub fn sums(&self, client: &Client, rows: &DeviceRows, from_last: bool) -> Result<RowSums, Error> {
        let count = rows.rows();
        let columns = 4 * count * self.modes;
        let partials = Partials::of(client, self.length, columns)?;
        launch_units!(
            sums_kernel,
            client,
            partials.len() / 4,
            rows.buffer().len().max(partials.len()).max(self.values.len()),
            rows.view(),
            self.values.arg(),
            self.turns.arg(),
            partials.arg(),
            count,
            self.channels,
            self.modes,
            self.length,
            partials.rows(),
            partials.len() / 4,
            from_last,
            rows.dtype().elem(),
        );
        let sums = DeviceBuffer::empty(client, columns, DType::F32)?;
        partials.sum(client, &sums)?;
        Ok(RowSums {
            values: sums.read(client)?,
            modes: self.modes,
        })
    }
}

/// Sums of rows, `[rows, modes, 4]`.
pub(super) struct RowSums {
    values: Vec<f32>,
    modes: usize,
}

impl RowSums {
    pub fn read(&self, row: usize, into: &mut Sums) {
        let values = self
            .values
            .chunks_exact(4)
            .skip(row * self.modes)
            .take(self.modes);
        for (n, sums) in values.enumerate() {
            let [value, slope] =
                [0, 2].map(|at| Complex64::new(f64::from(sums[at]), f64::from(sums[at + 1])));
            into.value.set(n, value);
            into.slope.set(n, slope);
        }
    }
}

/// āˡ as a pair.
#[cube]
fn power(root: f32, upper: u32, lower: u32, position: u32) -> Array<f32> {
    // Turns modulo 1, in units of 2⁻³²; products wrap around, and whole turns with them.
    let turns = position * upper + ((position * lower) >> 12u32);
    // Half a phase in −π/2..π/2: from the nearer end, so that a small phase keeps its digits.
    let mut half = f32::cast_from(turns) * 7.314_590_4e-10f32;
    if turns >= 2_147_483_648u32 {
        half = -(f32::cast_from(4_294_967_295u32 - turns) + 1.0f32) * 7.314_590_4e-10f32;
    }
    let waves = sin_cos(half);
    let size = (f32::cast_from(position) * root).exp();
    let mut found = Array::<f32>::new(2usize);
    found[0] = size * (1.0f32 - 2.0f32 * waves[0] * waves[0]);
    found[1] = size * 2.0f32 * waves[0] * waves[1];
    found
}

/// A unit for each run of positions of each row.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn evaluate_kernel<F: Float>(
    weights: &[f32],
    roots: &[f32],
    turns: &[u32],
    out: &mut [F],
    channels: usize,
    modes: usize,
    length: usize,
    total: usize,
    #[comptime] writing: Writing,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let runs = length.div_ceil(comptime!(RUN));
    let row = ABSOLUTE_POS / runs;
    let first = ABSOLUTE_POS % runs * comptime!(RUN);
    let mut sums = Array::<f32>::new(comptime!(RUN));
    #[unroll]
    for i in 0..comptime!(RUN) {
        sums[i] = 0.0f32;
    }
    for n in 0..modes {
        let mode = row % channels * modes + n;
        let re = roots[3 * mode + 1];
        let im = roots[3 * mode + 2];
        let start = power(
            roots[3 * mode],
            turns[2 * mode],
            turns[2 * mode + 1],
            u32::cast_from(first),
        );
        let weight_re = weights[2 * (row * modes + n)];
        let weight_im = weights[2 * (row * modes + n) + 1];
        let mut term_re = weight_re * start[0] - weight_im * start[1];
        let mut term_im = weight_re * start[1] + weight_im * start[0];
        #[unroll]
        for i in 0..comptime!(RUN) {
            sums[i] += term_re;
            let next_re = term_re * re - term_im * im;
            term_im = term_re * im + term_im * re;
            term_re = next_re;
        }
    }
    #[unroll]
    for i in 0..comptime!(RUN) {
        if first + i < length {
            let mut position = first + i;
            if comptime!(writing.from_last) {
                position = length - 1 - position;
            }
            let mut value = sums[i];
            if comptime!(writing.adding) {
                value += f32::cast_from(out[row * length + position]);
            }
            out[row * length + position] = F::cast_from(value);
        }
    }
}

/// A unit for each mode of each row and part of the positions.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sums_kernel<F: Float>(
    rows: &RowsView<F>,
    roots: &[f32],
    turns: &[u32],
    partials: &mut [f32],
    count: usize,
    channels: usize,
    modes: usize,
    length: usize,
    positions: usize,
    total: usize,
    #[comptime] from_last: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let row = ABSOLUTE_POS / modes % count;
    let mode = row % channels * modes + ABSOLUTE_POS % modes;
    let begin = ABSOLUTE_POS / (count * modes) * positions;
    let end = min(begin + positions, length);
    let re = roots[3 * mode + 1];
    let im = roots[3 * mode + 2];
    let mut value_re = 0.0f32;
    let mut value_im = 0.0f32;
    let mut slope_re = 0.0f32;
    let mut slope_im = 0.0f32;
    for run in 0..(end - begin).div_ceil(comptime!(RUN)) {
        let first = begin + run * comptime!(RUN);
        // āˡ⁻¹, of which the one before the first is not read: l is 0 there.
        let mut before_re = 0.0f32;
        let mut before_im = 0.0f32;
        let mut now_re = 1.0f32;
        let mut now_im = 0.0f32;
        if first > 0 {
            let start = power(
                roots[3 * mode],
                turns[2 * mode],
                turns[2 * mode + 1],
                u32::cast_from(first) - 1u32,
            );
            before_re = start[0];
            before_im = start[1];
            now_re = before_re * re - before_im * im;
            now_im = before_re * im + before_im * re;
        }
        for position in first..min(first + comptime!(RUN), end) {
            let mut at = position;
            if comptime!(from_last) {
                at = length - 1 - position;
            }
            let x = rows.at(row, at);
            value_re += x * now_re;
            value_im += x * now_im;
            let weighted = x * f32::cast_from(position);
            slope_re += weighted * before_re;
            slope_im += weighted * before_im;
            before_re = now_re;
            before_im = now_im;
            now_re = before_re * re - before_im * im;
            now_im = before_re * im + before_im * re;
        }
    }
    let out = 4 * ABSOLUTE_POS;
    partials[out] = value_re;
    partials[out + 1] = value_im;
    partials[out + 2] = slope_re;
    partials[out + 3] = slope_im;
}
