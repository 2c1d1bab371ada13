//! The short convolution of mixers: depthwise and causal, over the channels of a projection.
//!
//! ```text
//! y_t = act(Σ_i w_i ∘ x_{t − width + 1 + i} + b)
//! ```

use crate::error::{Error, Result};
use crate::operators::causal_conv1d;
use crate::sequences::Sequences;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor};
use spillway_kernel_dsl::causal_conv1d::Activation;

/// The shape of a short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConvConfig {
    /// Taps, the current token's among them.
    pub width: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

/// A short convolution: depthwise and causal, with a few taps per channel.
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// Taps w, `[channels, width]`, the last tap meeting the current token.
    weight: Tensor<2>,
    /// b, the bias of every channel, `[channels]`.
    bias: Option<Tensor<1>>,
}

impl ShortConv {
    /// The convolution `NAME.weight` `[channels, 1, width]` and, where it has one, `NAME.bias` `[channels]`.
    ///
    /// # Errors
    /// [`Error::Value`] without channels or taps; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        config: ShortConvConfig,
        channels: usize,
        source: &mut S,
        name: &str,
    ) -> Result<Self, S::Error> {
        let ShortConvConfig { width, bias } = config;
        if channels == 0 || width == 0 {
            return Err(S::Error::from(Error::Value {
                what: "channels and taps of a short convolution",
                expected: "all at least 1",
                found: format!("{:?}", [channels, width]),
            }));
        }
        let taps = Init::fan_in(width);
        let weight = source.tensor(&format!("{name}.weight"), [channels, 1, width], taps.clone())?;
        Ok(Self {
            weight: weight.reshape([channels, width]),
            bias: match bias {
                true => Some(source.vector(&format!("{name}.bias"), channels, taps)?),
                false => None,
            },
        })
    }

    /// Number of channels, and of taps.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// The state that the convolution carries before the first token: `[batch, channels, width − 1]` zeros.
    pub fn start(&self, batch: usize, device: &Device) -> Tensor<3> {
        let [channels, width] = self.dims();
        Tensor::zeros([batch, channels, width - 1], device)
    }

    /// `[batch, time, channels]` to the same shape; `state` are the tokens before, and afterwards the last ones.
    ///
    /// # Errors
    /// [`Error::Shape`] when input or state have other channels.
    pub fn forward(
        &self,
        input: Tensor<3>,
        activation: Activation,
        state: &mut Tensor<3>,
    ) -> Result<Tensor<3>> {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        causal_conv1d(input, weight, bias, activation, &Sequences::Equal, state)
    }

    /// Two per channel and tap.
    pub fn flops_per_token(&self) -> u64 {
        2 * self.dims().iter().map(|n| *n as u64).product::<u64>()
    }
}
