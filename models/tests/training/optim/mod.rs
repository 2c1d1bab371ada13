//! The optimiser against AdamW written out in f64, learning rates, snapshots that are refused when a byte is wrong, the log.

mod accumulation;
mod log;
mod optimizer;
mod schedule;
mod snapshot;

use burn::tensor::{Device, Tensor};
use spillway_models::train::Parameter;

fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_floats(values, &Device::flex())
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}

fn bits(tensor: &Tensor<1>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// A parameter with these values.
fn parameter(name: &str, shape: &[usize], values: &[f32]) -> Parameter {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    Parameter {
        name: name.into(),
        shape: shape.into(),
        value: tensor(values),
        twin: None,
    }
}

/// Numbers from −1 to 1 without a pattern, always the same for one `seed`.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(draw).skip(16).take(count).collect()
}

/// ‖found − expected‖ / ‖expected‖; NaN for anything that is not finite.
fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
    (difference / expected.iter().map(|e| e * e).sum::<f64>()).sqrt()
}
