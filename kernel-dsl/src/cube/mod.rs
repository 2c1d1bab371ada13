//! What the CubeCL side of every operator shares: buffers on a device, sequences as tables, launch sizes, errors.
//!
//! Kernels are written once with `#[cube]` and know no runtime; a [`Client`] of CUDA, ROCm, Metal, Vulkan or WebGPU
//! compiles and runs them. This crate brings no runtime of its own: its features `wgpu`, `cuda`, `rocm` do, and the
//! program chooses the device.
//!
//! | item | for |
//! |---|---|
//! | [`DeviceBuffer`], [`DeviceRows`] | values on a device, and token rows inside of them, as [`Rows`](crate::Rows) on the host |
//! | [`SequenceTable`], [`ChunkTable`] | which rows belong to which sequence or chunk, so that kernels have no branch on the layout |
//! | [`Limits`] | what a device offers; plans are chosen from it |
//! | [`Error`] | every way in which a call on a device can fail |
//!
//! Launches return before the device has run. What goes wrong there (no memory, a kernel that the driver refuses) comes
//! back from the next read of a buffer that the launch should have written, or from [`DeviceBuffer::check`].

mod buffer;
mod error;
mod fill;
pub(crate) mod host_copy;
mod launch;
#[cfg(feature = "lowering")]
pub mod lowering;
pub(crate) mod math;
mod outputs;
mod parallel;
pub(crate) mod partial;
pub(crate) mod place;
pub(crate) mod product;
pub(crate) mod reduce;
mod table;
pub(crate) mod view;

pub use buffer::{DType, DeviceBuffer, DeviceRows};
pub use cubecl::Device;
pub use cubecl::client::Client;
pub use error::Error;
pub use launch::Limits;
pub(crate) use launch::{UNITS, address_type, cubes, launch_units};
pub(crate) use outputs::{expect_state, token_buffer};
pub(crate) use parallel::preferred_chunk_size;
pub(crate) use table::Words;
pub use table::{ChunkTable, SequenceTable};
