//! Buffers of zeros.

use cubecl::prelude::*;

use super::buffer::{DType, DeviceBuffer};
use super::{Client, Error, address_type, cubes};

/// Units of a cube; every device has that many or grows to them.
const UNITS: usize = 64;

impl DeviceBuffer {
    /// Memory for `len` zeros.
    ///
    /// # Errors
    /// As for [`DeviceBuffer::empty`].
    pub fn zeros(client: &Client, len: usize, dtype: DType) -> Result<Self, Error> {
        let buffer = Self::empty(client, len, dtype)?;
        zero::launch(
            client,
            cubes(client, len.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, len)?,
            buffer.arg(),
            len,
            dtype.elem(),
        );
        Ok(buffer)
    }
}

#[cube(launch, address_type = "dynamic")]
fn zero<F: Float>(out: &mut [F], len: usize, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS < len {
        out[ABSOLUTE_POS] = F::new(0.0);
    }
}
