//! What RWKV-5 and RWKV-6 do with their shifted inputs.

use super::fresh::Depth;
use super::heads::{HeadNorm, HeadShape};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{
    Context, Gates, Init, Linear, LogDecay, ReadOut, RecurrentState, Result, WeightSource,
};

/// The inputs of the four projections, each `[batch, time, model_dim]`.
pub(super) struct Shifted {
    pub(super) receptance: Tensor<3>,
    pub(super) key: Tensor<3>,
    pub(super) value: Tensor<3>,
    pub(super) gate: Tensor<3>,
}

/// Projections, bonus and norm of RWKV-5 and RWKV-6:
///
/// ```text
/// y_t = r_tᵀ (S_{t−1} + (u ∘ k_t) v_tᵀ)          S_t = diag(w_t) S_{t−1} + k_t v_tᵀ          out = W_o (norm(y) ∘ SiLU(g))
/// ```
#[derive(Clone, Debug)]
pub(super) struct GatedHeads {
    /// The projection to r, `[keys, model_dim]`.
    receptance: Linear,
    /// The projection to k, `[keys, model_dim]`.
    key: Linear,
    /// The projection to v, `[values, model_dim]`.
    value: Linear,
    /// The projection to g, before its SiLU, `[values, model_dim]`.
    gate: Linear,
    /// W_o, the projection of the gated read-outs, `[model_dim, values]`.
    output: Linear,
    /// u, `[heads, key_dim]`: what the current token's key is multiplied by.
    bonus: Tensor<2>,
    /// The norm of the heads' read-outs.
    norm: HeadNorm,
}

impl GatedHeads {
    /// `receptance` and `key` (keys × `model_dim`), `value` and `gate` (values × `model_dim`), `output` (`model_dim` × values),
    /// `bonus` (heads × `key_dim`), and the norm `ln_x` (values).
    pub(super) fn read<S: WeightSource>(
        shape: &HeadShape,
        norm_eps: f32,
        depth: Depth,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
        // Falling over the channels.
        let fresh_bonus = Init::Ramp {
            from: depth.ratio(),
            to: 0.0,
            power: 1.0,
        };
        Ok(Self {
            receptance: source.linear("receptance", [keys, width], false)?,
            key: source.linear("key", [keys, width], false)?,
            value: source.linear("value", [values, width], false)?,
            gate: source.linear("gate", [values, width], false)?,
            output: source.linear("output", [width, values], false)?,
            bonus: source.tensor("bonus", [shape.heads, shape.key_dim], fresh_bonus)?,
            norm: HeadNorm::read(shape, norm_eps, Init::Ones, source)?,
        })
    }

    pub(super) fn device(&self) -> Device {
        self.bonus.device()
    }

    pub(super) fn forward(
        &self,
        shape: &HeadShape,
        shifted: Shifted,
        log_decay: LogDecay,
        state: &mut RecurrentState,
        context: &Context<'_>,
    ) -> Result<Tensor<3>> {
        let gates = Gates {
            log_decay,
            read_out: ReadOut::Bonus(self.bonus.clone()),
            ..Gates::new(
                shape.split_keys(self.receptance.forward(shifted.receptance)?),
                shape.split_keys(self.key.forward(shifted.key)?),
                shape.split_values(self.value.forward(shifted.value)?),
            )
        };
        let gate = self.gate.forward(shifted.gate)?;
        let site = shape.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(self.norm.forward(read_out, Some(gate))?)
    }
}
