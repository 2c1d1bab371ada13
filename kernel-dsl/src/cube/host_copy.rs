//! Operands of a device in memory, for what the CPU computes: operators whose digits need f64, which WGSL does not have.

use super::{Client, DeviceBuffer, DeviceRows, Error};
use crate::rows::Rows;

/// A view of a device's rows, with its gaps.
pub(crate) struct RowsCopy {
    values: Vec<f32>,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl RowsCopy {
    /// Waits for the device, and widens to f32.
    ///
    /// # Errors
    /// [`Error::Device`] when anything failed that the values depend on.
    pub(crate) fn new(client: &Client, rows: &DeviceRows) -> Result<Self, Error> {
        Ok(Self {
            values: rows.buffer().read(client)?,
            offset: rows.offset(),
            rows: rows.rows(),
            cols: rows.cols(),
            stride: rows.stride(),
        })
    }

    /// The rows.
    ///
    /// # Errors
    /// [`Error::Problem`] when the view does not fit its buffer, which no valid view does.
    pub(crate) fn view(&self) -> Result<Rows<'_>, Error> {
        let values = self.values.get(self.offset..).unwrap_or_default();
        Rows::new(values, self.rows, self.cols, self.stride).map_err(Error::problem)
    }
}

/// A copy in the element type of an operand.
pub(crate) fn upload_like(client: &Client, values: &[f32], like: &DeviceRows) -> Result<DeviceBuffer, Error> {
    DeviceBuffer::from_f32_as(client, values, like.dtype())
}
