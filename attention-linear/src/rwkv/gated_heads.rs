//! What RWKV-5 and RWKV-6 do with their shifted inputs.

use super::heads::{HeadNorm, HeadShape};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::{Chain, Context, Gates, Linear, LogDecay, MixerState, ReadOut, RecurrentState, Result, Site};

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
pub struct GatedHeads {
    /// r, `[keys, model_dim]`.
    pub receptance: Linear,
    /// k, `[keys, model_dim]`.
    pub key: Linear,
    /// v, `[values, model_dim]`.
    pub value: Linear,
    /// g, `[values, model_dim]`.
    pub gate: Linear,
    /// W_o, `[model_dim, values]`.
    pub output: Linear,
    /// u, `[heads, key_dim]`: what the current token's key is multiplied by.
    pub bonus: Tensor<2>,
    /// The norm of the heads' read-outs.
    pub norm: HeadNorm,
}

impl GatedHeads {
    pub(super) fn validate(&self, shape: &HeadShape) -> Result<()> {
        shape.validate()?;
        let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
        expect::projection("receptance", &self.receptance, keys, width)?;
        expect::projection("key", &self.key, keys, width)?;
        expect::projection("value", &self.value, values, width)?;
        expect::projection("gate", &self.gate, values, width)?;
        expect::projection("output", &self.output, width, values)?;
        expect::shape("bonus", &[shape.heads, shape.key_dim], &self.bonus.dims())?;
        self.norm.validate(shape)
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
        let site = site(shape, context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(self.norm.forward(read_out, Some(gate))?)
    }
}

pub(super) fn site(shape: &HeadShape, layer: usize) -> Site {
    Site {
        per_key_decay: true,
        ..Site::weighted_sum(layer, shape.heads, shape.key_dim, shape.value_dim)
    }
}

/// No token before the first, and an empty state at `site`.
pub(super) fn start(
    model_dim: usize,
    site: Site,
    batch: usize,
    chain: &Chain,
    device: &Device,
) -> MixerState {
    let tap = Tensor::zeros([batch, model_dim, 1], device);
    MixerState::Recurrent(RecurrentState::start(vec![tap], &[site], chain, batch, device))
}
