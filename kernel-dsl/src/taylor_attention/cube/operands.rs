//! Taylor attention's operands as kernels see them, and tiles of them in shared memory.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::cube::product::Tiling;
use crate::cube::view::RowsView;
use crate::cube::{Client, DeviceBuffer, DeviceRows, Error};
use crate::feature_map::{Expansion, FeatureMap};
use crate::taylor_attention::Problem;

/// Whether a token looks back, as queries do, or is looked back at, as keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Query,
    Key,
}

/// Columns of a head inside token rows, followed by a column of ones.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Panel<F: Float> {
    rows: RowsView<F>,
    pub cols: usize,
}

/// Rows on a device of which a [`Panel`] is made, with the columns of a head.
#[derive(Clone)]
pub(super) struct Source {
    rows: DeviceRows,
    cols: usize,
}

impl Source {
    pub fn new(rows: &DeviceRows, cols: usize) -> Self {
        let rows = rows.clone();
        Self { rows, cols }
    }

    /// Rows that lie without gaps in a buffer.
    pub fn whole(buffer: &DeviceBuffer, heads: usize, cols: usize) -> Result<Self, Error> {
        let rows = buffer.len() / (heads * cols);
        Ok(Self {
            rows: DeviceRows::contiguous(buffer.clone(), rows, heads * cols)?,
            cols,
        })
    }

    /// The arguments of a [`Panel`].
    pub fn panel<F: Float>(&self) -> PanelLaunch<F> {
        PanelLaunch::new(self.rows.view(), self.cols)
    }

    /// Type of the values.
    pub fn elem(&self) -> ElemType {
        self.rows.dtype().elem()
    }
}

#[cube]
impl<F: Float> Panel<F> {
    /// The value in column `col` of a head; 1 behind the last column.
    pub fn at(&self, row: usize, head: usize, col: usize) -> f32 {
        let mut value = 1.0f32;
        if col < self.cols {
            value = self.rows.at(row, head * self.cols + col);
        }
        value
    }
}

/// The features as products: feature d is `factors[d] · x̂[places[2d]] · x̂[places[2d + 1]]`, x̂ the key followed by a 1.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Table {
    pub places: Box<[u32]>,
    pub factors: Box<[f32]>,
}

#[cube]
impl Table {
    /// Feature `d` of a key.
    pub fn feature<F: Float>(&self, x: &Panel<F>, row: usize, head: usize, d: usize) -> f32 {
        let i = self.places[2 * d] as usize;
        let j = self.places[2 * d + 1] as usize;
        self.factors[d] * x.at(row, head, i) * x.at(row, head, j)
    }
}

/// A [`Table`] on a device.
pub(super) struct DeviceTable {
    places: Handle,
    factors: DeviceBuffer,
}

impl DeviceTable {
    pub fn new(client: &Client, problem: &Problem) -> Result<Self, Error> {
        let (places, factors) = products(&problem.feature_map());
        Ok(Self {
            places: client.create_from_slice(bytemuck::cast_slice(&places)),
            factors: DeviceBuffer::from_f32(client, &factors)?,
        })
    }

    /// Some buffer, bound where a kernel reads nothing.
    pub fn any(&self) -> &DeviceBuffer {
        &self.factors
    }

    pub fn launch(&self) -> TableLaunch {
        let len = 2 * self.factors.len();
        // SAFETY: the handle was made from two values for each factor, of which a valid problem has at least one.
        let places = unsafe { BufferArg::from_raw_parts(self.places.clone(), len) };
        TableLaunch::new(places, self.factors.arg())
    }
}

/// The table of a symmetric map.
fn products(map: &FeatureMap) -> (Vec<u32>, Vec<f32>) {
    let [constant, linear, quadratic] = map.factors();
    let one = map.key_dim;
    let (mut places, mut factors) = (Vec::new(), Vec::new());
    let mut push = |i: usize, j: usize, factor: f64| {
        places.extend([i as u32, j as u32]);
        factors.push(factor as f32);
    };
    if map.expansion == Expansion::Taylor {
        push(one, one, constant);
        (0..map.key_dim).for_each(|i| push(i, one, linear));
    }
    for i in 0..map.key_dim {
        for j in i..map.key_dim {
            let twice = if i == j { 1.0 } else { std::f64::consts::SQRT_2 };
            push(i, j, quadratic * twice);
        }
    }
    (places, factors)
}

/// Sizes and coefficients that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub heads: usize,
    pub key_dim: usize,
    pub features: usize,
    /// Columns of a state.
    pub columns: usize,
    pub scale: f32,
    pub c0: f32,
    pub c1: f32,
    pub c2: f32,
}

pub(super) fn sizes(problem: &Problem) -> SizesLaunch {
    let [c0, c1, c2] = problem.expansion.coefficients().map(|c| c as f32);
    SizesLaunch::new(
        problem.heads,
        problem.key_dim,
        problem.features(),
        problem.columns(),
        problem.scale,
        c0,
        c1,
        c2,
    )
}

/// The tokens and the head of a cube.
#[derive(CubeType)]
pub(super) struct Place {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    pub head: usize,
    /// `chunk · heads + head`.
    pub index: usize,
}

#[cube]
impl Place {
    /// The place of a cube, when each (chunk, head) has `tiles` of them.
    pub fn of_cube(chunks: &[u32], sizes: &Sizes, tiles: usize) -> Place {
        let index = CUBE_POS / tiles;
        let chunk = index / sizes.heads;
        let start = chunks[3 * chunk] as usize;
        Place {
            start,
            len: chunks[3 * chunk + 1] as usize - start,
            head: index % sizes.heads,
            index,
        }
    }
}

/// Stages some columns of a chunk, tokens down; 0 beyond the chunk and from column `cols` on.
#[cube]
pub(super) fn stage_panel<F: Float>(
    out: &mut Shared<[f32]>,
    panel: &Panel<F>,
    place: &Place,
    first: usize,
    cols: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let col = first + n % size;
        let mut value = 0.0f32;
        if i < place.len && col < cols {
            value = panel.at(place.start + i, place.head, col);
        }
        out[i * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Stages some features of a chunk's keys, tokens down; 0 beyond the chunk and the features.
#[cube]
pub(super) fn stage_features<F: Float>(
    out: &mut Shared<[f32]>,
    x: &Panel<F>,
    table: &Table,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let d = first + n % size;
        let mut value = 0.0f32;
        if i < place.len && d < sizes.features {
            value = table.feature::<F>(x, place.start + i, place.head, d);
        }
        out[i * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Stages a tile of a chunk's state, features down and columns across.
#[cube]
pub(super) fn stage_state(
    out: &mut Shared<[f32]>,
    states: &[f32],
    sizes: &Sizes,
    place: &Place,
    first_feature: usize,
    first_col: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let d = first_feature + n / size;
        let col = first_col + n % size;
        let mut value = 0.0f32;
        if d < sizes.features && col < sizes.columns {
            value = states[(place.index * sizes.features + d) * sizes.columns + col];
        }
        out[n / size * comptime!(tiling.pitch()) + n % size] = value;
        n += comptime!(tiling.units());
    }
}

/// Whether own token `a` and other token `b` of a chunk meet: the key is not after the query, and both are there.
#[cube]
pub(super) fn meet(place: &Place, a: usize, b: usize, #[comptime] side: Side) -> bool {
    match comptime!(side) {
        Side::Query => b <= a && a < place.len,
        Side::Key => a <= b && b < place.len,
    }
}
