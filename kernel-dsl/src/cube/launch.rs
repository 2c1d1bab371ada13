//! What a device offers, and how many cubes a launch takes.

use cubecl::ir::{AddressType, DeviceProperties};
use cubecl::prelude::CubeCount;

use super::{Client, Error};

/// What a device offers. Plans are chosen from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Units that a cube may have (threads of a block).
    pub units: usize,
    /// Units of the smallest plane (a warp).
    pub plane: usize,
    /// Bytes of shared memory that a cube may have.
    pub shared_memory: usize,
    /// Buffers that a kernel may bind.
    pub bindings: usize,
    /// Bytes of the largest buffer.
    pub buffer_bytes: u64,
    /// Whether the device is a processor that runs kernels in software: register tiles must stay small there, because
    /// compiling them is slow.
    pub software: bool,
}

impl Limits {
    /// What the device of a client offers.
    pub fn of(client: &Client) -> Self {
        Self::of_properties(client.properties())
    }

    /// What a device with these properties offers.
    pub fn of_properties(properties: &DeviceProperties) -> Self {
        let hardware = &properties.hardware;
        let plane_operations = properties
            .features
            .plane
            .contains(cubecl::ir::features::Plane::Ops);
        Self {
            units: hardware.max_units_per_cube as usize,
            plane: hardware.plane_size_min.max(1) as usize,
            shared_memory: hardware.max_shared_memory_size,
            bindings: hardware.max_bindings as usize,
            buffer_bytes: properties.memory.max_page_size,
            // CubeCL withholds plane operations from processors, and from nothing else that is common.
            software: hardware.num_cpu_cores.is_some() || !plane_operations,
        }
    }
}

/// The count of `total` cubes, spread over the axes when one axis cannot take them.
///
/// There may be more cubes than asked for: a kernel stops where `CUBE_POS >= total`.
///
/// # Errors
/// [`Error::TooLarge`] when the device takes fewer.
pub(crate) fn cubes(client: &Client, total: usize) -> Result<CubeCount, Error> {
    let (x, y, z) = client.properties().hardware.max_cube_count;
    let [x_max, y_max, z_max] = [x, y, z].map(|count| count.max(1) as usize);
    let x = total.min(x_max);
    let y = total.div_ceil(x.max(1)).min(y_max);
    let z = total.div_ceil((x * y).max(1));
    if z > z_max {
        return Err(Error::TooLarge {
            what: "the number of cubes",
            limit: (x_max as u64)
                .saturating_mul(y_max as u64)
                .saturating_mul(z_max as u64),
            found: total as u64,
        });
    }
    Ok(CubeCount::Static(x as u32, y as u32, z as u32))
}

/// The integer that indexes buffers of at most `values` values.
///
/// # Errors
/// [`Error::Capability`] when it needs 64 bits and the device has no such addresses.
pub(crate) fn address_type(client: &Client, values: usize) -> Result<AddressType, Error> {
    let address = AddressType::from_len(values);
    if client.features().supports_address(address) {
        return Ok(address);
    }
    Err(Error::Capability {
        capability: "64-bit addresses",
        needed_for: "a buffer of more than 4294967295 values",
    })
}

/// Units of a cube of [`launch_units!`]; every device has that many or grows to them.
pub(crate) const UNITS: usize = 64;

/// Launches a kernel with a unit for each of its results, where there are any.
///
/// `launch_units!(kernel, client, results, longest, …)`: `longest` is the length of the largest buffer that the kernel indexes, and
/// what follows are its own arguments. There may be more units than results: a kernel stops where `ABSOLUTE_POS >= results`.
macro_rules! launch_units {
    ($kernel:ident, $client:expr, $results:expr, $longest:expr, $($argument:expr),+ $(,)?) => {
        if $results > 0 {
            $kernel::launch(
                $client,
                $crate::cube::cubes($client, $results.div_ceil($crate::cube::UNITS))?,
                cubecl::prelude::CubeDim::new_1d($crate::cube::UNITS as u32),
                $crate::cube::address_type($client, $longest)?,
                $($argument),+
            );
        }
    };
}
pub(crate) use launch_units;
