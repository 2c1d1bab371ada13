//! What a layer carries from token to token, and its saved form.

use super::KeyValueCache;
use crate::error::{Error, Result};
use crate::intervention::SiteState;
use crate::intervention::{Chain, Site};
use crate::state::State;
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::collections::BTreeMap;

/// What one mixer carries.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists per layer; a box would cost more"
)]
pub enum MixerState {
    /// States of fixed size.
    Recurrent(RecurrentState),
    /// Keys and values of past tokens.
    Attention(KeyValueCache),
    /// What the parts of a mixer carry, in their order; one of them at most has recurrences.
    Several(Vec<Self>),
    /// Nothing is carried from token to token.
    Stateless,
}

/// What short convolutions, token shifts and recurrences carry.
#[derive(Clone, Debug, Default)]
pub struct RecurrentState {
    /// The last `width − 1` inputs of every short convolution, each `[batch, channels, width − 1]`, oldest first. A token shift
    /// is a convolution of width 2.
    pub conv_states: Vec<Tensor<3>>,
    /// The states of linear state spaces, each `[batch, channels, modes, 2]`: real and imaginary parts.
    pub systems: Vec<Tensor<4>>,
    /// Whatever else there is, each `[batch, ·, ·]`: the outputs to come of a long convolution, as far as they are known; hidden states
    /// and memories of cells.
    pub carried: Vec<Tensor<3>>,
    /// The recurrences, one per site.
    pub recurrences: Vec<SiteState>,
}

impl RecurrentState {
    /// These states of convolutions, and an empty state at every site.
    pub fn start(
        conv_states: Vec<Tensor<3>>,
        sites: &[Site],
        chain: &Chain,
        batch: usize,
        device: &Device,
    ) -> Self {
        let start = |site: &Site| SiteState {
            state: site.empty_state(batch, device),
            interventions: chain.start(site, batch, device),
        };
        Self {
            conv_states,
            systems: Vec::new(),
            carried: Vec::new(),
            recurrences: sites.iter().map(start).collect(),
        }
    }

    /// The state of linear state space `index`.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none.
    pub fn system(&mut self, index: usize) -> Result<&mut Tensor<4>> {
        let count = self.systems.len();
        self.systems
            .get_mut(index)
            .ok_or_else(|| foreign(format!("the states of {count} linear state spaces")))
    }

    /// What else is carried, by its index.
    ///
    /// # Errors
    /// [`Error::Value`] when there is nothing.
    pub fn carried(&mut self, index: usize) -> Result<&mut Tensor<3>> {
        let count = self.carried.len();
        self.carried
            .get_mut(index)
            .ok_or_else(|| foreign(format!("{count} tensors that a mixer carries")))
    }

    /// The state of recurrence `index`.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none.
    pub fn recurrence(&mut self, index: usize) -> Result<&mut SiteState> {
        let count = self.recurrences.len();
        self.recurrences
            .get_mut(index)
            .ok_or_else(|| foreign(format!("{count} recurrences")))
    }

    /// The state of convolution `index`.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none.
    pub fn conv_state(&mut self, index: usize) -> Result<&mut Tensor<3>> {
        let count = self.conv_states.len();
        self.conv_states
            .get_mut(index)
            .ok_or_else(|| foreign(format!("the state of {count} convolutions")))
    }
}

fn foreign(found: String) -> Error {
    Error::Value {
        what: "state of a layer",
        expected: "the one that this layer started",
        found,
    }
}

impl MixerState {
    /// The state of a mixer with convolutions and recurrences.
    ///
    /// # Errors
    /// [`Error::Value`] for that of another kind of mixer.
    pub fn recurrent(&mut self) -> Result<&mut RecurrentState> {
        match self {
            Self::Recurrent(state) => Ok(state),
            Self::Attention(_) => Err(foreign("a key-value cache".into())),
            Self::Several(parts) => Err(foreign(format!("the states of {} mixers", parts.len()))),
            Self::Stateless => Err(foreign("nothing".into())),
        }
    }

    /// The cache of an attention mixer.
    ///
    /// # Errors
    /// [`Error::Value`] for the state of another kind of mixer.
    pub fn attention(&mut self) -> Result<&mut KeyValueCache> {
        match self {
            Self::Attention(cache) => Ok(cache),
            Self::Recurrent(_) => Err(foreign("recurrent states".into())),
            Self::Several(parts) => Err(foreign(format!("the states of {} mixers", parts.len()))),
            Self::Stateless => Err(foreign("nothing".into())),
        }
    }

    /// What the parts of a mixer of `N` parts carry.
    ///
    /// # Errors
    /// [`Error::Value`] for the state of another kind of mixer.
    pub fn parts<const N: usize>(&mut self) -> Result<&mut [Self; N]> {
        let found = match self {
            Self::Several(parts) => format!("the states of {} mixers", parts.len()),
            _ => "that of one".into(),
        };
        match self {
            Self::Several(parts) => parts.as_mut_slice().try_into().map_err(|_| foreign(found)),
            _ => Err(foreign(found)),
        }
    }

    /// Whether it holds keys and values of past tokens.
    pub fn attends(&self) -> bool {
        match self {
            Self::Attention(_) => true,
            Self::Several(parts) => parts.iter().any(Self::attends),
            Self::Recurrent(_) | Self::Stateless => false,
        }
    }

    /// Takes the caches of `fresh`, which the same mixer has started; recurrences stay as they are.
    pub fn take_attention_of(&mut self, fresh: Self) {
        match (self, fresh) {
            (Self::Attention(cache), Self::Attention(fresh)) => *cache = fresh,
            (Self::Several(parts), Self::Several(fresh)) => {
                for (part, fresh) in parts.iter_mut().zip(fresh) {
                    part.take_attention_of(fresh);
                }
            }
            _ => {}
        }
    }

    /// [`KeyValueCache::compact`] of every cache in it.
    pub fn compact(&mut self) {
        match self {
            Self::Attention(cache) => cache.compact(),
            Self::Several(parts) => parts.iter_mut().for_each(Self::compact),
            Self::Recurrent(_) | Self::Stateless => {}
        }
    }

    /// The recurrences, in the order of the mixer's sites.
    pub fn recurrences(&self) -> &[SiteState] {
        match self {
            Self::Recurrent(state) => &state.recurrences,
            Self::Several(parts) => {
                let mut recurrences = parts.iter().map(Self::recurrences);
                recurrences.find(|found| !found.is_empty()).unwrap_or(&[])
            }
            Self::Attention(_) | Self::Stateless => &[],
        }
    }

    /// As [`MixerState::recurrences`], to be changed.
    pub fn recurrences_mut(&mut self) -> &mut [SiteState] {
        match self {
            Self::Recurrent(state) => &mut state.recurrences,
            Self::Several(parts) => {
                let mut recurrences = parts.iter_mut().map(Self::recurrences_mut);
                recurrences.find(|found| !found.is_empty()).unwrap_or(&mut [])
            }
            Self::Attention(_) | Self::Stateless => &mut [],
        }
    }

    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Recurrent(state) => {
                let convolutions: usize = state
                    .conv_states
                    .iter()
                    .map(|conv_state| 4 * conv_state.shape().num_elements())
                    .sum();
                let systems: usize = state
                    .systems
                    .iter()
                    .map(|system| 4 * system.shape().num_elements())
                    .sum();
                let carried: usize = state
                    .carried
                    .iter()
                    .map(|tensor| 4 * tensor.shape().num_elements())
                    .sum();
                convolutions
                    + systems
                    + carried
                    + state.recurrences.iter().map(SiteState::bytes).sum::<usize>()
            }
            Self::Attention(cache) => cache.bytes(),
            Self::Several(parts) => parts.iter().map(Self::bytes).sum(),
            Self::Stateless => 0,
        }
    }

    /// Everything needed to go on, by name: `taps.0`, `systems.0`, `carried.0`, `recurrences.0.state`, `recurrences.0.interventions.1.NAME`, `cache.NAME`,
    /// and `parts.0.NAME` of mixers that are made of several.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let mut saved = BTreeMap::new();
        match self {
            Self::Recurrent(state) => {
                for (index, conv_state) in state.conv_states.iter().enumerate() {
                    saved.insert(format!("taps.{index}"), conv_state.to_data());
                }
                for (index, system) in state.systems.iter().enumerate() {
                    saved.insert(format!("systems.{index}"), system.to_data());
                }
                for (index, tensor) in state.carried.iter().enumerate() {
                    saved.insert(format!("carried.{index}"), tensor.to_data());
                }
                for (index, recurrence) in state.recurrences.iter().enumerate() {
                    let name = format!("recurrences.{index}");
                    saved.insert(format!("{name}.state"), recurrence.state.memory.to_data());
                    for (position, own) in recurrence.interventions.iter().enumerate() {
                        let entries = own.save().into_iter();
                        saved.extend(
                            entries.map(|(n, data)| (format!("{name}.interventions.{position}.{n}"), data)),
                        );
                    }
                }
            }
            Self::Attention(cache) => {
                saved.extend(
                    cache
                        .save()
                        .into_iter()
                        .map(|(name, data)| (format!("cache.{name}"), data)),
                );
            }
            Self::Several(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    let entries = part.save().into_iter();
                    saved.extend(entries.map(|(name, data)| (format!("parts.{index}.{name}"), data)));
                }
            }
            Self::Stateless => {}
        }
        saved
    }

    /// Takes up what [`MixerState::save`] gave after `position` tokens; `self` has just been started with the same chain for as
    /// many sequences, at `sites`.
    ///
    /// # Errors
    /// [`Error::Saved`] for an entry that is missing or does not fit.
    pub fn restore(
        &mut self,
        saved: &BTreeMap<String, TensorData>,
        sites: &[Site],
        chain: &Chain,
        position: u64,
    ) -> Result<()> {
        match self {
            Self::Recurrent(state) => {
                for (index, conv_state) in state.conv_states.iter_mut().enumerate() {
                    *conv_state = saved_like(saved, &format!("taps.{index}"), conv_state)?;
                }
                for (index, system) in state.systems.iter_mut().enumerate() {
                    *system = saved_like(saved, &format!("systems.{index}"), system)?;
                }
                for (index, tensor) in state.carried.iter_mut().enumerate() {
                    *tensor = saved_like(saved, &format!("carried.{index}"), tensor)?;
                }
                for (index, (recurrence, site)) in state.recurrences.iter_mut().zip(sites).enumerate() {
                    restore_recurrence(recurrence, saved, index, site, chain, position)?;
                }
                Ok(())
            }
            Self::Attention(cache) => cache.restore(&below(saved, "cache.")),
            Self::Several(parts) => {
                let mut parts = parts.iter_mut().enumerate();
                parts.try_for_each(|(index, part)| {
                    let entries = below(saved, &format!("parts.{index}."));
                    part.restore(&entries, sites, chain, position)
                })
            }
            Self::Stateless => Ok(()),
        }
    }
}

fn restore_recurrence(
    recurrence: &mut SiteState,
    saved: &BTreeMap<String, TensorData>,
    index: usize,
    site: &Site,
    chain: &Chain,
    position: u64,
) -> Result<()> {
    let name = format!("recurrences.{index}");
    let device = recurrence.state.memory.device();
    let memory = saved_like(saved, &format!("{name}.state"), &recurrence.state.memory)?;
    let batch = memory.dims()[0];
    recurrence.state = State { memory, position };
    recurrence.interventions = chain
        .interventions()
        .iter()
        .enumerate()
        .map(|(i, intervention)| {
            let entries = below(saved, &format!("{name}.interventions.{i}."));
            intervention.restore(site, batch, &device, &entries)
        })
        .collect::<Result<_>>()?;
    Ok(())
}

/// The entries whose name starts with `prefix`, without it.
fn below(saved: &BTreeMap<String, TensorData>, prefix: &str) -> BTreeMap<String, TensorData> {
    saved
        .iter()
        .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_string(), data.clone())))
        .collect()
}

/// A saved tensor of exactly the shape of `like`.
fn saved_like<const D: usize>(
    saved: &BTreeMap<String, TensorData>,
    name: &str,
    like: &Tensor<D>,
) -> Result<Tensor<D>> {
    let shape = like.dims();
    let wrong = |found: String| Error::Saved {
        what: name.into(),
        expected: format!("F32 {shape:?}"),
        found,
    };
    let data = saved.get(name).ok_or_else(|| wrong("nothing".into()))?;
    if data.dtype() != DType::F32 || data.shape().as_slice() != shape {
        return Err(wrong(format!("{:?} {:?}", data.dtype(), data.shape().as_slice())));
    }
    let device: Device = like.device();
    Ok(Tensor::from_data(data.clone(), &device))
}
