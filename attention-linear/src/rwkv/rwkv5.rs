//! Time mixing of RWKV-5.2: matrix-valued states with a constant decay per key row.
//!
//! ```text
//! y_t = r_tᵀ (S_{t−1} + (u ∘ k_t) v_tᵀ)          S_t = diag(w) S_{t−1} + k_t v_tᵀ          w = exp(−exp(time_decay))
//! out = W_o (GroupNorm(y) ∘ SiLU(g))
//! ```
//!
//! Source: Peng et al., *Eagle and Finch* (2404.05892), section 4.1.

use super::gated_heads::{GatedHeads, Shifted, site, start};
use super::heads::HeadShape;
use super::shift::{TokenShift, interpolate};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::{Chain, Context, LogDecay, Mixer, MixerState, Result, Site};

/// The weights of a time mixer of RWKV-5.
#[derive(Clone, Debug)]
pub struct Rwkv5Weights {
    /// Interpolation that the receptance reads.
    pub receptance_shift: TokenShift,
    /// Interpolation that the key reads.
    pub key_shift: TokenShift,
    /// Interpolation that the value reads.
    pub value_shift: TokenShift,
    /// Interpolation that the gate reads.
    pub gate_shift: TokenShift,
    /// Projections, bonus and norm.
    pub heads: GatedHeads,
    /// `[heads, key_dim]`; the log decay is −e^time_decay.
    pub time_decay: Tensor<2>,
}

/// One time mixer of RWKV-5.
#[derive(Clone, Debug)]
pub struct Rwkv5 {
    shape: HeadShape,
    weights: Rwkv5Weights,
    log_decay: Tensor<2>,
}

impl Rwkv5 {
    /// A mixer of weights that fit its shape.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] for a weight of another shape, [`ssm_core::Error::Value`] for a dimension of 0 or a
    /// negative ε.
    pub fn new(shape: HeadShape, weights: Rwkv5Weights) -> Result<Self> {
        weights.heads.validate(&shape)?;
        for shift in [
            &weights.receptance_shift,
            &weights.key_shift,
            &weights.value_shift,
            &weights.gate_shift,
        ] {
            shift.expect_channels(shape.model_dim)?;
        }
        let expected = [shape.heads, shape.key_dim];
        expect::shape("time_decay", &expected, &weights.time_decay.dims())?;
        Ok(Self {
            log_decay: weights.time_decay.clone().exp().neg(),
            shape,
            weights,
        })
    }
}

impl Mixer for Rwkv5 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![site(&self.shape, layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        start(
            self.shape.model_dim,
            site(&self.shape, layer),
            batch,
            chain,
            device,
        )
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let weights = &self.weights;
        let [receptance, key, value, gate] = interpolate(
            [
                &weights.receptance_shift,
                &weights.key_shift,
                &weights.value_shift,
                &weights.gate_shift,
            ],
            &input,
            state.conv_state(0)?,
        )?;
        let shifted = Shifted {
            receptance,
            key,
            value,
            gate,
        };
        let log_decay = LogDecay::PerKey(self.log_decay.clone());
        weights
            .heads
            .forward(&self.shape, shifted, log_decay, state, context)
    }

    /// Decay, write and read of every state element.
    fn flops_per_token(&self) -> u64 {
        6 * self.shape.state_len()
    }
}
