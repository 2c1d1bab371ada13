//! The S4 block without a state space: a kernel of free taps per channel, and the same gated projection over channels.
//!
//! ```text
//! z_t = Σ_{l<L} K_l u_{t−l} + D u_t        out = GLU(W GELU(z) + b)
//! ```
//!
//! What a state space is compared with: L numbers per channel that know nothing of time, beyond L tokens or at another sampling rate.
//! Tensors have the names of state-spaces/s4, whose `conv` kernel it is; taps start at variance 1/L.

pub mod nd;

use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::causal_conv1d::Activation;
use crate::operators::pointwise::{gelu, sigmoid_gate};
use crate::operators::{causal_conv1d, split};
use crate::sequences::Sequences;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor};

/// A block of a free kernel for every channel, and a gated projection over channels.
#[derive(Clone, Debug)]
pub struct FreeConvolution {
    /// Taps K of every channel, `[model_dim, taps]`, the last tap meeting the current token.
    taps: Tensor<2>,
    /// D, the skip from an input to its own output, `[1, 1, model_dim]`.
    skip: Tensor<3>,
    out: Linear,
}

impl FreeConvolution {
    /// The block of the weights of `source`, with H = `model_dim` and L = `taps`: `kernel.K` (1 × H × L, lag 0 first), `D` (1 × H),
    /// `output_linear` (with bias, 2H × H).
    ///
    /// # Errors
    /// [`Error::Value`] without channels or taps; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(model_dim: usize, taps: usize, source: &mut S) -> Result<Self, S::Error> {
        if model_dim == 0 || taps == 0 {
            return Err(S::Error::from(Error::Value {
                what: "channels and taps of a convolution",
                expected: "all at least 1",
                found: format!("{:?}", [model_dim, taps]),
            }));
        }
        let out = source.linear("output_linear", [2 * model_dim, model_dim], true)?;
        let fresh = Init::Normal((1.0 / taps as f32).sqrt());
        let kernel = source.tensor("kernel.K", [1, model_dim, taps], fresh)?;
        let skip = source.tensor("D", [1, model_dim], Init::Normal(1.0))?;
        Ok(Self {
            taps: kernel.reshape([model_dim, taps]).flip([1]),
            skip: skip.reshape([1, 1, model_dim]),
            out,
        })
    }
}

impl Mixer for FreeConvolution {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let [channels, taps] = self.taps.dims();
        MixerState::Recurrent(RecurrentState {
            conv_states: vec![Tensor::zeros([batch, channels, taps - 1], device)],
            ..RecurrentState::default()
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let (taps, before) = (self.taps.clone(), state.recurrent()?.conv_state(0)?);
        let skipped = input.clone() * self.skip.clone();
        let convolved = causal_conv1d(input, taps, None, Activation::None, &Sequences::Equal, before)?;
        let mixed = self.out.forward(gelu(convolved + skipped))?;
        let [value, gate] = split(mixed, [self.taps.dims()[0]; 2])?;
        Ok(sigmoid_gate(gate, value))
    }

    /// Two per tap and channel.
    fn flops_per_token(&self) -> u64 {
        2 * self.taps.dims().iter().map(|size| *size as u64).product::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunking::Chunking;
    use crate::mixer::Shared;
    use crate::weights::WeightMap;
    use burn::tensor::TensorData;
    use std::collections::BTreeMap;

    const CHANNELS: usize = 3;
    const TAPS: usize = 4;

    /// Numbers from −1 to 1 without a pattern.
    fn numbers(count: usize, shift: f32) -> Vec<f32> {
        (0..count)
            .map(|index| (7.3 * index as f32 + shift).sin())
            .collect()
    }

    fn block() -> FreeConvolution {
        let tensor = |values: Vec<f32>, shape: &[usize]| TensorData::new(values, shape.to_vec());
        // The value is what comes in; the gate is σ(0).
        let mut weight = vec![0.0; 2 * CHANNELS * CHANNELS];
        (0..CHANNELS).for_each(|channel| weight[channel * (CHANNELS + 1)] = 1.0);
        let tensors = BTreeMap::from([
            (
                "output_linear.weight".to_string(),
                tensor(weight, &[2 * CHANNELS, CHANNELS]),
            ),
            (
                "output_linear.bias".to_string(),
                tensor(vec![0.0; 2 * CHANNELS], &[2 * CHANNELS]),
            ),
            (
                "kernel.K".to_string(),
                tensor(numbers(CHANNELS * TAPS, 0.1), &[1, CHANNELS, TAPS]),
            ),
            ("D".to_string(), tensor(numbers(CHANNELS, 0.2), &[1, CHANNELS])),
        ]);
        FreeConvolution::read(CHANNELS, TAPS, &mut WeightMap::new(tensors, Device::flex()))
            .expect("the weights fit")
    }

    fn forward(block: &FreeConvolution, input: &[f32], state: &mut MixerState) -> Vec<f32> {
        let chain = Chain::default();
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking: Chunking::Fastest,
            positions: &[0],
            lengths: None,
            prefix: None,
            shared: &mut Shared::default(),
        };
        let data = TensorData::new(input.to_vec(), [1, input.len() / CHANNELS, CHANNELS]);
        let input = Tensor::from_data(data, &Device::flex());
        let output = block.forward(input, state, &mut context).expect("an output");
        output.into_data().iter::<f32>().collect()
    }

    #[test]
    fn it_is_the_sum_over_taps_and_goes_on_from_a_state() {
        let (block, time) = (block(), 11);
        let input = numbers(time * CHANNELS, 0.3);
        let start = || block.start(0, 1, &Chain::default(), &Device::flex());
        let found = forward(&block, &input, &mut start());
        let (kernel, skip) = (numbers(CHANNELS * TAPS, 0.1), numbers(CHANNELS, 0.2));
        for (place, value) in found.iter().enumerate() {
            let (t, channel) = (place / CHANNELS, place % CHANNELS);
            let lags = 0..TAPS.min(t + 1);
            let sum: f32 = lags
                .map(|lag| kernel[channel * TAPS + lag] * input[(t - lag) * CHANNELS + channel])
                .sum();
            let z = f64::from(sum + skip[channel] * input[t * CHANNELS + channel]);
            let expected = 0.5 * z * 0.5 * (1.0 + libm::erf(z / 2.0_f64.sqrt()));
            assert!(
                (f64::from(*value) - expected).abs() < 1e-6,
                "{place}: {value}, {expected}"
            );
        }
        let mut state = start();
        let mut pieces = forward(&block, &input[..5 * CHANNELS], &mut state);
        pieces.extend(forward(&block, &input[5 * CHANNELS..], &mut state));
        assert!(found.iter().zip(&pieces).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
