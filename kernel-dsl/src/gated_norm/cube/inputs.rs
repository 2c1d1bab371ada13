//! What the norms read and give on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::gated_norm::Problem;
use crate::gated_norm::problem::OPERATOR;

/// What a norm reads on a device; as [`Inputs`](crate::gated_norm::Inputs). Weight and bias are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs {
    /// x, `[rows, features]`.
    pub input: DeviceRows,
    /// z, whose SiLU multiplies, in the type of the input.
    pub gate: Option<DeviceRows>,
    /// `[features]`, multiplies the normalised features.
    pub weight: Option<DeviceBuffer>,
    /// `[features]`, added after the weight.
    pub bias: Option<DeviceBuffer>,
}

/// Derivatives of the loss by what a norm read.
#[derive(Clone, Debug)]
pub struct DeviceGradients {
    /// By x, `[rows, features]`, in the type of the input.
    pub input: DeviceBuffer,
    /// By z, if there is one, likewise.
    pub gate: Option<DeviceBuffer>,
    /// By the weight, if there is one, `[features]` in f32.
    pub weight: Option<DeviceBuffer>,
    /// By the bias, likewise.
    pub bias: Option<DeviceBuffer>,
}

impl DeviceInputs {
    /// Checks every shape and type.
    ///
    /// # Errors
    /// [`Error`], naming the argument, what it needs and what it has.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        problem.validate_sizes().map_err(Error::problem)?;
        let Problem { rows, features, .. } = *problem;
        let dtype = self.input.dtype();
        OPERATOR.device_rows("input", (rows, features), dtype, &self.input)?;
        if let Some(gate) = &self.gate {
            OPERATOR.device_rows("gate", (rows, features), dtype, gate)?;
        }
        for (name, values) in [("weight", &self.weight), ("bias", &self.bias)] {
            if let Some(values) = values {
                OPERATOR.device_values(name, (features, DType::F32), values)?;
            }
        }
        Ok(())
    }
}
