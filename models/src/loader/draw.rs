//! Draws the values of fresh tensors.

use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use spillway_ssm_core::weights::{Init, StepSizes};

/// The elements `range` of `count`, appended. Elements must be drawn in order from one generator.
pub(crate) fn draw(init: &Init, rng: &mut StdRng, range: Range<usize>, count: usize, into: &mut Vec<f32>) {
    match *init {
        Init::Zeros => into.extend(range.map(|_| 0.0)),
        Init::Ones => into.extend(range.map(|_| 1.0)),
        Init::Constant(value) => into.extend(range.map(|_| value)),
        Init::Uniform(low, high) => into.extend(range.map(|_| uniform(rng, low, high))),
        Init::Normal(deviation) => {
            into.extend(range.map(|_| deviation * rng.sample::<f32, _>(StandardNormal)));
        }
        Init::LogOfUniform(low, high) => into.extend(range.map(|_| uniform(rng, low, high).ln())),
        Init::StepBias(sizes) => into.extend(range.map(|_| step_bias(rng, sizes))),
        Init::Ramp { from, to, power } => {
            let last = (count.max(2) - 1) as f32;
            into.extend(range.map(|index| from + (to - from) * (index as f32 / last).powf(power)));
        }
        Init::Values(value) => into.extend(range.map(|index| value(index, count))),
        Init::Repeated(ref values) => {
            let value = |index: usize| values.get(index % values.len().max(1)).copied();
            into.extend(range.map(|index| value(index).unwrap_or_default()));
        }
    }
}

/// softplus⁻¹ of a step size.
fn step_bias(rng: &mut StdRng, sizes: StepSizes) -> f32 {
    let (low, high) = (sizes.min.ln(), sizes.max.ln());
    let exponent = match low < high {
        true => rng.random_range(low..high),
        false => low,
    };
    let step = exponent.exp().max(sizes.floor);
    // softplus(b) = step  ⇔  b = step + ln(1 − e^(−step))
    (step + (-(-step).exp_m1()).ln()) as f32
}

/// `low` where there is nothing between the two.
fn uniform(rng: &mut StdRng, low: f32, high: f32) -> f32 {
    match low < high {
        true => rng.random_range(low..high),
        false => low,
    }
}
