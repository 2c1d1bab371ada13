//! A layer's state cut from the graph that made it, and moved between devices.
//!
//! Training carries states from one segment of a text to the next. Between segments the graph may be cut ([`MixerState::detach`]), and
//! from step to step states are kept without any autodiff at all ([`MixerState::to_device`] with the inner device). Gradients that are
//! taken stretch by stretch make leaves of a state's tensors ([`MixerState::map`]). Interventions have no part in this: their states say
//! nothing of gradients, and are refused.

use super::{KeyValueCache, MixerState, RecurrentState};
use crate::error::{Error, Result};
use crate::intervention::SiteState;
use crate::intervention::{InterventionState, NoState};
use crate::state::State;
use crate::tensor_map::{Constants, TensorMap};
use burn::tensor::{Device, Tensor};

/// Every tensor as a constant of its device.
struct Detached;

impl TensorMap for Detached {
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        tensor.detach()
    }
}

impl MixerState {
    /// The same state as a constant of the same device: gradients of what follows stop here, and what came before may be freed.
    /// This is the cut of truncated back-propagation through time.
    ///
    /// # Errors
    /// [`Error::Value`] for a state that carries what an intervention remembers.
    pub fn detach(self) -> Result<Self> {
        self.map(&mut Detached)
    }

    /// The same state as a constant of `device`, be that the other side of autodiff or another machine.
    ///
    /// # Errors
    /// As [`MixerState::detach`].
    pub fn to_device(self, device: &Device) -> Result<Self> {
        self.map(&mut Constants(device))
    }

    /// Where the state is; `None` where there is none.
    pub fn device(&self) -> Option<Device> {
        match self {
            Self::Recurrent(state) => {
                let conv_states = state.conv_states.first().map(Tensor::device);
                let systems = || state.systems.first().map(Tensor::device);
                let carried = || state.carried.first().map(Tensor::device);
                let recurrences = || {
                    let recurrence = state.recurrences.first();
                    recurrence.map(|recurrence| recurrence.state.memory.device())
                };
                conv_states.or_else(systems).or_else(carried).or_else(recurrences)
            }
            Self::Attention(cache) => Some(cache.keys.device()),
            Self::Several(parts) => parts.iter().find_map(Self::device),
            Self::Stateless => None,
        }
    }

    /// The state with every tensor mapped, in an order that is the same for all states of a mixer: taps, linear state spaces, whatever
    /// else is carried and recurrences; keys, values and taps of attention; part by part.
    ///
    /// # Errors
    /// As [`MixerState::detach`].
    pub fn map(self, change: &mut impl TensorMap) -> Result<Self> {
        Ok(match self {
            Self::Recurrent(state) => Self::Recurrent(state.map(change)?),
            Self::Attention(cache) => Self::Attention(cache.map(change)),
            Self::Several(parts) => {
                let parts = parts.into_iter().map(|part| part.map(change));
                Self::Several(parts.collect::<Result<_>>()?)
            }
            Self::Stateless => Self::Stateless,
        })
    }
}

impl RecurrentState {
    fn map(self, change: &mut impl TensorMap) -> Result<Self> {
        let conv_states = self
            .conv_states
            .into_iter()
            .map(|taps| change.map(taps))
            .collect();
        let systems = self
            .systems
            .into_iter()
            .map(|system| change.map(system))
            .collect();
        let carried = self
            .carried
            .into_iter()
            .map(|tensor| change.map(tensor))
            .collect();
        let recurrences = self.recurrences.into_iter();
        Ok(Self {
            conv_states,
            systems,
            carried,
            recurrences: recurrences
                .map(|recurrence| recurrence.map(change))
                .collect::<Result<_>>()?,
        })
    }
}

impl SiteState {
    fn map(mut self, change: &mut impl TensorMap) -> Result<Self> {
        expect_nothing_remembered(&mut self.interventions)?;
        Ok(Self {
            state: State {
                memory: change.map(self.state.memory),
                position: self.state.position,
            },
            interventions: self.interventions,
        })
    }
}

fn expect_nothing_remembered(states: &mut [Box<dyn InterventionState>]) -> Result<()> {
    for own in states {
        if !own.as_any_mut().is::<NoState>() {
            return Err(Error::Value {
                what: "state to be cut from its graph",
                expected: "that of the plain model: start it without interventions that remember something",
                found: format!("{own:?}"),
            });
        }
    }
    Ok(())
}

impl KeyValueCache {
    fn map(self, change: &mut impl TensorMap) -> Self {
        Self {
            keys: change.map(self.keys),
            values: change.map(self.values),
            lengths: self.lengths,
            window: self.window,
            conv_state: self.conv_state.map(|conv_state| change.map(conv_state)),
        }
    }
}
