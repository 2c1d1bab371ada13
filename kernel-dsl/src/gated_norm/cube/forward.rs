//! The norm itself, and its sum with a residual.

use cubecl::prelude::*;

use super::operands::{Addend, Operands, Sizes, Variant, moments, sizes};
use crate::cube::math::silu;
use crate::cube::{Client, DeviceBuffer, DeviceRows, Error, address_type, cubes};
use crate::gated_norm::problem::{DeviceInputs, Problem};

/// The norm of every row, gated by SiLU(gate) when there is a gate (see [`gated_norm`](crate::gated_norm) for the formula).
///
/// # Shapes
/// The result is `[rows, features]`, in the type of the input.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn gated_norm(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceBuffer, Error> {
    problem.validate_on_device(inputs, None)?;
    let (out, _) = launch(client, problem, inputs, None)?;
    Ok(out)
}

/// The norm of `input + addend`, and, with an addend, that sum.
pub(super) fn launch(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    addend: Option<&DeviceRows>,
) -> Result<(DeviceBuffer, Option<DeviceBuffer>), Error> {
    let dtype = inputs.input.dtype();
    let empty = |len| DeviceBuffer::empty(client, len, dtype);
    let out = empty(problem.len())?;
    let sum = empty(addend.map_or(1, |_| problem.len()))?;
    if !out.is_empty() {
        let total = problem.len() / problem.group_size;
        let variant = Variant::new(client, problem, inputs, addend.map(|_| Addend::Input));
        let addend_len = addend.map_or(0, |addend| addend.buffer().len());
        forward_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(variant.units as u32),
            address_type(client, inputs.longest(&[out.len(), addend_len]))?,
            inputs.operands(addend),
            sizes(problem),
            out.arg(),
            sum.arg(),
            total,
            variant,
            dtype.elem(),
        );
    }
    Ok((out, addend.map(|_| sum)))
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel<F: Float>(
    operands: &Operands<F>,
    sizes: &Sizes,
    out: &mut [F],
    sum: &mut [F],
    total: usize,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let mut scratch = Shared::<[f32]>::new_slice(variant.units);
    let groups = sizes.features / sizes.group_size;
    let row = CUBE_POS / groups;
    let first = CUBE_POS % groups * sizes.group_size;
    let moments = moments::<F>(operands, sizes, row, first, &mut scratch, variant);
    let mut col = first + UNIT_POS as usize;
    while col < first + sizes.group_size {
        let at = row * sizes.features + col;
        let normed = (operands.argument(row, col, variant) - moments.mean) * moments.scale;
        let mut y = operands.affine(normed, col, variant);
        if comptime!(variant.gates_output()) {
            y *= silu(operands.gate.at(row, col));
        }
        out[at] = F::cast_from(y);
        if comptime!(variant.addend.is_some()) {
            sum[at] = F::cast_from(operands.argument(row, col, variant));
        }
        col += variant.units;
    }
}
