//! Channel mixing: an MLP over shifted tokens.
//!
//! ```text
//! out = σ(W_r x̃ʳ) ∘ W_v relu(W_k x̃ᵏ)²        x̃ʳ and x̃ᵏ interpolated with the previous token; RWKV-7 has no W_r
//! ```

use super::fresh::Depth;
use super::shift::{TokenShift, interpolate};
use super::source::RwkvSource;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::{sigmoid_gate, squared_relu};
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, RecurrentState, Result};

/// The shape of a channel mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMixConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Width between the projections.
    pub hidden_dim: usize,
    /// Whether the output is gated by a receptance (RWKV-4 to 6).
    pub receptance: bool,
    /// The mixer's layer, and how many layers the model has.
    pub depth: Depth,
}

/// What the output of a channel mixer is gated by.
#[derive(Clone, Debug)]
struct ReceptanceGate {
    /// The interpolation x̃ʳ, which W_r reads.
    shift: TokenShift,
    /// W_r, the projection to the receptance, `[model_dim, model_dim]`.
    projection: Linear,
}

/// A channel mixer of RWKV: an MLP over shifted tokens, gated by a receptance but in RWKV-7.
#[derive(Clone, Debug)]
pub struct ChannelMix {
    /// The interpolation x̃ᵏ, which W_k reads.
    key_shift: TokenShift,
    /// W_k, the projection before the activation, `[hidden_dim, model_dim]`.
    key: Linear,
    /// W_v, the projection after the activation, `[model_dim, hidden_dim]`.
    value: Linear,
    receptance: Option<ReceptanceGate>,
}

impl ChannelMix {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `key_shift`; `receptance_shift`, where there is a receptance | interpolations of `model_dim` |
    /// | `key` | `hidden_dim` × `model_dim` |
    /// | `receptance`, where there is one | `model_dim` × `model_dim` |
    /// | `value` | `model_dim` × `hidden_dim` |
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: RwkvSource>(config: ChannelMixConfig, source: &mut S) -> Result<Self, S::Error> {
        let (width, hidden) = (config.model_dim, config.hidden_dim);
        let fresh = config.depth.share_of_keys(0.0);
        let key_shift = source.shift("key_shift", width, fresh)?;
        let receptance_shift = match config.receptance {
            true => Some(source.shift("receptance_shift", width, fresh)?),
            false => None,
        };
        Ok(Self {
            key_shift,
            key: source.linear("key", [hidden, width], false)?,
            receptance: match receptance_shift {
                Some(shift) => Some(ReceptanceGate {
                    shift,
                    projection: source.linear("receptance", [width, width], false)?,
                }),
                None => None,
            },
            value: source.linear("value", [width, hidden], false)?,
        })
    }
}

impl Mixer for ChannelMix {
    fn start(&self, _layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let tap = Tensor::zeros([batch, self.key_shift.channels(), 1], device);
        MixerState::Recurrent(RecurrentState::start(vec![tap], &[], chain, batch, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let previous = state.recurrent()?.conv_state(0)?;
        let hidden = |key: Tensor<3>| -> Result<Tensor<3>> {
            self.value.forward(squared_relu(self.key.forward(key)?))
        };
        match &self.receptance {
            None => {
                let [key] = interpolate([&self.key_shift], &input, previous)?;
                hidden(key)
            }
            Some(gate) => {
                let [key, receptance] = interpolate([&self.key_shift, &gate.shift], &input, previous)?;
                Ok(sigmoid_gate(gate.projection.forward(receptance)?, hidden(key)?))
            }
        }
    }
}
