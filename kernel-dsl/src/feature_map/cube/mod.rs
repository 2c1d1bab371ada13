//! Feature maps on a device: a unit for each feature, or for each value of a key's gradient.

pub(crate) mod table;

use cubecl::prelude::*;

use self::table::{DeviceTable, Panel, Source, Table};
use super::problem::OPERATOR;
use super::{DeviceCotangents, FeatureMap, Problem};
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, launch_units};
use crate::operands::ElementTypes;
use crate::shape::Role;

/// φ of every key (see [`feature_map`](crate::feature_map) for the formula).
///
/// # Shapes
/// `input` `[rows, heads · key_dim]`; the result, of its type, `[rows, heads, features]`.
///
/// # Errors
/// [`Error`] when a shape or the scale is wrong, or when the device cannot run it.
pub fn forward(client: &Client, map: &FeatureMap, input: &DeviceRows) -> Result<DeviceBuffer, Error> {
    let problem = problem_of(map, input)?;
    let len = problem.keys() * map.features();
    let out = DeviceBuffer::empty(client, len, input.dtype())?;
    launch_units!(
        forward_kernel,
        client,
        len,
        input.buffer().len().max(len),
        Source::new(input, map.key_dim).panel(),
        DeviceTable::new(client, map)?.launch(),
        out.arg(),
        problem.heads,
        map.features(),
        len,
        input.dtype().elem(),
    );
    Ok(out)
}

/// The gradient of Σ ⟨cotangent, φ⟩ by the keys.
///
/// # Shapes
/// `input` `[rows, heads · key_dim]`, `cotangent`, of any type, `[rows, heads · features]`; the result `[rows, heads, key_dim]` in
/// f32.
///
/// # Errors
/// [`Error`] when a shape or the scale is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    map: &FeatureMap,
    input: &DeviceRows,
    cotangent: &DeviceRows,
) -> Result<DeviceBuffer, Error> {
    let problem = problem_of(map, input)?;
    let cotangents = DeviceCotangents {
        out: cotangent.clone(),
    };
    cotangents.expect(
        &OPERATOR.on_device(Role::Cotangent, ElementTypes::all(cotangent.dtype())),
        &cotangents.extents(&problem),
    )?;
    let len = input.rows() * input.cols();
    let gradient = DeviceBuffer::empty(client, len, DType::F32)?;
    launch_units!(
        backward_kernel,
        client,
        len,
        input.buffer().len().max(cotangent.buffer().len()),
        Source::new(input, map.key_dim).panel(),
        Source::new(cotangent, map.features()).panel(),
        DeviceTable::new(client, map)?.launch(),
        gradient.arg(),
        problem.heads,
        map.features(),
        len,
        [input.dtype().elem(), cotangent.dtype().elem()],
    );
    Ok(gradient)
}

fn problem_of(map: &FeatureMap, input: &DeviceRows) -> Result<Problem, Error> {
    map.of_rows(input.rows(), input.cols()).map_err(Error::problem)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn forward_kernel<F: Float>(
    x: &Panel<F>,
    table: &Table,
    out: &mut [F],
    heads: usize,
    features: usize,
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < len {
        let key = ABSOLUTE_POS / features;
        let value = table.feature::<F>(x, key / heads, key % heads, ABSOLUTE_POS % features);
        out[ABSOLUTE_POS] = F::cast_from(value);
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float, G: Float>(
    x: &Panel<F>,
    cotangent: &Panel<G>,
    table: &Table,
    gradient: &mut [f32],
    heads: usize,
    features: usize,
    len: usize,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if ABSOLUTE_POS < len {
        let key = ABSOLUTE_POS / x.cols;
        let (row, head) = (key / heads, key % heads);
        let mut sum = 0.0f32;
        for d in 0..features {
            let slope = table.slope::<F>(x, row, head, d, ABSOLUTE_POS % x.cols);
            sum += slope * cotangent.at(row, head, d);
        }
        gradient[ABSOLUTE_POS] = sum;
    }
}
