//! Token shift: an interpolation of the current and the previous token, with a weight per channel.
//!
//! ```text
//! x̃_t = μ ∘ x_{t−1} + (1 − μ) ∘ x_t
//! ```
//!
//! which is a causal convolution of width 2. Checkpoints of RWKV-4 and 5 store 1 − μ, the share of the current token
//! (`time_mix`); those of RWKV-6 and 7 store μ (`time_maa`, `x_*`).

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::causal_conv1d;
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::{Chain, MixerState, RecurrentState, Result, Sequences, Site};

/// The weights of an interpolation with the previous token.
#[derive(Clone, Debug)]
pub struct TokenShift {
    /// Weights of the convolution, `[channels, 2]`: μ, the share of the previous token, and 1 − μ, that of the current one.
    weight: Tensor<2>,
}

impl TokenShift {
    /// The shift of 1 − μ = `share`, the share of the current token, `[channels]` (RWKV-4, RWKV-5).
    pub fn of_current(share: Tensor<1>) -> Self {
        Self::of(share.clone().neg().add_scalar(1.0), share)
    }

    /// The shift of μ = `share`, the share of the previous token, `[channels]` (RWKV-6, RWKV-7).
    pub fn of_previous(share: Tensor<1>) -> Self {
        Self::of(share.clone(), share.neg().add_scalar(1.0))
    }

    /// x_{t−1} − x_t, which an interpolation with weights of its own per token adds a part of.
    pub fn difference(channels: usize, device: &Device) -> Self {
        Self::of(
            Tensor::ones([channels], device),
            Tensor::full([channels], -1.0, device),
        )
    }

    fn of(previous: Tensor<1>, current: Tensor<1>) -> Self {
        Self {
            weight: Tensor::stack(vec![previous, current], 1),
        }
    }

    /// Channels that this is for.
    pub fn channels(&self) -> usize {
        self.weight.dims()[0]
    }
}

/// The interpolations of `input` `[batch, time, channels]`; `tap` `[batch, channels, 1]` is the token before it, and its last
/// token afterwards.
pub(super) fn interpolate<const N: usize>(
    shifts: [&TokenShift; N],
    input: &Tensor<3>,
    tap: &mut Tensor<3>,
) -> Result<[Tensor<3>; N]> {
    let mut carried = tap.clone();
    let mut shifted = Vec::with_capacity(N);
    for shift in shifts {
        carried = tap.clone();
        shifted.push(causal_conv1d(
            input.clone(),
            shift.weight.clone(),
            None,
            Activation::None,
            &Sequences::Equal,
            &mut carried,
        )?);
    }
    *tap = carried;
    let Ok(shifted) = <[Tensor<3>; N]>::try_from(shifted) else {
        unreachable!("one result was pushed per shift");
    };
    Ok(shifted)
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
