//! The devices that tests run on, and golden cases with gradients on them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use burn::tensor::{Device, DeviceType, Tensor, TensorData};

/// The CPU, every adapter that wgpu finds, and CUDA devices when the feature `cuda` is on; with names for messages.
///
/// Panics when there is no adapter, so that no test passes by finding nothing. `SPILLWAY_ADAPTERS=none` leaves the adapters
/// out, and says so.
pub fn devices() -> Vec<(String, Device)> {
    std::iter::once(("flex".to_owned(), Device::flex()))
        .chain(adapters())
        .collect()
}

/// As [`devices`], without the CPU.
pub fn adapters() -> Vec<(String, Device)> {
    if std::env::var_os("SPILLWAY_ADAPTERS").is_some_and(|value| value == "none") {
        eprintln!("SPILLWAY_ADAPTERS=none: THIS TEST RUNS ON NO ADAPTER");
        return Vec::new();
    }
    #[cfg(not(feature = "cuda"))]
    let filter = DeviceType::Wgpu;
    #[cfg(feature = "cuda")]
    let filter = DeviceType::Wgpu | DeviceType::Cuda;
    // The same processor may come twice, by two graphics interfaces; each is asked for once.
    let mut found: Vec<(String, Device)> = Vec::new();
    for device in Device::enumerate(filter) {
        let name = format!("{device:?}");
        if found.iter().all(|(known, _)| *known != name) {
            found.push((name, device));
        }
    }
    assert!(
        !found.is_empty(),
        "no adapter to test on: `.ci/test` sets up a software one and runs the tests (it installs Debian's \
         mesa-vulkan-drivers and libvulkan1); SPILLWAY_ADAPTERS=none goes without adapters"
    );
    found
}

/// A tensor of these values.
pub fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// The values of a tensor, in order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_to_vec::<f32>()
        .expect("float tensors")
}
