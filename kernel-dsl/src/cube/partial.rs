//! Sums of partial results, always in the same order: what kernels form instead of atomic sums.

use cubecl::prelude::*;

use super::{Client, DeviceBuffer, Error, address_type, cubes};

/// Units of a cube.
const UNITS: usize = 64;

/// Partial sums that one unit adds up before their sum becomes a partial sum itself.
const LONGEST: usize = 256;

/// `out[g, i] = Σ_p partial[g, p, i]` with `parts` partial sums in each group.
///
/// # Shapes
/// `partial` `[groups, parts, size]`, `out` `[groups, size]`, both f32; zeros where `parts` is 0.
pub(crate) fn sum_partials(
    client: &Client,
    partial: &DeviceBuffer,
    out: &DeviceBuffer,
    parts: usize,
    size: usize,
) -> Result<(), Error> {
    if out.is_empty() {
        return Ok(());
    }
    let groups = out.len() / size;
    if parts > LONGEST {
        // A tree of long branches, so that few units do not add up very many values.
        let fewer = parts.div_ceil(LONGEST);
        let sums = DeviceBuffer::empty(client, groups * fewer * size, out.dtype())?;
        launch(client, partial, &sums, Split { parts, fewer, size })?;
        return sum_partials(client, &sums, out, fewer, size);
    }
    launch(
        client,
        partial,
        out,
        Split {
            parts,
            fewer: 1,
            size,
        },
    )
}

/// From `parts` partial sums of `size` values to `fewer`.
struct Split {
    parts: usize,
    fewer: usize,
    size: usize,
}

fn launch(client: &Client, partial: &DeviceBuffer, out: &DeviceBuffer, split: Split) -> Result<(), Error> {
    sum_partials_kernel::launch(
        client,
        cubes(client, out.len().div_ceil(UNITS))?,
        CubeDim::new_1d(UNITS as u32),
        address_type(client, partial.len().max(out.len()))?,
        partial.arg(),
        out.arg(),
        split.parts,
        split.fewer,
        split.size,
        out.len(),
    );
    Ok(())
}

#[cube(launch, address_type = "dynamic")]
fn sum_partials_kernel(
    partial: &[f32],
    out: &mut [f32],
    parts: usize,
    fewer: usize,
    size: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let i = ABSOLUTE_POS % size;
    let part = ABSOLUTE_POS / size % fewer;
    let group = ABSOLUTE_POS / size / fewer;
    let length = parts.div_ceil(fewer);
    let begin = min(part * length, parts);
    let end = min(begin + length, parts);
    let mut sum = 0.0f32;
    for p in begin..end {
        sum += partial[(group * parts + p) * size + i];
    }
    out[ABSOLUTE_POS] = sum;
}
