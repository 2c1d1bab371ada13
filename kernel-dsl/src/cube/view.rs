//! Token rows as kernels see them.

use cubecl::prelude::*;

use super::buffer::DeviceRows;

/// Rows inside a buffer; loads are widened to f32.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct RowsView<F: Float> {
    data: Box<[F]>,
    offset: usize,
    stride: usize,
}

#[cube]
impl<F: Float> RowsView<F> {
    /// The value in column `col` of row `row`, as f32.
    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        f32::cast_from(self.data[self.offset + row * self.stride + col])
    }
}

impl DeviceRows {
    /// The rows as an argument of a launch: `&RowsView<F>`.
    pub(crate) fn view<F: Float>(&self) -> RowsViewLaunch<F> {
        RowsViewLaunch::new(self.buffer().arg(), self.offset(), self.stride())
    }
}
