//! What a model carries from token to token.
//!
//! | module | what is in it |
//! |---|---|
//! | `mod.rs` | [`ModelState`]: cloned, it goes two ways |
//! | `file.rs` | saved, and restored to the bit |
//! | [`history`] | the last few states, to go back to |
//! | [`rewind`] | a state now and then, and the tokens since, to go back to any of them |
//! | [`marks`] | states with the ids that they have read, to go on from |
//! | `batch.rs` | batches divided into their sequences, and joined |
//! | `fingerprint.rs` | what tells one model from another |
//!
//! A clone is cheap: tensors are shared until one of the two states is written, whatever the mixers and interventions.

pub(crate) mod batch;
pub(crate) mod file;
pub(crate) mod fingerprint;
pub mod history;
pub mod marks;
pub mod rewind;

use burn::tensor::Device;
use spillway_ssm_core::{Chain, MixerState, Prefix, Site, SiteState, TensorMap};

use crate::budget::{self, product};
use crate::error::ModelError;

pub use history::History;
pub use marks::{Mark, Marks};
pub use rewind::{Replay, Rewind};

/// What one block carries.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// State of the block's sequence mixer.
    pub mixer: MixerState,
    /// State of the block's channel mixer.
    pub channel: MixerState,
}

impl LayerState {
    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        self.mixer.bytes() + self.channel.bytes()
    }

    /// [`MixerState::compact`] of both.
    pub(crate) fn compact(&mut self) {
        self.mixer.compact();
        self.channel.compact();
    }

    /// [`MixerState::map`] of both, the sequence mixer's first.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn map(self, change: &mut impl TensorMap) -> Result<Self, ModelError> {
        Ok(Self {
            mixer: self.mixer.map(change)?,
            channel: self.channel.map(change)?,
        })
    }
}

/// The state of every layer.
///
/// A clone is a fork: both go on from here, each its own way, and the tensors are shared until one of them is written.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// State of every layer, first layer first.
    pub layers: Vec<LayerState>,
    pub(crate) chain: Chain,
    pub(crate) positions: Vec<u64>,
    /// What of the next call is a prefix; no part of a saved state.
    pub(crate) prefix: Option<Prefix>,
}

impl ModelState {
    /// The interventions that this state was started with, and that the states of interventions in it belong to.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Tokens seen by the sequence that has seen most.
    pub fn position(&self) -> u64 {
        self.positions.iter().copied().max().unwrap_or(0)
    }

    /// Tokens seen, per sequence.
    pub fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// Number of sequences whose state this is.
    pub fn batch(&self) -> usize {
        self.positions.len()
    }

    /// Lets the first tokens of the next call be a prefix, which layers with an encoder read both ways: every token of the call, and
    /// all that follow, see all of them. Other layers read them as any tokens. Without a prefix, a layer with an encoder is causal.
    ///
    /// What is foretold within a prefix has been seen, so losses of a call that reads one are refused.
    pub fn read_both_ways(&mut self, prefix: Prefix) {
        self.prefix = Some(prefix).filter(|prefix| prefix.tokens() > 0);
    }

    /// What of the next call is a prefix.
    pub fn prefix(&self) -> Option<&Prefix> {
        self.prefix.as_ref()
    }

    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }

    /// Takes keys and values of past tokens from `fresh`, a state that the same model has started under the same chain; everything
    /// else goes on, positions included.
    pub(crate) fn take_attention_of(&mut self, fresh: Self) {
        for (layer, fresh) in self.layers.iter_mut().zip(fresh.layers) {
            layer.mixer.take_attention_of(fresh.mixer);
            layer.channel.take_attention_of(fresh.channel);
        }
    }

    /// The recurrences of all layers, in the order of [`crate::Info::sites`].
    pub fn recurrences(&self) -> impl Iterator<Item = &SiteState> {
        self.layers.iter().flat_map(|layer| layer.mixer.recurrences())
    }

    /// As [`ModelState::recurrences`], to be changed.
    pub fn recurrences_mut(&mut self) -> impl Iterator<Item = &mut SiteState> {
        self.layers
            .iter_mut()
            .flat_map(|layer| layer.mixer.recurrences_mut())
    }

    /// This state as a constant: no gradient goes through it.
    ///
    /// # Errors
    /// [`ModelError::Layer`] for a state that carries what an intervention remembers.
    pub fn detach(self) -> Result<Self, ModelError> {
        self.map(MixerState::detach)
    }

    /// This state as a constant of `device`: of an autodiff device to go on training, of its inner one to be kept.
    ///
    /// # Errors
    /// As [`ModelState::detach`].
    pub fn to_device(self, device: &Device) -> Result<Self, ModelError> {
        self.map(|state| state.to_device(device))
    }

    /// Where the state is; `None` where no layer has one.
    pub fn device(&self) -> Option<Device> {
        let parts = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.mixer, &layer.channel]);
        parts.filter_map(MixerState::device).next()
    }

    fn map(
        self,
        change: impl Fn(MixerState) -> spillway_ssm_core::Result<MixerState>,
    ) -> Result<Self, ModelError> {
        let layers = self.layers.into_iter().map(|layer| {
            Ok(LayerState {
                mixer: change(layer.mixer)?,
                channel: change(layer.channel)?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_, ModelError>>()?,
            chain: self.chain,
            positions: self.positions,
            prefix: self.prefix,
        })
    }
}

/// Memory of one sequence's state in the recurrences, which follows from the configuration alone.
pub(crate) fn states_at_least(sites: &[Site]) -> Option<u64> {
    budget::sum(sites.iter().map(|site| {
        let [_, heads, rows, columns] = site.state_shape(1).map(|size| size as u64);
        product([heads, rows, columns, 4])
    }))
}

/// Asks for the memory of the states of `batch` sequences.
pub(crate) fn ask_for_states(bytes: Option<u64>, batch: usize) -> Result<(), ModelError> {
    let what = match batch {
        1 => "the states of one sequence".to_string(),
        batch => format!("the states of {batch} sequences"),
    };
    let bytes = bytes.and_then(|bytes| product([bytes, batch as u64]));
    Ok(budget::ask(
        &what,
        bytes,
        "run fewer sequences side by side, or a smaller model",
    )?)
}
