//! Cross-entropy on a device: a cube for each row of logits.

use cubecl::prelude::*;

use super::{CrossEntropyError, DeviceCotangents, DeviceInputs, Problem};
use crate::cube::reduce::{max_over_cube, sum_over_cube};
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, Limits, address_type, cubes};
use crate::operands::ElementTypes;

/// Classes that a unit takes, if the cube can have that few.
const CLASSES_PER_UNIT: usize = 8;

/// The cross-entropy of every row in f32 (see [`cross_entropy`](crate::cross_entropy) for the formula).
///
/// # Shapes
/// `logits` `[rows, classes]`, `targets` and the result `[rows]`.
///
/// # Errors
/// [`Error`] when a length, a type or a target is wrong, or when the device cannot run it.
pub fn cross_entropy(client: &Client, logits: &DeviceRows, targets: &[u32]) -> Result<DeviceBuffer, Error> {
    validate(logits, targets, None)?;
    let loss = DeviceBuffer::empty(client, logits.rows(), DType::F32)?;
    if !targets.is_empty() {
        let units = units(client, logits.cols());
        cross_entropy_kernel::launch(
            client,
            cubes(client, logits.rows())?,
            CubeDim::new_1d(units as u32),
            address_type(client, logits.buffer().len())?,
            logits.view(),
            target_arg(client, targets),
            loss.arg(),
            logits.rows(),
            logits.cols(),
            units,
            logits.dtype().elem(),
        );
    }
    Ok(loss)
}

/// The gradient of Σ cotangent · loss by the logits.
///
/// # Shapes
/// `logits` `[rows, classes]`, `targets` `[rows]`, `cotangent` `[rows]` in f32; the result is `[rows, classes]` without gaps, in
/// the type of the logits.
///
/// # Errors
/// [`Error`] when a length, a type or a target is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    logits: &DeviceRows,
    targets: &[u32],
    cotangent: &DeviceBuffer,
) -> Result<DeviceBuffer, Error> {
    validate(logits, targets, Some(cotangent))?;
    let len = logits.rows() * logits.cols();
    let gradient = DeviceBuffer::empty(client, len, logits.dtype())?;
    if !targets.is_empty() {
        let units = units(client, logits.cols());
        backward_kernel::launch(
            client,
            cubes(client, logits.rows())?,
            CubeDim::new_1d(units as u32),
            address_type(client, logits.buffer().len().max(len))?,
            logits.view(),
            target_arg(client, targets),
            cotangent.arg(),
            gradient.arg(),
            logits.rows(),
            logits.cols(),
            units,
            logits.dtype().elem(),
        );
    }
    Ok(gradient)
}

fn validate(logits: &DeviceRows, targets: &[u32], cotangent: Option<&DeviceBuffer>) -> Result<(), Error> {
    let problem = Problem {
        rows: logits.rows(),
        classes: logits.cols(),
    };
    problem.validate(targets).map_err(|error| match error {
        CrossEntropyError::Shape(error) => error.into(),
        error => Error::problem(error),
    })?;
    let inputs = DeviceInputs {
        logits: logits.clone(),
    };
    let cotangents = cotangent.cloned().map(|loss| DeviceCotangents { loss });
    problem.expect_on_device(&inputs, cotangents.as_ref(), ElementTypes::all(logits.dtype()))
}

fn target_arg(client: &Client, targets: &[u32]) -> BufferArg {
    let handle = client.create_from_slice(bytemuck::cast_slice(targets));
    // SAFETY: the handle was made from that many values.
    unsafe { BufferArg::from_raw_parts(handle, targets.len()) }
}

/// Units of a cube: a power of two.
fn units(client: &Client, classes: usize) -> usize {
    let wanted = classes.div_ceil(CLASSES_PER_UNIT).next_power_of_two();
    let most = Limits::of(client).units.clamp(1, 256);
    wanted.clamp(1, 1 << most.ilog2())
}

/// m = max_j x_j of a row, and Σ e^{x_j − m} over the classes other than the target.
#[derive(CubeType, Clone, Copy)]
struct Sums {
    largest: f32,
    others: f32,
}

#[cube]
fn sums<F: Float>(
    logits: &RowsView<F>,
    target: usize,
    classes: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] units: usize,
) -> Sums {
    let row = CUBE_POS;
    let mut largest = logits.at(row, 0);
    let mut class = UNIT_POS as usize;
    while class < classes {
        largest = max(largest, logits.at(row, class));
        class += units;
    }
    largest = max_over_cube(largest, scratch, units);
    let mut others = 0.0f32;
    let mut class = UNIT_POS as usize;
    while class < classes {
        if class != target {
            others += (logits.at(row, class) - largest).exp();
        }
        class += units;
    }
    Sums {
        largest,
        others: sum_over_cube(others, scratch, units),
    }
}

#[cube(launch, address_type = "dynamic")]
fn cross_entropy_kernel<F: Float>(
    logits: &RowsView<F>,
    targets: &[u32],
    loss: &mut [f32],
    rows: usize,
    classes: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= rows {
        terminate!();
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let target = targets[CUBE_POS] as usize;
    let sums = sums::<F>(logits, target, classes, &mut scratch, units);
    if UNIT_POS == 0 {
        let behind = logits.at(CUBE_POS, target) - sums.largest;
        // The difference first: large logits would swallow the digits of the logarithm.
        loss[CUBE_POS] = (behind.exp() + sums.others).ln() - behind;
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<F: Float>(
    logits: &RowsView<F>,
    targets: &[u32],
    cotangent: &[f32],
    gradient: &mut [F],
    rows: usize,
    classes: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= rows {
        terminate!();
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let target = targets[CUBE_POS] as usize;
    let sums = sums::<F>(logits, target, classes, &mut scratch, units);
    let sum = sums.others + (logits.at(CUBE_POS, target) - sums.largest).exp();
    let scale = cotangent[CUBE_POS] / sum;
    let mut class = UNIT_POS as usize;
    while class < classes {
        // softmax − 1 at the target is minus the share of the others.
        let mut value = -sums.others;
        if class != target {
            value = (logits.at(CUBE_POS, class) - sums.largest).exp();
        }
        gradient[CUBE_POS * classes + class] = F::cast_from(scale * value);
        class += units;
    }
}
