//! Channel mixing: an MLP over shifted tokens.
//!
//! ```text
//! out = σ(W_r x̃ʳ) ∘ W_v relu(W_k x̃ᵏ)²        x̃ʳ and x̃ᵏ interpolated with the previous token; RWKV-7 has no W_r
//! ```

use super::shift::{TokenShift, interpolate};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::operators::pointwise::{sigmoid_gate, squared_relu};
use ssm_core::{Chain, Context, Linear, Mixer, MixerState, RecurrentState, Result};

/// What the output of a channel mixer is gated by (RWKV-4 to 6).
#[derive(Clone, Debug)]
pub struct ReceptanceGate {
    /// x̃ʳ.
    pub shift: TokenShift,
    /// W_r, `[model_dim, model_dim]`.
    pub projection: Linear,
}

/// The weights of a channel mixer.
#[derive(Clone, Debug)]
pub struct ChannelMixWeights {
    /// x̃ᵏ.
    pub key_shift: TokenShift,
    /// W_k, `[hidden_dim, model_dim]`.
    pub key: Linear,
    /// W_v, `[model_dim, hidden_dim]`.
    pub value: Linear,
    /// The gate, in versions that have one.
    pub receptance: Option<ReceptanceGate>,
}

/// One channel mixer.
#[derive(Clone, Debug)]
pub struct ChannelMix(ChannelMixWeights);

impl ChannelMix {
    /// A mixer of weights that fit one another.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`].
    pub fn new(weights: ChannelMixWeights) -> Result<Self> {
        let (hidden, width) = (weights.key.out_features(), weights.key.in_features());
        weights.key_shift.expect_channels(width)?;
        expect::projection("value of a channel mixer", &weights.value, width, hidden)?;
        if let Some(gate) = &weights.receptance {
            gate.shift.expect_channels(width)?;
            expect::projection("receptance of a channel mixer", &gate.projection, width, width)?;
        }
        Ok(Self(weights))
    }
}

impl Mixer for ChannelMix {
    fn start(&self, _layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let tap = Tensor::zeros([batch, self.0.key_shift.channels(), 1], device);
        MixerState::Recurrent(RecurrentState::start(vec![tap], &[], chain, batch, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let previous = state.recurrent()?.conv_state(0)?;
        let weights = &self.0;
        let hidden = |key: Tensor<3>| -> Result<Tensor<3>> {
            weights.value.forward(squared_relu(weights.key.forward(key)?))
        };
        match &weights.receptance {
            None => {
                let [key] = interpolate([&weights.key_shift], &input, previous)?;
                hidden(key)
            }
            Some(gate) => {
                let [key, receptance] = interpolate([&weights.key_shift, &gate.shift], &input, previous)?;
                Ok(sigmoid_gate(gate.projection.forward(receptance)?, hidden(key)?))
            }
        }
    }
}
