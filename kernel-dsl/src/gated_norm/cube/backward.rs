//! Gradients of input, gate, weight and bias.

use cubecl::prelude::*;

use super::operands::{Addend, Moments, Operands, Sizes, Variant, moments, sizes};
use crate::cube::math::{silu, silu_derivative};
use crate::cube::partial::Partials;
use crate::cube::reduce::sum_over_cube;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, address_type, cubes};
use crate::gated_norm::problem::{DeviceGradients, DeviceInputs, Problem, Statistic};

/// Units of a cube that sums over rows, one feature each.
const UNITS: usize = 64;

/// Gradients of the loss by all that [`gated_norm`](super::gated_norm) reads, from the cotangent of its output.
///
/// # Shapes
/// `cotangent` `[rows, features]` in the type of the input; see [`DeviceGradients`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangent: &DeviceRows,
) -> Result<DeviceGradients, Error> {
    launch(client, problem, inputs, cotangent, None)
}

/// The gradients, where `addend` is added to that of the input.
pub(super) fn launch(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangent: &DeviceRows,
    addend: Option<&DeviceRows>,
) -> Result<DeviceGradients, Error> {
    problem.validate_on_device(inputs, Some(cotangent))?;
    let (len, dtype) = (problem.len(), inputs.input.dtype());
    let variant = Variant::new(client, problem, inputs, addend.map(|_| Addend::Gradient));
    let input = DeviceBuffer::empty(client, len, dtype)?;
    // Kernels bind a buffer whether they write it or not.
    let gate = DeviceBuffer::empty(client, inputs.gate.as_ref().map_or(1, |_| len), dtype)?;
    let total = len / problem.group_size;
    let statistics = DeviceBuffer::empty(client, 2 * total, DType::F32)?;
    if total > 0 {
        let addend_len = addend.map_or(0, |addend| addend.buffer().len());
        let longest = inputs.longest(&[len, cotangent.buffer().len(), addend_len]);
        backward_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(variant.units as u32),
            address_type(client, longest)?,
            inputs.operands(addend),
            sizes(problem),
            cotangent.view(),
            input.arg(),
            gate.arg(),
            statistics.arg(),
            total,
            variant,
            dtype.elem(),
        );
    }
    let (weight, bias) = sums(client, problem, inputs, cotangent, &statistics, variant)?;
    Ok(DeviceGradients {
        input,
        gate: inputs.gate.as_ref().map(|_| gate),
        weight: inputs.weight.as_ref().and(weight),
        bias: inputs.bias.as_ref().and(bias),
    })
}

/// The gradients of weight and bias, where either is there.
fn sums(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangent: &DeviceRows,
    statistics: &DeviceBuffer,
    variant: Variant,
) -> Result<(Option<DeviceBuffer>, Option<DeviceBuffer>), Error> {
    if !variant.weight && !variant.bias {
        return Ok((None, None));
    }
    let Problem { rows, features, .. } = *problem;
    let weights = Partials::of(client, rows, features)?;
    let biases = Partials::of(client, rows, features)?;
    let weight = DeviceBuffer::empty(client, features, DType::F32)?;
    let bias = DeviceBuffer::empty(client, features, DType::F32)?;
    let total = weights.parts() * features.div_ceil(UNITS);
    if total > 0 {
        let longest = inputs.longest(&[problem.len(), cotangent.buffer().len()]);
        sums_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, longest)?,
            inputs.operands(None),
            sizes(problem),
            cotangent.view(),
            statistics.arg(),
            weights.arg(),
            biases.arg(),
            rows,
            weights.rows(),
            total,
            variant,
            inputs.input.dtype().elem(),
        );
    }
    weights.sum(client, &weight)?;
    biases.sum(client, &bias)?;
    Ok((Some(weight), Some(bias)))
}

/// The cotangent of n ∘ weight + bias.
#[cube]
fn by_affine<F: Float>(
    operands: &Operands<F>,
    cotangent: &RowsView<F>,
    row: usize,
    col: usize,
    #[comptime] variant: Variant,
) -> f32 {
    let mut value = cotangent.at(row, col);
    if comptime!(variant.gates_output()) {
        value *= silu(operands.gate.at(row, col));
    }
    value
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float>(
    operands: &Operands<F>,
    sizes: &Sizes,
    cotangent: &RowsView<F>,
    by_input: &mut [F],
    by_gate: &mut [F],
    statistics: &mut [f32],
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
    let end = first + sizes.group_size;
    let moments = moments::<F>(operands, sizes, row, first, &mut scratch, variant);
    if UNIT_POS == 0 {
        statistics[2 * CUBE_POS] = moments.mean;
        statistics[2 * CUBE_POS + 1] = moments.scale;
    }
    // ⟨ḡ ∘ n⟩ and mean(ḡ).
    let mut along = 0.0f32;
    let mut mean = 0.0f32;
    let mut col = first + UNIT_POS as usize;
    while col < end {
        let g = by_affine::<F>(operands, cotangent, row, col, variant) * operands.weight(col, variant);
        along += g * (operands.argument(row, col, variant) - moments.mean) * moments.scale;
        mean += g;
        col += variant.units;
    }
    along = sum_over_cube(along, &mut scratch, variant.units) * sizes.share;
    if comptime!(variant.statistic == Statistic::Variance) {
        mean = sum_over_cube(mean, &mut scratch, variant.units) * sizes.share;
    } else {
        mean = 0.0f32;
    }
    let mut col = first + UNIT_POS as usize;
    while col < end {
        let at = row * sizes.features + col;
        let normed = (operands.argument(row, col, variant) - moments.mean) * moments.scale;
        let g = by_affine::<F>(operands, cotangent, row, col, variant) * operands.weight(col, variant);
        let mut gradient = moments.scale * (g - mean - normed * along);
        if comptime!(variant.gate.is_some()) {
            let z = operands.gate.at(row, col);
            if comptime!(variant.gates_input()) {
                by_gate[at] = F::cast_from(gradient * operands.input.at(row, col) * silu_derivative(z));
                gradient *= silu(z);
            } else {
                let y = operands.affine(normed, col, variant);
                by_gate[at] = F::cast_from(cotangent.at(row, col) * y * silu_derivative(z));
            }
        }
        if comptime!(variant.addend == Some(Addend::Gradient)) {
            gradient += operands.addend.at(row, col);
        }
        by_input[at] = F::cast_from(gradient);
        col += variant.units;
    }
}

/// The contributions of some rows to the gradients of weight and bias, for one feature.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sums_kernel<F: Float>(
    operands: &Operands<F>,
    sizes: &Sizes,
    cotangent: &RowsView<F>,
    statistics: &[f32],
    weights: &mut [f32],
    biases: &mut [f32],
    rows: usize,
    rows_per_unit: usize,
    total: usize,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let tiles = sizes.features.div_ceil(UNITS);
    let part = CUBE_POS / tiles;
    let col = CUBE_POS % tiles * UNITS + UNIT_POS as usize;
    if col < sizes.features {
        let groups = sizes.features / sizes.group_size;
        let mut weight = 0.0f32;
        let mut bias = 0.0f32;
        for row in part * rows_per_unit..min((part + 1) * rows_per_unit, rows) {
            let group = row * groups + col / sizes.group_size;
            let moments = Moments {
                mean: statistics[2 * group],
                scale: statistics[2 * group + 1],
            };
            let g = by_affine::<F>(operands, cotangent, row, col, variant);
            weight += g * (operands.argument(row, col, variant) - moments.mean) * moments.scale;
            bias += g;
        }
        weights[part * sizes.features + col] = weight;
        biases[part * sizes.features + col] = bias;
    }
}
