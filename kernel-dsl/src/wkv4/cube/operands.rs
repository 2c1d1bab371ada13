//! The operands of WKV-4 as kernels see them, and the one law that states, chunks and derivatives follow.

use cubecl::prelude::*;

use crate::cube::DType;
use crate::cube::view::RowsView;
use crate::wkv4::problem::{DeviceInputs, EMPTY_MAX, Problem};

/// Keys below this weigh nothing even beside [`EMPTY_MAX`]. Hidden tokens have such keys instead of −∞, because infinities
/// are not safe on every device.
const HIDDEN_KEY: f32 = 2.0 * EMPTY_MAX;

/// Log decays below this leave nothing after one token; [`LONGEST_CHUNK`] of them are still finite.
pub(super) const LEAST_LOG_DECAY: f32 = -1e36;

/// As many log decays are finite when they are summed.
pub(super) const LONGEST_CHUNK: usize = 128;

/// Where a unit works: one channel of one segment of tokens.
#[derive(CubeType)]
pub(super) struct Place {
    pub segment: usize,
    pub channel: usize,
    /// First row of the segment.
    pub start: usize,
    /// Row after the last.
    pub end: usize,
}

/// k, v, w, u and the segments of tokens.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Wkv<F: Float> {
    pub key: RowsView<F>,
    pub value: RowsView<F>,
    pub log_decay: Box<[f32]>,
    pub bonus: Box<[f32]>,
    /// First row and row after the last of every segment.
    pub segments: Box<[u32]>,
    pub channels: usize,
    /// Segments times channels: units that have work.
    pub units: usize,
}

#[cube]
impl<F: Float> Wkv<F> {
    /// Units are ordered by segment, then channel. `entry` is the number of values per segment in their table.
    pub fn place(&self, #[comptime] entry: usize) -> Place {
        let segment = ABSOLUTE_POS / self.channels;
        Place {
            segment,
            channel: ABSOLUTE_POS % self.channels,
            start: self.segments[segment * entry] as usize,
            end: self.segments[segment * entry + 1] as usize,
        }
    }

    pub fn key_at(&self, row: usize, channel: usize) -> f32 {
        max(self.key.at(row, channel), HIDDEN_KEY)
    }

    pub fn log_decay_at(&self, channel: usize) -> f32 {
        max(self.log_decay[channel], LEAST_LOG_DECAY)
    }

    /// (o, e^{u+k} / Z, 1 / z, q), where Z = z e^q is the denominator of o.
    pub fn read(&self, state: &Array<f32>, row: usize, channel: usize) -> Array<f32> {
        let key = self.bonus[channel] + self.key_at(row, channel);
        let exponent = max(state[2], key);
        let past = (state[2] - exponent).exp();
        let present = (key - exponent).exp();
        let z = past * state[1] + present;
        let mut inverse = 0.0f32;
        if z != 0.0f32 {
            inverse = 1.0f32 / z;
        }
        let mut read = Array::<f32>::new(4usize);
        read[0] = (past * state[0] + present * self.value.at(row, channel)) * inverse;
        read[1] = present * inverse;
        read[2] = inverse;
        read[3] = exponent;
        read
    }

    /// Takes the sums over one token: (N, M) ← e^w (N, M) + e^k (v, 1).
    pub fn advance(&self, state: &mut Array<f32>, row: usize, channel: usize) {
        let key = self.key_at(row, channel);
        let value = self.value.at(row, channel);
        combine(state, self.log_decay_at(channel), value, 1.0f32, key);
    }
}

/// (N, M) ← e^w (N, M) + e^m (n, d), each kept with a factor e^max of its own: (N e^{−max}, M e^{−max}, max).
///
/// Tokens come into a state by it, chunks into the state before them, and both into derivatives from behind.
#[cube]
pub(super) fn combine(sums: &mut Array<f32>, log_decay: f32, n: f32, d: f32, m: f32) {
    let decayed = sums[2] + log_decay;
    let top = max(max(decayed, m), EMPTY_MAX);
    let past = (decayed - top).exp();
    let present = (m - top).exp();
    sums[0] = past * sums[0] + present * n;
    sums[1] = past * sums[1] + present * d;
    sums[2] = top;
}

/// Sums of no token.
#[cube]
pub(super) fn empty() -> Array<f32> {
    let mut sums = Array::<f32>::new(3usize);
    sums[0] = 0.0f32;
    sums[1] = 0.0f32;
    sums[2] = EMPTY_MAX;
    sums
}

/// The sums of one channel in a buffer `[_, parts, channels]`.
#[cube]
pub(super) fn load(
    values: &[f32],
    index: usize,
    channels: usize,
    channel: usize,
    #[comptime] parts: usize,
) -> Array<f32> {
    let mut sums = Array::<f32>::new(3usize);
    let offset = index * parts * channels + channel;
    sums[0] = values[offset];
    sums[1] = values[offset + channels];
    sums[2] = max(values[offset + 2 * channels], EMPTY_MAX);
    sums
}

/// Writes the sums of one channel to a buffer `[_, parts, channels]`.
#[cube]
pub(super) fn store(
    values: &mut [f32],
    sums: &Array<f32>,
    index: usize,
    channels: usize,
    channel: usize,
    #[comptime] parts: usize,
) {
    let offset = index * parts * channels + channel;
    values[offset] = sums[0];
    values[offset + channels] = sums[1];
    values[offset + 2 * channels] = sums[2];
}

impl DeviceInputs<'_> {
    /// Type of every token view.
    pub(crate) fn dtype(&self) -> DType {
        self.key.dtype()
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, other: usize) -> usize {
        other.max(self.key.buffer().len()).max(self.value.buffer().len())
    }

    pub(super) fn wkv<F: Float>(&self, problem: &Problem, segments: BufferArg, count: usize) -> WkvLaunch<F> {
        WkvLaunch::new(
            self.key.view(),
            self.value.view(),
            self.log_decay.arg(),
            self.bonus.arg(),
            segments,
            problem.channels,
            count * problem.channels,
        )
    }
}
