//! The operands of a delta rule as kernels see them, and what all kernels do with them.

use cubecl::prelude::*;

use super::plan::Tile;
use crate::cube::DType;
use crate::cube::view::RowsView;
use crate::decay::DecayScope;
use crate::delta_rule::problem::{DeviceInputs, DeviceTransition, Problem, TransitionKind};

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub transition: TransitionKind,
    pub decay: DecayScope,
    pub tile: Tile,
}

impl Variant {
    pub(super) fn new(problem: &Problem, tile: Tile) -> Self {
        Self {
            transition: problem.transition,
            decay: problem.decay.scope(),
            tile,
        }
    }

    /// For kernels that look neither at the transition nor at the decay.
    pub(super) fn of_tile(tile: Tile) -> Self {
        Self {
            transition: TransitionKind::Delta,
            decay: DecayScope::None,
            tile,
        }
    }

    /// Whether the transition is the delta rule's own.
    pub(super) fn delta(self) -> bool {
        self.transition == TransitionKind::Delta
    }
}

/// q, k, v, p and b. Where an operand is absent another is bound, which no kernel reads.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Tokens<F: Float> {
    pub query: RowsView<F>,
    pub key: RowsView<F>,
    pub value: RowsView<F>,
    pub p: RowsView<F>,
    pub b: RowsView<F>,
}

/// ln a and β.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Gates<G: Float> {
    pub log_decay: RowsView<G>,
    pub beta: RowsView<G>,
}

#[cube]
impl<G: Float> Gates<G> {
    /// a of key `n` of a head; 1 without decay.
    pub fn decay(
        &self,
        sizes: &Sizes,
        row: usize,
        head: usize,
        n: usize,
        #[comptime] variant: Variant,
    ) -> f32 {
        let mut value = 1.0f32;
        match comptime!(variant.decay) {
            DecayScope::None => {}
            DecayScope::Head => value = self.log_decay.at(row, head).exp(),
            DecayScope::Key => value = self.log_decay.at(row, head * sizes.key_dim + n).exp(),
        }
        value
    }
}

/// Sizes that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub heads: usize,
    pub heads_per_group: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Cubes that have work; the grid may have more.
    pub cubes: usize,
    pub scale: f32,
}

/// Where a unit works.
#[derive(CubeType)]
pub(super) struct Place {
    pub sequence: usize,
    pub head: usize,
    /// Index of the tile among those of the head's columns.
    pub tile: usize,
    /// Tiles of a head.
    pub tiles: usize,
    /// First row of the unit.
    pub first: usize,
    /// Column of the unit.
    pub column: usize,
    /// Whether the column is one of the state's.
    pub active: bool,
    /// Where the column begins in a buffer of states, one per sequence and head.
    pub state: usize,
}

#[cube]
impl Sizes {
    /// Cubes are ordered by sequence, then head, then tile of columns.
    pub fn place(&self, #[comptime] variant: Variant) -> Place {
        let columns = comptime!(variant.tile.columns);
        let tiles = self.value_dim.div_ceil(columns);
        let index = CUBE_POS / tiles;
        let unit = UNIT_POS as usize;
        let column = CUBE_POS % tiles * columns + unit % columns;
        Place {
            sequence: index / self.heads,
            head: index % self.heads,
            tile: CUBE_POS % tiles,
            tiles,
            first: unit / columns * comptime!(variant.tile.rows),
            column,
            active: column < self.value_dim,
            state: index * self.key_dim * self.value_dim + column,
        }
    }

    /// Loads a unit's part of a state; 0 beyond it.
    pub fn load(
        &self,
        states: &[f32],
        offset: usize,
        place: &Place,
        #[comptime] variant: Variant,
    ) -> Array<f32> {
        let mut state = zeros(variant);
        #[unroll(variant.tile.unrolled)]
        for r in 0..comptime!(variant.tile.rows) {
            if place.active && place.first + r < self.key_dim {
                state[r] = states[offset + (place.first + r) * self.value_dim];
            }
        }
        state
    }

    /// Writes a unit's part of a state.
    pub fn store(
        &self,
        states: &mut [f32],
        state: &Array<f32>,
        offset: usize,
        place: &Place,
        #[comptime] variant: Variant,
    ) {
        #[unroll(variant.tile.unrolled)]
        for r in 0..comptime!(variant.tile.rows) {
            if place.active && place.first + r < self.key_dim {
                states[offset + (place.first + r) * self.value_dim] = state[r];
            }
        }
    }
}

/// Zeros in the registers of a unit.
#[cube]
pub(super) fn zeros(#[comptime] variant: Variant) -> Array<f32> {
    let mut values = Array::<f32>::new(comptime!(variant.tile.rows));
    #[unroll(variant.tile.unrolled)]
    for r in 0..comptime!(variant.tile.rows) {
        values[r] = 0.0f32;
    }
    values
}

/// The vectors over keys of one token, in shared memory.
#[derive(CubeType)]
pub(super) struct Stage {
    /// Scaled query, scale·q.
    pub query: Shared<[f32]>,
    pub key: Shared<[f32]>,
    /// Decays a, one per key.
    pub decay: Shared<[f32]>,
    /// p, and b, of a low-rank transition.
    pub p: Shared<[f32]>,
    pub b: Shared<[f32]>,
    /// Terms of the sums over columns, one from each unit.
    meeting: Shared<[f32]>,
}

#[cube]
impl Stage {
    pub fn new(#[comptime] variant: Variant) -> Stage {
        let low_rank = comptime!(if variant.delta() { 1 } else { variant.tile.staged() });
        Stage {
            query: Shared::<[f32]>::new_slice(comptime!(variant.tile.staged())),
            key: Shared::<[f32]>::new_slice(comptime!(variant.tile.staged())),
            decay: Shared::<[f32]>::new_slice(comptime!(variant.tile.staged())),
            p: Shared::<[f32]>::new_slice(low_rank),
            b: Shared::<[f32]>::new_slice(low_rank),
            meeting: Shared::<[f32]>::new_slice(comptime!(variant.tile.units())),
        }
    }

    /// Fills the stage with one token, zeros beyond the state, and waits for all units before and after.
    pub fn fill<F: Float, G: Float>(
        &mut self,
        tokens: &Tokens<F>,
        gates: &Gates<G>,
        sizes: &Sizes,
        place: &Place,
        row: usize,
        #[comptime] variant: Variant,
    ) {
        sync_cube();
        let group = place.head / sizes.heads_per_group;
        let mut n = UNIT_POS as usize;
        while n < comptime!(variant.tile.staged()) {
            let inside = n < sizes.key_dim;
            let on_keys = group * sizes.key_dim + min(n, sizes.key_dim - 1);
            self.query[n] = select(inside, sizes.scale * tokens.query.at(row, on_keys), 0.0f32);
            self.key[n] = select(inside, tokens.key.at(row, on_keys), 0.0f32);
            if comptime!(!variant.delta()) {
                self.p[n] = select(inside, tokens.p.at(row, on_keys), 0.0f32);
                self.b[n] = select(inside, tokens.b.at(row, on_keys), 0.0f32);
            }
            self.decay[n] = gates.decay(sizes, row, place.head, min(n, sizes.key_dim - 1), variant);
            n += comptime!(variant.tile.units());
        }
        sync_cube();
    }

    /// The sum of one value per unit over the units of a column, in the order of their rows.
    pub fn column_sum(&mut self, value: f32, #[comptime] variant: Variant) -> f32 {
        let mut sum = value;
        if comptime!(variant.tile.slices > 1) {
            let columns = comptime!(variant.tile.columns);
            sync_cube();
            self.meeting[UNIT_POS as usize] = value;
            sync_cube();
            sum = 0.0f32;
            for s in 0..comptime!(variant.tile.slices) {
                sum += self.meeting[s * columns + UNIT_POS as usize % columns];
            }
        }
        sum
    }

    /// What the transition reads of the state before the token: kᵀ(a∘S) or pᵀS.
    pub fn read(&mut self, state: &Array<f32>, place: &Place, #[comptime] variant: Variant) -> f32 {
        let mut sum = 0.0f32;
        #[unroll(variant.tile.unrolled)]
        for r in 0..comptime!(variant.tile.rows) {
            let n = place.first + r;
            if comptime!(variant.delta()) {
                sum += self.key[n] * (self.decay[n] * state[r]);
            } else {
                sum += self.p[n] * state[r];
            }
        }
        self.column_sum(sum, variant)
    }

    /// One row of the state after the token, from that before it, what the transition read, and what is written with the
    /// key: β (v − u), or v.
    pub fn updated(
        &self,
        before: f32,
        read: f32,
        written: f32,
        n: usize,
        #[comptime] variant: Variant,
    ) -> f32 {
        let mut after = self.decay[n] * before + self.key[n] * written;
        if comptime!(!variant.delta()) {
            after += self.b[n] * read;
        }
        after
    }
}

/// What a token writes with its key: β (v − u), or v.
#[cube]
pub(super) fn written<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    row: usize,
    read: f32,
    #[comptime] variant: Variant,
) -> f32 {
    let mut value = 0.0f32;
    if place.active {
        value = tokens.value.at(row, place.head * sizes.value_dim + place.column);
        if comptime!(variant.delta()) {
            value = gates.beta.at(row, place.head) * (value - read);
        }
    }
    value
}

impl DeviceInputs<'_> {
    /// Type of query, key and value.
    pub(crate) fn dtype(&self) -> DType {
        self.query.dtype()
    }

    /// Type of log decays and β.
    pub(crate) fn gate_type(&self) -> DType {
        match (&self.transition, self.log_decay.token()) {
            (DeviceTransition::Delta { beta }, _) => beta.dtype(),
            (DeviceTransition::LowRank { .. }, Some(log_decay)) => log_decay.dtype(),
            (DeviceTransition::LowRank { .. }, None) => DType::F32,
        }
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, other: usize) -> usize {
        let (first, second) = match &self.transition {
            DeviceTransition::Delta { beta } => (beta, beta),
            DeviceTransition::LowRank { p, b } => (p, b),
        };
        let views = [&self.query, &self.key, &self.value, first, second];
        let all = views
            .into_iter()
            .chain(self.log_decay.token())
            .map(|rows| rows.buffer().len());
        all.fold(other, usize::max)
    }

    pub(super) fn tokens<F: Float>(&self) -> TokensLaunch<F> {
        let (p, b) = match &self.transition {
            DeviceTransition::Delta { .. } => (&self.key, &self.key),
            DeviceTransition::LowRank { p, b } => (p, b),
        };
        TokensLaunch::new(
            self.query.view(),
            self.key.view(),
            self.value.view(),
            p.view(),
            b.view(),
        )
    }

    pub(super) fn gates<G: Float>(&self) -> GatesLaunch<G> {
        let log_decay = self.log_decay.token();
        let beta = match &self.transition {
            DeviceTransition::Delta { beta } => beta,
            DeviceTransition::LowRank { .. } => log_decay.unwrap_or(&self.key),
        };
        GatesLaunch::new(log_decay.unwrap_or(beta).view(), beta.view())
    }

    pub(super) fn sizes(&self, problem: &Problem, cubes: usize) -> SizesLaunch {
        SizesLaunch::new(
            problem.heads,
            problem.heads / problem.groups,
            problem.key_dim,
            problem.value_dim,
            cubes,
            self.scale,
        )
    }
}
