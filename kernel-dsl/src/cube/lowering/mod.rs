//! What the kernels become on devices that are not here: CUDA C++ for Ampere and Hopper, HIP for AMD, Metal for Apple.
//!
//! A [`LoweringTarget`] is a device by its properties alone. Its [`Recorder`] hands out a client like any other, on which
//! operators choose their plans and launch; but a launch is lowered to the target's language and kept instead of run. So a
//! machine without a GPU sees exactly what a GPU's compiler would be handed. Buffers of a recorder take no memory and read
//! as zeros, so that problems may have the sizes of real models.
//!
//! ```
//! use spillway_kernel_dsl::{DecayKind, LogDecay};
//! use spillway_kernel_dsl::cube::lowering::LoweringTarget;
//! use spillway_kernel_dsl::cube::{DType, DeviceBuffer, DeviceRows};
//! use spillway_kernel_dsl::recurrence::cube::{DeviceInputs, step};
//! use spillway_kernel_dsl::recurrence::{Problem, ReadOut};
//!
//! let recorder = LoweringTarget::h100().recorder();
//! let client = recorder.client();
//! let problem = Problem {
//!     batch: 8, time: 1, heads: 4, groups: 4, key_dim: 64, value_dim: 64,
//!     decay: DecayKind::None, read_out: ReadOut::Inclusive,
//! };
//! let rows = || {
//!     let buffer = DeviceBuffer::empty(client, 8 * 256, DType::BF16)?;
//!     DeviceRows::new(buffer, 0, 8, 256, 256)
//! };
//! let inputs = DeviceInputs {
//!     query: rows()?, key: rows()?, value: rows()?, log_decay: LogDecay::None,
//!     step_size: None, bonus: None, skip: None, scale: 1.0, sequences: Default::default(),
//! };
//! step(client, &problem, &inputs, None)?;
//! let kernels = recorder.take();
//! assert!(kernels.iter().any(|kernel| kernel.source.as_ref().is_ok_and(|source| source.text.contains("__nv_bfloat16"))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod recorder;
mod target;

pub use recorder::{KernelSource, LoweredKernel, Recorder};
pub use target::{Language, LoweringTarget};
