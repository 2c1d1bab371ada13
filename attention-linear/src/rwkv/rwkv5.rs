//! Time mixing of RWKV-5.2: matrix-valued states with a constant decay per key row.
//!
//! ```text
//! y_t = r_tᵀ (S_{t−1} + (u ∘ k_t) v_tᵀ)          S_t = diag(w) S_{t−1} + k_t v_tᵀ          w = exp(−exp(time_decay))
//! out = W_o (GroupNorm(y) ∘ SiLU(g))
//! ```
//!
//! Source: Peng et al., *Eagle and Finch* (2404.05892), section 4.1.

use super::fresh::Depth;
use super::gated_heads::{GatedHeads, Shifted};
use super::heads::HeadShape;
use super::shift::{TokenShift, interpolate, start};
use super::source::RwkvSource;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Chain, Context, LogDecay, Mixer, MixerState, Result, Site};

/// The shape of a time mixer of RWKV-5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rwkv5Config {
    /// Number and widths of the mixer's heads.
    pub shape: HeadShape,
    /// ε of the norm of the heads' read-outs.
    pub norm_eps: f32,
    /// The mixer's layer, and how many layers the model has.
    pub depth: Depth,
}

/// One time mixer of RWKV-5.
#[derive(Clone, Debug)]
pub struct Rwkv5 {
    shape: HeadShape,
    receptance_shift: TokenShift,
    key_shift: TokenShift,
    value_shift: TokenShift,
    gate_shift: TokenShift,
    heads: GatedHeads,
    /// ln w, `[heads, key_dim]`.
    log_decay: Tensor<2>,
}

impl Rwkv5 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `key_shift`, `value_shift`, `receptance_shift`, `gate_shift` | interpolations of `model_dim` |
    /// | `receptance`, `key` | keys × `model_dim` |
    /// | `value`, `gate` | values × `model_dim` |
    /// | `output` | `model_dim` × values |
    /// | `bonus`, u | heads × `key_dim` |
    /// | `ln_x.weight`, `ln_x.bias` | values |
    /// | `time_decay` | heads × `key_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of another
    /// shape.
    pub fn read<S: RwkvSource>(config: Rwkv5Config, source: &mut S) -> Result<Self, S::Error> {
        let Rwkv5Config {
            shape,
            norm_eps,
            depth,
        } = config;
        shape.validate()?;
        let width = shape.model_dim;
        Ok(Self {
            shape,
            key_shift: source.shift("key_shift", width, depth.share_of_keys(0.0))?,
            value_shift: source.shift("value_shift", width, depth.share_of_keys(0.3 * depth.ratio()))?,
            receptance_shift: source.shift("receptance_shift", width, depth.share_of_gates())?,
            gate_shift: source.shift("gate_shift", width, depth.share_of_gates())?,
            heads: GatedHeads::read(&shape, norm_eps, depth, source)?,
            log_decay: source
                .tensor("time_decay", [shape.heads, shape.key_dim], depth.time_decay())?
                .exp()
                .neg(),
        })
    }
}

impl Mixer for Rwkv5 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.shape.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        start(self.shape.model_dim, self.shape.site(layer), batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let [receptance, key, value, gate] = interpolate(
            [
                &self.receptance_shift,
                &self.key_shift,
                &self.value_shift,
                &self.gate_shift,
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
        self.heads
            .forward(&self.shape, shifted, log_decay, state, context)
    }

    /// Decay, write and read of every state element.
    fn flops_per_token(&self) -> u64 {
        6 * self.shape.state_len()
    }
}
