//! What a device does at most: a large copy, and large matrix products by Burn's tuned kernels.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use cubecl::prelude::*;

use crate::support::Failure;
use crate::support::ceilings::Ceilings;
use spillway_kernel_dsl::cube::Limits;

/// Times of which the fastest counts.
const REPETITIONS: usize = 5;

/// Measures the device that `client` reaches; Burn knows it by the same runtime.
pub fn ceilings(runtime: &str, client: &Client) -> Result<Ceilings, Failure> {
    let software = Limits::of(client).software;
    let (size, largest) = if software {
        (512, 32 << 20)
    } else {
        (8192, 1 << 30)
    };
    let device = burn_device(runtime)?;
    let multiply_adds = product(&device, size, DType::F32)?;
    // Burn does not refuse a type that the device lacks.
    let has_bf16 = spillway_kernel_dsl::cube::DType::BF16.is_supported(client);
    let bf16 = if has_bf16 {
        Some(product(&device, size, DType::BF16)?)
    } else {
        None
    };
    let client = client.clone();
    let name = client.properties().identity.name.clone();
    let copy = Box::new(move |bytes| copy_bandwidth(&client, bytes).unwrap_or(f64::NAN));
    let ceilings = Ceilings::new(name, multiply_adds, bf16, copy, 1 << 20..=largest);
    Ok(ceilings.announced())
}

fn burn_device(runtime: &str) -> Result<Device, Failure> {
    match runtime {
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::default())),
        other => Err(format!("no matrix product is known for {other}").into()),
    }
}

/// GFLOP/s of the product of two square matrices.
fn product(device: &Device, size: usize, dtype: DType) -> Result<f64, Failure> {
    let matrix = || Tensor::<2>::random([size, size], Distribution::Default, device).cast(dtype);
    let (a, b) = (matrix(), matrix());
    let mut best = f64::INFINITY;
    // The first goes to tuning.
    for _ in 0..=REPETITIONS {
        device.sync()?;
        let begin = Instant::now();
        let out = a.clone().matmul(b.clone());
        device.sync()?;
        drop(out);
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(2.0 * (size as f64).powi(3) / best / 1e9)
}

/// GB/s read and written when `bytes` in all are.
fn copy_bandwidth(client: &Client, bytes: usize) -> Result<f64, Failure> {
    const VECTOR: usize = 4;
    const UNITS: usize = 256;
    let vectors = bytes / 2 / 4 / VECTOR;
    let buffer = || client.empty(vectors * VECTOR * 4);
    let (from, into) = (buffer(), buffer());
    let launches = ((256 << 20) / bytes).clamp(1, 100);
    let cubes = vectors.div_ceil(UNITS) as u32;
    let run = || -> Result<f64, Failure> {
        cubecl::future::block_on(client.sync())?;
        let begin = Instant::now();
        for _ in 0..launches {
            // SAFETY: both buffers have as many vectors as their arguments say.
            let argument = |handle: &cubecl::server::Handle| unsafe {
                BufferArg::from_raw_parts(handle.clone(), vectors)
            };
            copy::launch(
                client,
                CubeCount::Static(cubes.min(65_535), cubes.div_ceil(65_535), 1),
                CubeDim::new_1d(UNITS as u32),
                VECTOR,
                argument(&from),
                argument(&into),
            );
        }
        cubecl::future::block_on(client.sync())?;
        Ok(begin.elapsed().as_secs_f64())
    };
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        best = best.min(run()?);
    }
    Ok((launches * bytes) as f64 / best / 1e9)
}

#[cube(launch)]
fn copy<N: Size>(from: &[Vector<f32, N>], into: &mut [Vector<f32, N>]) {
    if ABSOLUTE_POS < into.len() {
        into[ABSOLUTE_POS] = from[ABSOLUTE_POS];
    }
}
