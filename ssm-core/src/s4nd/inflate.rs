//! From images to videos: time as an axis before those of a block that has learned images.

use super::config::{S4ndAxis, S4ndConfig};
use crate::error::{Error, Result, WeightError};
use crate::operators::linear_state_space::Rule;
use crate::state_space::StateSpaceError;
use burn::tensor::TensorData;
use std::collections::BTreeMap;

/// The decay of the mode that time begins with.
const RATE: f64 = 1.0;

/// The block of `frames` images in a row that begins with the weights of a block of images.
///
/// The kernels of the two axes are kept, and time gets a short causal exponential, which sums to 1 over the frames,
///
/// ```text
/// k[l] = a̅ˡ (1 − a̅)/(1 − a̅^F),  Δ = 2/F        a̅ = e^{−Δ}, or (1 − Δ/2)/(1 + Δ/2) under the bilinear rule
/// ```
///
/// so that the last frame of a video that stands still gives what its image gives. It is one mode of Λ, decoupled from the others; these
/// have the Λ and B of the first axis and C = 0, from where they may learn. Kernels that were tied are so no longer.
///
/// Source: Nguyen et al., 2210.06583, section 4.3, and the step size of its code; that the sum is exactly 1 is our reading.
///
/// # Shapes
/// `weights` are tensors by the names of [`S4nd::read`](super::S4nd::read), and so is the result.
///
/// # Errors
/// [`Error::Value`] for other than two axes, no frames, or a Δ that the transforms of the configuration cannot stand for;
/// [`Error::Weight`] for a tensor that is missing.
pub fn inflate(
    config: &S4ndConfig,
    weights: &BTreeMap<String, TensorData>,
    frames: usize,
) -> Result<(S4ndConfig, BTreeMap<String, TensorData>)> {
    config.validate()?;
    if config.axes.len() != 2 || frames == 0 {
        return Err(Error::Value {
            what: "axes and frames of a block that is to read videos",
            expected: "2 axes and at least 1 frame",
            found: format!("{} axes, {frames} frames", config.axes.len()),
        });
    }
    let mut inflated = BTreeMap::new();
    for (name, data) in weights {
        let Some((set, rest)) = axis_of(name) else {
            inflated.insert(name.clone(), data.clone());
            continue;
        };
        let axes = if config.tied { 1..3 } else { set + 1..set + 2 };
        for axis in axes {
            inflated.insert(format!("kernel.{axis}.{rest}"), data.clone());
        }
    }
    for (name, data) in time(config, weights, frames)? {
        inflated.insert(format!("kernel.0.{name}"), data);
    }
    let time = S4ndAxis {
        size: frames,
        bidirectional: false,
        taps: None,
        truncated_at: 0,
    };
    let axes = std::iter::once(time).chain(config.axes.iter().copied());
    let config = S4ndConfig {
        axes: axes.collect(),
        tied: false,
        ..config.clone()
    };
    Ok((config, inflated))
}

/// The axis and the rest of the name of a tensor of a kernel.
fn axis_of(name: &str) -> Option<(usize, &str)> {
    let (axis, rest) = name.strip_prefix("kernel.")?.split_once('.')?;
    Some((axis.parse().ok()?, rest))
}

/// The tensors of the kernel along time.
fn time(
    config: &S4ndConfig,
    weights: &BTreeMap<String, TensorData>,
    frames: usize,
) -> Result<Vec<(&'static str, TensorData)>> {
    let unusable = |error: StateSpaceError| Error::Value {
        what: "kernel along time",
        expected: "transforms that can stand for its Δ and its decay",
        found: error.to_string(),
    };
    let (channels, modes) = (config.model_dim, config.state_dim / 2);
    let delta = 2.0 / frames as f64;
    let step = config.step_transform.invert(delta).map_err(unusable)?;
    let rate = config.rate_transform.invert_rate(RATE).map_err(unusable)?;
    let root = match config.rule {
        Rule::Bilinear => (1.0 - delta * RATE / 2.0) / (1.0 + delta * RATE / 2.0),
        _ => (-delta * RATE).exp(),
    };
    // b̅ is 1 − a̅ at Λ = −1 and B = 1, and a mode counts twice.
    let output = 0.5 / (1.0 - root.powf(frames as f64));
    let rows = config.terms * config.channels;
    let mut c = vec![0.0; rows * channels * modes * 2];
    let first = c.iter_mut().step_by(modes * 2);
    first.for_each(|value| *value = output as f32);
    let mut tensors = vec![
        (
            "inv_dt",
            TensorData::new(vec![step as f32; channels], [channels, 1]),
        ),
        ("C", TensorData::new(c, [rows, channels, modes, 2])),
        ("A_real", first_mode(weights, "A_real", modes, &[rate as f32])?),
        ("A_imag", first_mode(weights, "A_imag", modes, &[0.0])?),
        ("B", first_mode(weights, "B", modes, &[1.0, 0.0])?),
    ];
    if config.rank > 0 {
        tensors.push(("P", first_mode(weights, "P", modes, &[0.0, 0.0])?));
    }
    Ok(tensors)
}

/// A tensor of the first axis with another first mode in every row of modes.
fn first_mode(
    weights: &BTreeMap<String, TensorData>,
    name: &str,
    modes: usize,
    value: &[f32],
) -> Result<TensorData> {
    let name = format!("kernel.0.{name}");
    let Some(data) = weights.get(&name) else {
        return Err(Error::from(WeightError::Missing {
            name,
            expected: vec![modes],
        }));
    };
    let mut values: Vec<f32> = data.iter::<f32>().collect();
    let rows = values.chunks_exact_mut(modes * value.len());
    rows.for_each(|row| row[..value.len()].copy_from_slice(value));
    Ok(TensorData::new(values, data.shape().to_vec()))
}
