//! The norms on a device: the same mathematics as CubeCL kernels.
//!
//! A cube normalises one group of one row; its units stride over the features and join their sums in shared memory. The
//! gradients of weight and bias are partial sums over blocks of rows, added in the order of the blocks: the same call gives
//! the same bits on the same device.

mod backward;
mod forward;
mod joint;
mod operands;

pub use super::problem::{DeviceGradients, DeviceInputs};
pub use backward::backward;
pub use forward::gated_norm;
pub use joint::{JointGradients, JointOutputs, add_rms_norm, add_rms_norm_backward};

use super::Problem;
use crate::cube::Limits;

/// Features that a unit takes, if the cube can have that few.
const FEATURES_PER_UNIT: usize = 4;

/// Units of a cube: a power of two.
fn units(problem: &Problem, limits: &Limits) -> usize {
    let wanted = problem.group_size.div_ceil(FEATURES_PER_UNIT).next_power_of_two();
    let most = limits.units.clamp(1, 256);
    wanted.clamp(1, 1 << most.ilog2())
}
