//! A mixer whose output is normalised before it is added to the residual stream: r ← r + norm(mixer(r)).

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::{Chain, Context, Mixer, MixerState, Result, Site};

use crate::network::Norm;

/// A mixer and the norm after it.
#[derive(Clone, Debug)]
pub(crate) struct NormedOutput {
    pub(crate) mixer: Arc<dyn Mixer>,
    pub(crate) norm: Norm,
}

impl Mixer for NormedOutput {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.mixer.sites(layer)
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        self.mixer.start(layer, batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        self.norm.normed(self.mixer.forward(input, state, context)?)
    }

    fn sees_later_tokens(&self) -> bool {
        self.mixer.sees_later_tokens()
    }

    fn flops_per_token(&self) -> u64 {
        self.mixer.flops_per_token()
    }

    fn cache_bytes_per_token(&self) -> u64 {
        self.mixer.cache_bytes_per_token()
    }
}
