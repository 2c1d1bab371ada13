//! The real-gated linear recurrent unit of Griffin and RecurrentGemma, and the mixer around it.
//!
//! ```text
//! u = conv(W_x x + b_x) + b_c                       r, i = σ(blocks of u times W_r + b_r, W_i + b_i)
//! ln a = −8 r softplus(Λ)                           h_t = a ∘ h_{t−1} + √(1 − a²) ∘ i ∘ u,  the root 1 for the first token of a text
//! out = W_out (h ∘ GELU(W_y x + b_y)) + b_out
//! ```
//!
//! Every channel is a head with a 1×1 state, as in [HGRN](crate::hgrn). The matrices of r and i are block-diagonal, one block for every
//! head of the model's attention. Source: De et al., *Griffin* (2402.19427), section 2.4.

use crate::{expect, hgrn};
use burn::tensor::activation::softplus;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::mixer::{Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::pointwise::{exp, gelu_tanh, sigmoid, tanh};
use spillway_ssm_core::{
    Chain, Context, Error, Init, Linear, Result, ShortConv, ShortConvConfig, Site, WeightSource,
};

/// The factor on r softplus(Λ).
const SHARPNESS: f32 = -8.0;

/// The configuration of a mixer with an RG-LRU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RgLruConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the recurrence.
    pub channels: usize,
    /// Blocks of the gates' matrices; divide the channels.
    pub blocks: usize,
    /// The convolution before the recurrence.
    pub conv: ShortConvConfig,
}

/// A mixer with an RG-LRU.
#[derive(Clone, Debug)]
pub struct RgLru {
    config: RgLruConfig,
    linear_x: Linear,
    linear_y: Linear,
    conv: ShortConv,
    recurrent_gate: Blocks,
    input_gate: Blocks,
    /// −8 softplus(Λ), `[1, 1, channels]`.
    rate: Tensor<3>,
    linear_out: Linear,
}

/// A block-diagonal projection with a bias.
#[derive(Clone, Debug)]
struct Blocks {
    /// Matrix of every block, `[blocks, width, width]`, from the rows to the columns.
    weight: Tensor<3>,
    /// The bias of every block, `[blocks, 1, width]`.
    bias: Tensor<3>,
}

impl Blocks {
    fn read<S: WeightSource>(
        [blocks, width]: [usize; 2],
        source: &mut S,
        name: &str,
    ) -> Result<Self, S::Error> {
        let weight = Init::fan_in(width);
        let weight = source.tensor(&format!("{name}_weight"), [blocks, width, width], weight)?;
        let bias = source.tensor::<2>(&format!("{name}_bias"), [blocks, width], Init::Zeros)?;
        Ok(Self {
            weight,
            bias: bias.reshape([blocks, 1, width]),
        })
    }

    /// σ of the projection of `[blocks, rows, width]`.
    fn gate(&self, input: Tensor<3>) -> Tensor<3> {
        sigmoid(input.matmul(self.weight.clone()) + self.bias.clone())
    }
}

impl RgLru {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `linear_x`, `linear_y` (with biases) | `channels` × `model_dim` |
    /// | `conv_1d` | `channels` × 1 × taps |
    /// | `rg_lru.recurrent_gate_weight`, `rg_lru.input_gate_weight` | `blocks` × width × width, with width = `channels` / `blocks`; inputs first |
    /// | `rg_lru.recurrent_gate_bias`, `rg_lru.input_gate_bias` | `blocks` × width |
    /// | `rg_lru.recurrent_param`, Λ | `channels` |
    /// | `linear_out` (with bias) | `model_dim` × `channels` |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0, [`Error::Groups`] for blocks that do not divide the channels; the source's for a tensor that
    /// is missing or of another shape.
    pub fn read<S: WeightSource>(config: RgLruConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, channels, blocks) = (config.model_dim, config.channels, config.blocks);
        expect::positive("dimensions of an RG-LRU", &[model_dim, channels, blocks])?;
        if !channels.is_multiple_of(blocks) {
            return Err(S::Error::from(Error::Groups {
                heads: channels,
                groups: blocks,
            }));
        }
        let shape = [blocks, channels / blocks];
        let linear_x = source.linear("linear_x", [channels, model_dim], true)?;
        let linear_y = source.linear("linear_y", [channels, model_dim], true)?;
        let conv = ShortConv::read(config.conv, channels, source, "conv_1d")?;
        let recurrent_gate = Blocks::read(shape, source, "rg_lru.recurrent_gate")?;
        let input_gate = Blocks::read(shape, source, "rg_lru.input_gate")?;
        // Where r is 1, a is between 0.9 and 0.999.
        let fresh = Init::Uniform(-9.0, -4.3);
        let rate = source.vector("rg_lru.recurrent_param", channels, fresh)?;
        Ok(Self {
            config,
            linear_x,
            linear_y,
            conv,
            recurrent_gate,
            input_gate,
            rate: softplus(rate, 1.0)
                .mul_scalar(SHARPNESS)
                .reshape([1, 1, channels]),
            linear_out: source.linear("linear_out", [model_dim, channels], true)?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> RgLruConfig {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        Site {
            groups: 1,
            ..Site::weighted_sum(layer, self.config.channels, 1, 1)
        }
    }

    /// r and i of convolved tokens `[batch, time, channels]`.
    fn gates(&self, u: &Tensor<3>) -> [Tensor<3>; 2] {
        let [batch, time, channels] = u.dims();
        let (blocks, rows) = (self.config.blocks, batch * time);
        let width = channels / blocks;
        let by_block = u.clone().reshape([rows, blocks, width]).swap_dims(0, 1);
        [&self.recurrent_gate, &self.input_gate].map(|gate| {
            let open = gate.gate(by_block.clone()).swap_dims(0, 1);
            open.reshape([batch, time, channels])
        })
    }
}

/// √(1 − a²) of ln a, and 1 for tokens at position 0.
fn input_factor(log_decay: &Tensor<3>, positions: &[u64]) -> Tensor<3> {
    // 1 − e^(2x) = tanh(−x) (1 + e^(2x)) loses nothing where x is small.
    let square = exp(log_decay.clone().mul_scalar(2.0)).add_scalar(1.0);
    let factor = (tanh(log_decay.clone().neg()) * square).sqrt();
    if !positions.contains(&0) {
        return factor;
    }
    let [batch, time, _] = log_decay.dims();
    let mut first = vec![0.0f32; batch * time];
    for (sequence, _) in positions
        .iter()
        .enumerate()
        .filter(|(_, position)| **position == 0)
    {
        first[sequence * time] = 1.0;
    }
    let first = Tensor::<3>::from_data(TensorData::new(first, [batch, time, 1]), &log_decay.device());
    let later = first.clone().neg().add_scalar(1.0);
    factor * later + first
}

impl Mixer for RgLru {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let (conv_states, sites) = (vec![self.conv.start(batch, device)], self.sites(layer));
        MixerState::Recurrent(RecurrentState::start(conv_states, &sites, chain, batch, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        if batch * time == 0 {
            return Ok(input);
        }
        let state = state.recurrent()?;
        let x = self.linear_x.forward(input.clone())?;
        let u = self.conv.forward(x, Activation::None, state.conv_state(0)?)?;
        let [recurrent, open] = self.gates(&u);
        let log_decay = recurrent * self.rate.clone();
        let new = input_factor(&log_decay, context.positions) * open * u;
        let site = self.site(context.layer);
        let gates = hgrn::gates(new, log_decay)?;
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        let gate = gelu_tanh(self.linear_y.forward(input)?);
        let read_out = read_out.reshape([batch, time, self.config.channels]);
        self.linear_out.forward(read_out * gate)
    }

    /// The gates' products beside the recurrence.
    fn flops_per_token(&self) -> u64 {
        let (channels, blocks) = (self.config.channels, self.config.blocks);
        let gates = 4 * channels * (channels / blocks);
        (6 * channels + gates) as u64 + self.conv.flops_per_token()
    }
}
