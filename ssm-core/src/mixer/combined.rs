//! Mixers made of mixers: one whose output is multiplied by a constant, and several side by side on one input.

use super::{Context, Mixer, MixerState};
use crate::error::Result;
use crate::intervention::{Chain, Site};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// A mixer with a factor on its output: c · mixer(x).
#[derive(Clone, Debug)]
pub struct Scaled {
    /// The mixer whose output is multiplied.
    pub mixer: Arc<dyn Mixer>,
    /// c, the factor on the mixer's output.
    pub factor: f32,
}

impl Scaled {
    /// c · `mixer`; the mixer itself where c is 1.
    pub fn by(factor: f32, mixer: Arc<dyn Mixer>) -> Arc<dyn Mixer> {
        match factor == 1.0 {
            true => mixer,
            false => Arc::new(Self { mixer, factor }),
        }
    }
}

impl Mixer for Scaled {
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
        let mixed = self.mixer.forward(input, state, context)?;
        Ok(mixed.mul_scalar(self.factor))
    }

    fn sees_later_tokens(&self) -> bool {
        self.mixer.sees_later_tokens()
    }

    fn reads_embedding(&self) -> bool {
        self.mixer.reads_embedding()
    }

    fn flops_per_token(&self) -> u64 {
        self.mixer.flops_per_token()
    }

    fn cache_bytes_per_token(&self) -> u64 {
        self.mixer.cache_bytes_per_token()
    }
}

/// One of two mixers side by side: output · mixer(input · x).
#[derive(Clone, Debug)]
pub struct Branch {
    /// The mixer of this branch.
    pub mixer: Arc<dyn Mixer>,
    /// Factor on what it reads.
    pub input: f32,
    /// Factor on what it gives.
    pub output: f32,
}

/// The sum of two mixers of one input, of which one at most has recurrences.
#[derive(Clone, Debug)]
pub struct Parallel(pub [Branch; 2]);

impl Mixer for Parallel {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.0
            .iter()
            .flat_map(|branch| branch.mixer.sites(layer))
            .collect()
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let start = |branch: &Branch| branch.mixer.start(layer, batch, chain, device);
        MixerState::Several(self.0.iter().map(start).collect())
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [first, second] = state.parts::<2>()?;
        let [one, other] = &self.0;
        let mixed = one.forward(input.clone(), first, context)?;
        Ok(mixed + other.forward(input, second, context)?)
    }

    fn flops_per_token(&self) -> u64 {
        self.0.iter().map(|branch| branch.mixer.flops_per_token()).sum()
    }

    fn cache_bytes_per_token(&self) -> u64 {
        self.0
            .iter()
            .map(|branch| branch.mixer.cache_bytes_per_token())
            .sum()
    }
}

impl Branch {
    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let mixed = self.mixer.forward(scaled(input, self.input), state, context)?;
        Ok(scaled(mixed, self.output))
    }
}

fn scaled(tensor: Tensor<3>, factor: f32) -> Tensor<3> {
    match factor == 1.0 {
        true => tensor,
        false => tensor.mul_scalar(factor),
    }
}
