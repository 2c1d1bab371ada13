//! Time mixing of RWKV-4: per channel, a weighted mean of all values.
//!
//! ```text
//! y_t = (Σ_{i<t} e^{(t−1−i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v)          w = −e^{time_decay}
//! out = W_o (σ(r) ∘ y)
//! ```
//!
//! The decay does not reach the current token. Numerator, denominator and the largest exponent so far are the state. Source:
//! Peng et al., *RWKV* (2305.13048), section 3.

use super::fresh::Depth;
use super::shift::{TokenShift, interpolate, start};
use super::source::RwkvSource;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::{
    Chain, Context, Gates, Init, Linear, LogDecay, Mixer, MixerState, ReadOut, Result, Rule, Site,
};

/// The shape of a time mixer of RWKV-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rwkv4Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the recurrence.
    pub channels: usize,
    /// The mixer's layer, and how many layers the model has.
    pub depth: Depth,
}

/// One time mixer of RWKV-4. Heads are channels.
#[derive(Clone, Debug)]
pub struct Rwkv4 {
    receptance_shift: TokenShift,
    key_shift: TokenShift,
    value_shift: TokenShift,
    /// The projection to r, `[channels, model_dim]`.
    receptance: Linear,
    /// The projection to k, `[channels, model_dim]`.
    key: Linear,
    /// The projection to v, `[channels, model_dim]`.
    value: Linear,
    /// W_o, the projection of the gated read-outs, `[model_dim, channels]`.
    output: Linear,
    /// w = −e^{time_decay}, the log decay of every channel, `[channels]`.
    log_decay: Tensor<1>,
    /// u, added to the current token's key.
    bonus: Tensor<1>,
}

impl Rwkv4 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `key_shift`, `value_shift`, `receptance_shift` | interpolations of `model_dim` |
    /// | `key`, `value`, `receptance` | `channels` × `model_dim` |
    /// | `output` | `model_dim` × `channels` |
    /// | `time_decay`; `time_first`, u | `channels` |
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: RwkvSource>(config: Rwkv4Config, source: &mut S) -> Result<Self, S::Error> {
        let Rwkv4Config {
            model_dim: width,
            channels,
            depth,
        } = config;
        let fresh_decay = Init::Ramp {
            from: -5.0,
            to: 3.0,
            power: 0.7 + 1.3 * depth.ratio(),
        };
        Ok(Self {
            key_shift: source.shift("key_shift", width, depth.share_of_keys(0.0))?,
            value_shift: source.shift("value_shift", width, depth.share_of_keys(0.3 * depth.ratio()))?,
            receptance_shift: source.shift("receptance_shift", width, depth.share_of_gates())?,
            key: source.linear("key", [channels, width], false)?,
            value: source.linear("value", [channels, width], false)?,
            receptance: source.linear("receptance", [channels, width], false)?,
            output: source.linear("output", [width, channels], false)?,
            log_decay: source.vector("time_decay", channels, fresh_decay)?.exp().neg(),
            bonus: source.vector("time_first", channels, Init::Values(fresh_bonus))?,
        })
    }

    fn channels(&self) -> usize {
        self.log_decay.dims()[0]
    }

    fn site(&self, layer: usize) -> Site {
        // Numerator, denominator, maximum.
        let columns = 3;
        Site {
            rule: Rule::Mean,
            ..Site::weighted_sum(layer, self.channels(), 1, columns)
        }
    }
}

impl Mixer for Rwkv4 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let width = self.output.out_features();
        start(width, self.site(layer), batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        let state = state.recurrent()?;
        let [receptance, key, value] = interpolate(
            [&self.receptance_shift, &self.key_shift, &self.value_shift],
            &input,
            state.conv_state(0)?,
        )?;
        let per_channel = |tensor: Tensor<3>| tensor.reshape([batch, time, self.channels(), 1]);
        let key = per_channel(self.key.forward(key)?);
        let value = per_channel(self.value.forward(value)?);
        let gates = Gates {
            log_decay: LogDecay::PerHead(self.log_decay.clone()),
            read_out: ReadOut::Mean(self.bonus.clone()),
            // A mean has no query.
            ..Gates::new(key.clone(), key, value)
        };
        let receptance = sigmoid(self.receptance.forward(receptance)?);
        let site = self.site(context.layer);
        let mean = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output
            .forward(receptance * mean.reshape([batch, time, self.channels()]))
    }

    /// Two sums that decay and grow, for the read-out and for the state, and their quotient.
    fn flops_per_token(&self) -> u64 {
        13 * self.channels() as u64
    }
}

/// ln 0.3, shifted by −½, 0 and ½ in turn.
fn fresh_bonus(channel: usize, _channels: usize) -> f32 {
    0.3f32.ln() + 0.5 * (((channel + 1) % 3) as f32 - 1.0)
}
