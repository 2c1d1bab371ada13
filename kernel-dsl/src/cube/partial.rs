//! Sums of partial results, always in the same order: what kernels form instead of atomic sums.

use cubecl::prelude::*;

use super::{Client, DType, DeviceBuffer, Error, launch_units};

/// Rows whose contributions one unit adds up, and parts from which on it adds up more.
const ROWS_PER_UNIT: usize = 16;
const MANY_PARTS: usize = 256;

/// Sums over parts of the rows, column by column, which are added up to those over all rows.
pub(crate) struct Partials {
    /// Sums over each part, `[parts, columns]`, in f32.
    sums: DeviceBuffer,
    /// Rows of a part.
    rows: usize,
    columns: usize,
}

impl Partials {
    /// Memory for the parts of so many rows.
    pub(crate) fn of(client: &Client, rows: usize, columns: usize) -> Result<Self, Error> {
        let rows_of_part = rows.div_ceil(MANY_PARTS).max(ROWS_PER_UNIT);
        let len = rows.div_ceil(rows_of_part) * columns;
        Ok(Self {
            sums: DeviceBuffer::empty(client, len, DType::F32)?,
            rows: rows_of_part,
            columns,
        })
    }

    /// Rows of a part; the last may have fewer.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn parts(&self) -> usize {
        self.len() / self.columns.max(1)
    }

    /// Values of `[parts, columns]`.
    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }

    pub(crate) fn arg(&self) -> BufferArg {
        self.sums.arg()
    }

    /// Adds up the parts; zeros where there are none.
    pub(crate) fn sum(&self, client: &Client, out: &DeviceBuffer) -> Result<(), Error> {
        sum_partials(client, &self.sums, out, self.parts(), self.columns)
    }
}

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

/// Sizes of one launch, which adds up `parts` partial sums of `size` values to `fewer` of them.
struct Split {
    parts: usize,
    fewer: usize,
    size: usize,
}

fn launch(client: &Client, partial: &DeviceBuffer, out: &DeviceBuffer, split: Split) -> Result<(), Error> {
    launch_units!(
        sum_partials_kernel,
        client,
        out.len(),
        partial.len().max(out.len()),
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
