//! The devices that tests run on, and small helpers to move values there and back.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::sync::OnceLock;

use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::cube::{Client, DType, Device, DeviceBuffer, DeviceRows};

/// A client of every device at hand, with a name for messages: all adapters that wgpu finds, and CUDA devices when the
/// feature `cuda` is on.
///
/// Panics when there is none, so that no test passes by finding nothing. `SPILLWAY_ADAPTERS=none` turns the tests off, and
/// says so.
pub fn clients() -> &'static [(String, Client)] {
    static CLIENTS: OnceLock<Vec<(String, Client)>> = OnceLock::new();
    CLIENTS.get_or_init(find_clients)
}

fn find_clients() -> Vec<(String, Client)> {
    if std::env::var_os("SPILLWAY_ADAPTERS").is_some_and(|value| value == "none") {
        eprintln!("SPILLWAY_ADAPTERS=none: THIS TEST RUNS ON NO DEVICE AND CHECKS NOTHING");
        return Vec::new();
    }
    let named = |device: Device| {
        let client = device.client();
        (
            format!("{device:?} ({})", client.properties().identity.name),
            client,
        )
    };
    let clients: Vec<_> = Device::enumerate_all().into_iter().map(named).collect();
    assert!(
        !clients.is_empty(),
        "no device to test on: `.ci/test` sets up a software one and runs the tests (it installs Debian's \
         mesa-vulkan-drivers and libvulkan1); SPILLWAY_ADAPTERS=none goes without these tests"
    );
    for (name, _) in &clients {
        eprintln!("testing on {name}");
    }
    clients
}

/// f32 values on the device.
pub fn upload(client: &Client, values: &[f32]) -> DeviceBuffer {
    DeviceBuffer::from_f32(client, values).expect("the values fit on the device")
}

/// Token rows on the device in the layout of the view, gaps included, rounded to `dtype`.
pub fn upload_rows(client: &Client, rows: &Rows, dtype: DType) -> DeviceRows {
    let buffer = DeviceBuffer::from_f32_as(client, rows.data(), dtype).expect("the rows fit on the device");
    DeviceRows::new(buffer, 0, rows.rows(), rows.cols(), rows.stride()).expect("the view fits")
}

/// Values of the device on the host.
pub fn download(client: &Client, buffer: &DeviceBuffer) -> Vec<f32> {
    buffer.read(client).expect("the device computes them")
}
