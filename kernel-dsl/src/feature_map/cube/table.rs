//! Features as products of two entries of a key, for any polynomial map.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::cube::view::RowsView;
use crate::cube::{Client, DeviceBuffer, DeviceRows, Error};
use crate::feature_map::{Expansion, FeatureMap, Packing};

/// Columns of a head inside token rows, followed by a column of ones.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Panel<F: Float> {
    rows: RowsView<F>,
    pub cols: usize,
}

/// Rows on a device of which a [`Panel`] is made, with the columns of a head.
#[derive(Clone)]
pub(crate) struct Source {
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
pub(crate) struct Table {
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

#[cube]
impl Table {
    /// The derivative of feature `d` by entry `i` of the key: ∂(x̂_a x̂_b) reaches both factors.
    pub fn slope<F: Float>(&self, x: &Panel<F>, row: usize, head: usize, d: usize, i: usize) -> f32 {
        let a = self.places[2 * d] as usize;
        let b = self.places[2 * d + 1] as usize;
        let mut slope = 0.0f32;
        if a == i {
            slope += x.at(row, head, b);
        }
        if b == i {
            slope += x.at(row, head, a);
        }
        slope * self.factors[d]
    }
}

/// A [`Table`] on a device.
pub(crate) struct DeviceTable {
    places: Handle,
    factors: DeviceBuffer,
}

impl DeviceTable {
    pub fn new(client: &Client, map: &FeatureMap) -> Result<Self, Error> {
        let (places, factors) = products(map);
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

/// The places and factors of a map's features.
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
        match map.packing {
            Packing::Full => (0..map.key_dim).for_each(|j| push(i, j, quadratic)),
            Packing::Symmetric => {
                push(i, i, quadratic);
                let twice = quadratic * std::f64::consts::SQRT_2;
                (i + 1..map.key_dim).for_each(|j| push(i, j, twice));
            }
        }
    }
    (places, factors)
}
