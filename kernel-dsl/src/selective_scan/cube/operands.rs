//! The operands of a selective scan as kernels see them, and what all kernels do with them.

use cubecl::prelude::*;

use super::plan::Tile;
use crate::cube::DType;
use crate::cube::view::RowsView;
use crate::selective_scan::problem::{DeviceInputs, Problem};

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub tile: Tile,
    pub skip: bool,
    pub gate: bool,
    /// u32 values of an entry in the table of segments: 2 where a segment is a sequence, 3 where it is a chunk.
    pub entry: usize,
}

/// u, Δ, B, C, A, D, z. Where an operand is absent some other buffer is bound, which no kernel reads.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Scan<F: Float> {
    pub input: RowsView<F>,
    pub step_size: RowsView<F>,
    pub b: RowsView<F>,
    pub c: RowsView<F>,
    pub gate: RowsView<F>,
    pub a: Box<[f32]>,
    pub skip: Box<[f32]>,
    /// First row and row after the last of every segment.
    pub segments: Box<[u32]>,
    pub state_dim: usize,
    pub groups: usize,
    pub channels_per_group: usize,
    /// Cubes that have work; the grid may have more.
    pub cubes: usize,
}

/// Where a unit works: one channel of one segment of tokens.
#[derive(CubeType)]
pub(super) struct Place {
    pub segment: usize,
    pub group: usize,
    /// Index of the tile among those of the group's channels.
    pub tile: usize,
    /// Tiles of a group.
    pub tiles: usize,
    /// The channel; for units beyond the group's last one, that one.
    pub channel: usize,
    /// Whether the channel is the unit's own.
    pub active: bool,
    /// Where the channel's values of a `[channels, state_dim]` buffer begin.
    pub constants: usize,
    /// Where the channel's values of a `[segments, channels, state_dim]` buffer begin.
    pub states: usize,
    /// First row of the segment.
    pub start: usize,
    /// Row after the last.
    pub end: usize,
}

#[cube]
impl<F: Float> Scan<F> {
    /// Cubes are ordered by segment, then group, then tile of channels.
    pub fn place(&self, #[comptime] variant: Variant) -> Place {
        let tiles = self.channels_per_group.div_ceil(comptime!(variant.tile.units));
        let segment = CUBE_POS / (tiles * self.groups);
        let group = CUBE_POS / tiles % self.groups;
        let tile = CUBE_POS % tiles;
        let lane = tile * comptime!(variant.tile.units) + UNIT_POS as usize;
        let channel = group * self.channels_per_group + min(lane, self.channels_per_group - 1);
        let channels = self.groups * self.channels_per_group;
        Place {
            segment,
            group,
            tile,
            tiles,
            channel,
            active: lane < self.channels_per_group,
            constants: channel * self.state_dim,
            states: (segment * channels + channel) * self.state_dim,
            start: self.segments[segment * comptime!(variant.entry)] as usize,
            end: self.segments[segment * comptime!(variant.entry) + 1] as usize,
        }
    }

    /// Value `n` of B; 0 beyond the state.
    pub fn b_at(&self, row: usize, group: usize, n: usize, #[comptime] variant: Variant) -> f32 {
        let value = self.b.at(row, group * self.state_dim + self.clamp(n, variant));
        self.masked(value, n, variant)
    }

    /// Value `n` of C; 0 beyond the state.
    pub fn c_at(&self, row: usize, group: usize, n: usize, #[comptime] variant: Variant) -> f32 {
        let value = self.c.at(row, group * self.state_dim + self.clamp(n, variant));
        self.masked(value, n, variant)
    }

    fn clamp(&self, n: usize, #[comptime] variant: Variant) -> usize {
        if comptime!(variant.tile.exact) {
            n
        } else {
            min(n, self.state_dim - 1)
        }
    }

    fn masked(&self, value: f32, n: usize, #[comptime] variant: Variant) -> f32 {
        if comptime!(variant.tile.exact) {
            value
        } else {
            select(n < self.state_dim, value, 0.0f32)
        }
    }

    /// The values `first ..` of a channel; 0 beyond the state.
    pub fn load(
        &self,
        values: &[f32],
        offset: usize,
        first: usize,
        #[comptime] variant: Variant,
    ) -> Array<f32> {
        let mut loaded = Array::<f32>::new(comptime!(variant.tile.state));
        #[unroll]
        for i in 0..comptime!(variant.tile.state) {
            let value = values[offset + self.clamp(first + i, variant)];
            loaded[i] = self.masked(value, first + i, variant);
        }
        loaded
    }

    /// Writes the values `first ..` of a channel.
    pub fn store(
        &self,
        values: &mut [f32],
        tile: &Array<f32>,
        offset: usize,
        first: usize,
        #[comptime] variant: Variant,
    ) {
        #[unroll]
        for i in 0..comptime!(variant.tile.state) {
            if comptime!(variant.tile.exact) {
                values[offset + first + i] = tile[i];
            } else {
                if first + i < self.state_dim {
                    values[offset + first + i] = tile[i];
                }
            }
        }
    }

    /// Takes the state over one token: h ← e^{Δ A}∘h + Δ u B.
    pub fn advance(
        &self,
        place: &Place,
        row: usize,
        first: usize,
        a: &Array<f32>,
        state: &mut Array<f32>,
        #[comptime] variant: Variant,
    ) {
        let step = self.step_size.at(row, place.channel);
        let fed = step * self.input.at(row, place.channel);
        #[unroll]
        for i in 0..comptime!(variant.tile.state) {
            let b = self.b_at(row, place.group, first + i, variant);
            state[i] = (step * a[i]).exp() * state[i] + fed * b;
        }
    }

    /// 1 / (1 + e^{-z}); 1 without a gate.
    pub fn sigmoid_of_gate(&self, row: usize, channel: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 1.0f32;
        if comptime!(variant.gate) {
            value = 1.0f32 / (1.0f32 + (-self.gate.at(row, channel)).exp());
        }
        value
    }

    /// SiLU(z); 1 without a gate.
    pub fn silu_of_gate(&self, row: usize, channel: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 1.0f32;
        if comptime!(variant.gate) {
            value = self.gate.at(row, channel) * self.sigmoid_of_gate(row, channel, variant);
        }
        value
    }

    /// D u; 0 without a skip.
    pub fn skipped(&self, row: usize, channel: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 0.0f32;
        if comptime!(variant.skip) {
            value = self.skip[channel] * self.input.at(row, channel);
        }
        value
    }
}

/// Zeros in the registers of a unit.
#[cube]
pub(super) fn zeros(#[comptime] variant: Variant) -> Array<f32> {
    let mut values = Array::<f32>::new(comptime!(variant.tile.state));
    #[unroll]
    for i in 0..comptime!(variant.tile.state) {
        values[i] = 0.0f32;
    }
    values
}

impl DeviceInputs<'_> {
    /// Type of every token view.
    pub(crate) fn dtype(&self) -> DType {
        self.input.dtype()
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, others: &[usize]) -> usize {
        let gate = self.gate.as_ref().map_or(0, |rows| rows.buffer().len());
        let views = [&self.input, &self.step_size, &self.b, &self.c].map(|rows| rows.buffer().len());
        let all = views.into_iter().chain([gate]).chain(others.iter().copied());
        all.fold(0, usize::max)
    }

    /// Form of the kernel that the inputs need.
    pub(super) fn variant(&self, tile: Tile, entry: usize) -> Variant {
        Variant {
            tile,
            skip: self.skip.is_some(),
            gate: self.gate.is_some(),
            entry,
        }
    }

    /// Cubes for `segments` segments of tokens.
    pub(super) fn cubes(problem: &Problem, tile: Tile, segments: usize) -> usize {
        segments * problem.groups * problem.channels_per_group().div_ceil(tile.units)
    }

    pub(super) fn scan<F: Float>(
        &self,
        problem: &Problem,
        segments: BufferArg,
        cubes: usize,
    ) -> ScanLaunch<F> {
        ScanLaunch::new(
            self.input.view(),
            self.step_size.view(),
            self.b.view(),
            self.c.view(),
            self.gate.as_ref().unwrap_or(&self.input).view(),
            self.a.arg(),
            self.skip.as_ref().unwrap_or(&self.a).arg(),
            segments,
            problem.state_dim,
            problem.groups,
            problem.channels_per_group(),
            cubes,
        )
    }
}
