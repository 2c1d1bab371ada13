//! Device buffers filled with zeros.

use cubecl::prelude::*;

use super::buffer::{DType, DeviceBuffer};
use super::{Client, Error, launch_units};

impl DeviceBuffer {
    /// Memory for `len` zeros.
    ///
    /// # Errors
    /// As for [`DeviceBuffer::empty`].
    pub fn zeros(client: &Client, len: usize, dtype: DType) -> Result<Self, Error> {
        let buffer = Self::empty(client, len, dtype)?;
        launch_units!(zero, client, len, len, buffer.arg(), len, dtype.elem(),);
        Ok(buffer)
    }
}

#[cube(launch, address_type = "dynamic")]
fn zero<F: Float>(out: &mut [F], len: usize, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS < len {
        out[ABSOLUTE_POS] = F::new(0.0);
    }
}
