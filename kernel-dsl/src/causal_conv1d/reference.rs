//! The definition in f64.

use super::{Activation, ConvError, Problem};
use crate::Rows;

/// Output `[batch · time, channels]`; `state` `[batch, channels, width − 1]` is read and left after the last token.
///
/// # Errors
/// [`ConvError`] when a shape does not fit.
pub fn causal_conv1d(
    problem: &Problem,
    x: Rows,
    weight: &[f32],
    bias: Option<&[f32]>,
    state: &mut [f64],
) -> Result<Vec<f64>, ConvError> {
    let Problem {
        batch,
        time,
        channels,
        width,
        activation,
    } = *problem;
    problem.validate(
        &x,
        weight.len(),
        bias.map(<[f32]>::len),
        state.len(),
        batch * time * channels,
    )?;
    let mut out = vec![0.0; batch * time * channels];
    for b in 0..batch {
        for c in 0..channels {
            let past = (b * channels + c) * (width - 1)..(b * channels + c + 1) * (width - 1);
            let mut signal = state[past.clone()].to_vec();
            signal.extend((0..time).map(|t| f64::from(x.row(b * time + t)[c])));
            for t in 0..time {
                let taps = (0..width).map(|j| f64::from(weight[c * width + j]) * signal[t + j]);
                let y = bias.map_or(0.0, |bias| f64::from(bias[c])) + taps.sum::<f64>();
                out[(b * time + t) * channels + c] = match activation {
                    Activation::None => y,
                    Activation::Silu => y / (1.0 + (-y).exp()),
                };
            }
            state[past].copy_from_slice(&signal[time..]);
        }
    }
    Ok(out)
}
