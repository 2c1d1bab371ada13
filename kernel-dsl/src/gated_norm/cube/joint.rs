//! The joint between two blocks: residual sum and RMSNorm in one pass.

use super::{backward, forward};
use crate::cube::{Client, DeviceBuffer, DeviceRows, Error};
use crate::gated_norm::problem::{DeviceInputs, GateOrder, OPERATOR, Problem, Statistic};

/// What [`add_rms_norm`] gives, in the type of the residual.
#[derive(Clone, Debug)]
pub struct JointOutputs {
    /// residual + x, `[rows, features]`.
    pub residual: DeviceBuffer,
    /// RMSNorm(residual + x) ∘ weight, `[rows, features]`.
    pub out: DeviceBuffer,
}

/// residual + x, and its RMSNorm; as [`add_rms_norm`](crate::gated_norm::add_rms_norm).
///
/// # Shapes
/// `residual` and `x`, of the same type, `[rows, features]`; `weight` `[features]` in f32.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn add_rms_norm(
    client: &Client,
    residual: &DeviceRows,
    x: &DeviceRows,
    weight: &DeviceBuffer,
    eps: f32,
) -> Result<JointOutputs, Error> {
    let (problem, inputs) = norm(residual, weight, eps);
    problem.validate_on_device(&inputs, None)?;
    OPERATOR.device_rows("x", (residual.rows(), residual.cols()), residual.dtype(), x)?;
    let (out, sum) = forward::launch(client, &problem, &inputs, Some(x))?;
    let residual = match sum {
        Some(sum) => sum,
        None => unreachable!("the norm gives the sum when there is something to add"),
    };
    Ok(JointOutputs { residual, out })
}

/// Derivatives of the loss by what [`add_rms_norm`] read.
#[derive(Clone, Debug)]
pub struct JointGradients {
    /// Derivative by the residual, which is also the one by x, `[rows, features]` in the type of the residual.
    pub residual: DeviceBuffer,
    /// Derivative by the weight, `[features]` in f32.
    pub weight: DeviceBuffer,
}

/// Gradients of [`add_rms_norm`] from the cotangents of its output and, where the loss sees it, of the residual after the sum.
///
/// # Shapes
/// `sum`, the residual after the sum, `out_cotangent` and `residual_cotangent`, of the same type, `[rows, features]`; `weight`
/// `[features]` in f32.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn add_rms_norm_backward(
    client: &Client,
    sum: &DeviceRows,
    weight: &DeviceBuffer,
    eps: f32,
    out_cotangent: &DeviceRows,
    residual_cotangent: Option<&DeviceRows>,
) -> Result<JointGradients, Error> {
    let (problem, inputs) = norm(sum, weight, eps);
    if let Some(cotangent) = residual_cotangent {
        let shape = (sum.rows(), sum.cols());
        OPERATOR.device_cotangent_rows("residual", shape, sum.dtype(), cotangent)?;
    }
    let gradients = backward::launch(client, &problem, &inputs, out_cotangent, residual_cotangent)?;
    let weight = match gradients.weight {
        Some(weight) => weight,
        None => unreachable!("the norm was given a weight"),
    };
    Ok(JointGradients {
        residual: gradients.input,
        weight,
    })
}

fn norm(rows: &DeviceRows, weight: &DeviceBuffer, eps: f32) -> (Problem, DeviceInputs) {
    let problem = Problem {
        rows: rows.rows(),
        features: rows.cols(),
        group_size: rows.cols(),
        eps,
        statistic: Statistic::MeanSquare,
        order: GateOrder::NormAfterGate,
    };
    let inputs = DeviceInputs {
        input: rows.clone(),
        gate: None,
        weight: Some(weight.clone()),
        bias: None,
    };
    (problem, inputs)
}
