//! A layer's state cut from the graph that made it, and moved between devices.
//!
//! Training carries states from one segment of a text to the next. Between segments the graph may be cut
//! ([`MixerState::detach`]), and from step to step states are kept without any autodiff at all ([`MixerState::to_device`] with
//! the inner device). Interventions have no part in this: their states say nothing of gradients, and are refused.

use super::{KeyValueCache, MixerState, RecurrentState};
use crate::error::{Error, Result};
use crate::intervention::SiteState;
use crate::intervention::{InterventionState, NoState};
use crate::state::State;
use burn::tensor::{Device, Tensor};

/// What becomes of every tensor of a state.
#[derive(Clone, Copy)]
enum Destination<'a> {
    Detached,
    On(&'a Device),
}

impl Destination<'_> {
    fn put<const D: usize>(self, tensor: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Detached => tensor.detach(),
            Self::On(device) => on_device(tensor, device),
        }
    }
}

/// The values of `tensor` on `device`, as a constant: whatever graph made them is left behind.
///
/// To an autodiff device from its inner one, and back, nothing is copied.
pub fn on_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    let inner = device.clone().inner();
    let mut tensor = tensor.inner();
    if tensor.device() != inner {
        tensor = tensor.to_device(&inner);
    }
    match device.gradient_checkpointing_strategy() {
        None => tensor,
        // Operands of one operation must agree on how their graph is checkpointed.
        Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
    }
}

impl MixerState {
    /// The same state as a constant of the same device: gradients of what follows stop here, and what came before may be freed.
    /// This is the cut of truncated back-propagation through time.
    ///
    /// # Errors
    /// [`Error::Value`] for a state that carries what an intervention remembers.
    pub fn detach(self) -> Result<Self> {
        self.placed(Destination::Detached)
    }

    /// The same state as a constant of `device`, be that the other side of autodiff or another machine.
    ///
    /// # Errors
    /// As [`MixerState::detach`].
    pub fn to_device(self, device: &Device) -> Result<Self> {
        self.placed(Destination::On(device))
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

    fn placed(self, place: Destination<'_>) -> Result<Self> {
        Ok(match self {
            Self::Recurrent(state) => Self::Recurrent(state.placed(place)?),
            Self::Attention(cache) => Self::Attention(cache.placed(place)),
            Self::Several(parts) => {
                let parts = parts.into_iter().map(|part| part.placed(place));
                Self::Several(parts.collect::<Result<_>>()?)
            }
            Self::Stateless => Self::Stateless,
        })
    }
}

impl RecurrentState {
    fn placed(self, place: Destination<'_>) -> Result<Self> {
        let recurrences = self.recurrences.into_iter();
        Ok(Self {
            conv_states: self
                .conv_states
                .into_iter()
                .map(|conv_state| place.put(conv_state))
                .collect(),
            systems: self.systems.into_iter().map(|system| place.put(system)).collect(),
            carried: self.carried.into_iter().map(|tensor| place.put(tensor)).collect(),
            recurrences: recurrences
                .map(|recurrence| recurrence.placed(place))
                .collect::<Result<_>>()?,
        })
    }
}

impl SiteState {
    fn placed(mut self, place: Destination<'_>) -> Result<Self> {
        expect_nothing_remembered(&mut self.interventions)?;
        Ok(Self {
            state: State {
                memory: place.put(self.state.memory),
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
    fn placed(self, place: Destination<'_>) -> Self {
        Self {
            keys: place.put(self.keys),
            values: place.put(self.values),
            lengths: self.lengths,
            window: self.window,
            conv_state: self.conv_state.map(|conv_state| place.put(conv_state)),
        }
    }
}
