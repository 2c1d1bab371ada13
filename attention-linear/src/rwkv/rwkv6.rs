//! Time mixing of RWKV-6: RWKV-5's recurrence with interpolations and decays that depend on the input.
//!
//! ```text
//! Δ_t = x_{t−1} − x_t          h = tanh(D (x + μ ∘ Δ)), cut into one part per interpolation n ∈ {w, k, v, r, g}
//! x̃ⁿ = x + (μⁿ + Uⁿ hⁿ) ∘ Δ          log w_t = −exp(time_decay + U tanh(D x̃ʷ))
//! ```
//!
//! Source: Peng et al., *Eagle and Finch* (2404.05892), section 4.2.

use super::dynamic_shift::{DynamicShift, FreshShares};
use super::fresh::Depth;
use super::gated_heads::GatedHeads;
use super::heads::HeadShape;
use super::low_rank::{LowRank, LowRankActivation, LowRankShape};
use super::shift::{TokenShift, start};
use super::source::RwkvSource;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::exp;
use spillway_ssm_core::{Chain, Context, LogDecay, Mixer, MixerState, Result, Site};

/// The shape of a time mixer of RWKV-6.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rwkv6Config {
    /// Number and widths of the mixer's heads.
    pub shape: HeadShape,
    /// Rank of each of the five interpolations.
    pub mix_rank: usize,
    /// Rank of the decay.
    pub decay_rank: usize,
    /// ε of the norm of the heads' read-outs.
    pub norm_eps: f32,
    /// The mixer's layer, and how many layers the model has.
    pub depth: Depth,
}

/// One time mixer of RWKV-6.
#[derive(Clone, Debug)]
pub struct Rwkv6 {
    shape: HeadShape,
    /// time_decay (the bias) and its dependence on the input.
    decay: LowRank,
    shift: DynamicShift,
    heads: GatedHeads,
    difference: TokenShift,
}

impl Rwkv6 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `decay` | `model_dim` to keys, of low rank, with tanh between; the offset is time_decay |
    /// | `shift` | see [`DynamicShift::read`] |
    /// | `receptance`, `key` | keys × `model_dim` |
    /// | `value`, `gate` | values × `model_dim` |
    /// | `output` | `model_dim` × values |
    /// | `bonus`, u | heads × `key_dim` |
    /// | `ln_x.weight`, `ln_x.bias` | values |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε, or two interpolations of one part; the source's for a
    /// tensor that is missing or of another shape.
    pub fn read<S: RwkvSource>(config: Rwkv6Config, source: &mut S) -> Result<Self, S::Error> {
        let Rwkv6Config {
            shape,
            mix_rank,
            decay_rank,
            norm_eps,
            depth,
        } = config;
        shape.validate()?;
        let width = shape.model_dim;
        let of_decay = LowRankShape {
            in_features: width,
            rank: decay_rank,
            out_features: shape.keys(),
            activation: LowRankActivation::Tanh,
        };
        let fresh = FreshShares {
            input: depth.share_of_keys(0.0),
            decay: depth.share_of_keys(0.0),
            key: depth.share_of_keys(0.0),
            value: depth.share_of_keys(0.3 * depth.ratio()),
            receptance: depth.share_of_gates(),
            gate: depth.share_of_gates(),
        };
        let decay = source.low_rank("decay", of_decay, Some(depth.time_decay()))?;
        let shift = source.dynamic_shift([width, mix_rank], fresh)?;
        shift.validate()?;
        let heads = GatedHeads::read(&shape, norm_eps, depth, source)?;
        Ok(Self {
            shape,
            decay,
            shift,
            difference: TokenShift::difference(width, &heads.device()),
            heads,
        })
    }
}

impl Mixer for Rwkv6 {
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
        let (decay, shifted) = self
            .shift
            .interpolate(&self.difference, &input, state.conv_state(0)?)?;
        let log_decay = exp(self.decay.forward(decay)?).neg();
        let log_decay = LogDecay::PerKeyToken(self.shape.split_keys(log_decay));
        self.heads
            .forward(&self.shape, shifted, log_decay, state, context)
    }

    /// Decay, write and read of every state element.
    fn flops_per_token(&self) -> u64 {
        6 * self.shape.state_len()
    }
}
