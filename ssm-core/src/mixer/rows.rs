//! The sequences of a batch taken apart and put together: every carried tensor has them as its first dimension.

use super::{KeyValueCache, MixerState, RecurrentState};
use crate::element::{Element, Transition};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::intervention::InterventionState;
use crate::intervention::SiteState;
use crate::state::State;
use burn::tensor::{Int, Tensor};

/// These rows of `tensor`, in this order.
///
/// # Errors
/// [`Error::Value`] for a row that is not there.
pub fn select_rows<const D: usize>(tensor: &Tensor<D>, rows: &[usize]) -> Result<Tensor<D>> {
    let batch = tensor.dims()[0];
    if let Some(row) = rows.iter().find(|row| **row >= batch) {
        return Err(Error::Value {
            what: "row of a batch",
            expected: "the index of one of its sequences",
            found: format!("{row} of {batch}"),
        });
    }
    let device = tensor.device();
    // Selecting from or into nothing is left to no backend.
    if rows.is_empty() || tensor.shape().num_elements() == 0 {
        let mut shape = tensor.dims();
        shape[0] = rows.len();
        return Ok(Tensor::zeros(shape, &device));
    }
    let consecutive = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
    if consecutive {
        return Ok(tensor.clone().narrow(0, rows[0], rows.len()));
    }
    let indices: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let indices = Tensor::<1, Int>::from_data(indices.as_slice(), &device);
    Ok(tensor.clone().select(0, indices))
}

/// The rows of all `tensors`, one tensor's after another's.
///
/// # Errors
/// [`Error::Shape`] when they differ in another dimension, [`Error::Value`] for none.
pub fn cat_rows<const D: usize>(what: &'static str, tensors: Vec<Tensor<D>>) -> Result<Tensor<D>> {
    let Some(first) = tensors.first() else {
        return Err(nothing_to_join());
    };
    let dims = first.dims();
    for tensor in &tensors {
        expect_shape(what, &dims[1..], &tensor.dims()[1..])?;
    }
    if dims[1..].contains(&0) {
        let mut shape = dims;
        shape[0] = tensors.iter().map(|tensor| tensor.dims()[0]).sum();
        return Ok(Tensor::zeros(shape, &first.device()));
    }
    Ok(Tensor::cat(tensors, 0))
}

fn nothing_to_join() -> Error {
    Error::Value {
        what: "states to join",
        expected: "at least one",
        found: "none".into(),
    }
}

fn different(found: &str) -> Error {
    Error::Value {
        what: "states to join",
        expected: "those of one layer, started with one chain",
        found: found.into(),
    }
}

impl MixerState {
    /// The states of these sequences of the batch, in this order; one may be taken several times.
    ///
    /// # Errors
    /// [`Error::Value`] for a row that is not there, or for an intervention's state that cannot be divided.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Recurrent(state) => Self::Recurrent(state.select(rows)?),
            Self::Attention(cache) => Self::Attention(cache.select(rows)?),
            Self::Several(parts) => {
                let parts = parts.iter().map(|part| part.select(rows));
                Self::Several(parts.collect::<Result<_>>()?)
            }
            Self::Stateless => Self::Stateless,
        })
    }

    /// One batch of the sequences of all `states`, which are of the same mixer and chain.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] for states that do not belong together, or for interventions' states that
    /// cannot be joined.
    pub fn cat(states: &[&Self]) -> Result<Self> {
        match states.first() {
            None => Err(nothing_to_join()),
            Some(Self::Recurrent(_)) => {
                let states = states.iter().map(|state| match state {
                    Self::Recurrent(state) => Ok(state),
                    _ => Err(different("recurrent states beside others")),
                });
                RecurrentState::cat(&states.collect::<Result<Vec<_>>>()?).map(Self::Recurrent)
            }
            Some(Self::Attention(_)) => {
                let caches = states.iter().map(|state| match state {
                    Self::Attention(cache) => Ok(cache),
                    _ => Err(different("key-value caches beside others")),
                });
                KeyValueCache::cat(&caches.collect::<Result<Vec<_>>>()?).map(Self::Attention)
            }
            Some(Self::Several(first)) => {
                let lists = states.iter().map(|state| match state {
                    Self::Several(parts) if parts.len() == first.len() => Ok(parts),
                    _ => Err(different("states of several mixers beside others")),
                });
                let lists = lists.collect::<Result<Vec<_>>>()?;
                let parts = (0..first.len()).map(|index| {
                    let parts: Vec<&Self> = lists.iter().map(|parts| &parts[index]).collect();
                    Self::cat(&parts)
                });
                Ok(Self::Several(parts.collect::<Result<_>>()?))
            }
            Some(Self::Stateless) if states.iter().all(|state| matches!(state, Self::Stateless)) => {
                Ok(Self::Stateless)
            }
            Some(Self::Stateless) => Err(different("nothing beside something")),
        }
    }

    /// Sequence b of `first` where `of_first[b]`, that of `second` elsewhere, to the bit; both are of the same mixer and of as
    /// many sequences. Gradients reach the rows that were taken.
    ///
    /// # Errors
    /// [`Error::Value`] for another number of sequences; as [`MixerState::cat`].
    pub fn choose(of_first: &[bool], first: &Self, second: &Self) -> Result<Self> {
        let batch = of_first.len();
        for state in [first, second] {
            if let Some(found) = state.batch().filter(|found| *found != batch) {
                return Err(Error::Value {
                    what: "sequences of states to choose from",
                    expected: "one per choice",
                    found: format!("{found} for {batch} choices"),
                });
            }
        }
        match of_first.iter().filter(|chosen| **chosen).count() {
            0 => Ok(second.clone()),
            count if count == batch => Ok(first.clone()),
            _ => {
                let rows = of_first.iter().enumerate();
                let rows: Vec<usize> = rows
                    .map(|(b, &of_first)| if of_first { b } else { batch + b })
                    .collect();
                Self::cat(&[first, second])?.select(&rows)
            }
        }
    }

    /// Sequences; `None` where there is no state to tell.
    fn batch(&self) -> Option<usize> {
        match self {
            Self::Recurrent(state) => {
                let conv_state = state.conv_states.first().map(|state| state.dims()[0]);
                let system = state.systems.first().map(|state| state.dims()[0]);
                let carried = state.carried.first().map(|state| state.dims()[0]);
                let recurrence = state.recurrences.first();
                conv_state
                    .or(system)
                    .or(carried)
                    .or(recurrence.map(|recurrence| recurrence.state.memory.dims()[0]))
            }
            Self::Attention(cache) => Some(cache.lengths().len()),
            Self::Several(parts) => parts.iter().find_map(Self::batch),
            Self::Stateless => None,
        }
    }
}

impl RecurrentState {
    fn select(&self, rows: &[usize]) -> Result<Self> {
        let conv_states = self
            .conv_states
            .iter()
            .map(|conv_state| select_rows(conv_state, rows));
        let systems = self.systems.iter().map(|system| select_rows(system, rows));
        let carried = self.carried.iter().map(|tensor| select_rows(tensor, rows));
        let recurrences = self.recurrences.iter().map(|recurrence| recurrence.select(rows));
        Ok(Self {
            conv_states: conv_states.collect::<Result<_>>()?,
            systems: systems.collect::<Result<_>>()?,
            carried: carried.collect::<Result<_>>()?,
            recurrences: recurrences.collect::<Result<_>>()?,
        })
    }

    fn cat(states: &[&Self]) -> Result<Self> {
        let Some(first) = states.first() else {
            return Err(nothing_to_join());
        };
        let counts = |state: &Self| {
            let (conv_states, systems) = (state.conv_states.len(), state.systems.len());
            [conv_states, systems, state.carried.len(), state.recurrences.len()]
        };
        if states.iter().any(|state| counts(state) != counts(first)) {
            return Err(different(
                "different numbers of convolutions, state spaces or recurrences",
            ));
        }
        let conv_states = (0..first.conv_states.len()).map(|index| {
            let parts = states.iter().map(|state| state.conv_states[index].clone());
            cat_rows("taps", parts.collect())
        });
        let systems = (0..first.systems.len()).map(|index| {
            let parts = states.iter().map(|state| state.systems[index].clone());
            cat_rows("state of a linear state space", parts.collect())
        });
        let carried = (0..first.carried.len()).map(|index| {
            let parts = states.iter().map(|state| state.carried[index].clone());
            cat_rows("what a mixer carries", parts.collect())
        });
        let recurrences = (0..first.recurrences.len()).map(|index| {
            let parts: Vec<&SiteState> = states.iter().map(|state| &state.recurrences[index]).collect();
            SiteState::cat(&parts)
        });
        Ok(Self {
            conv_states: conv_states.collect::<Result<_>>()?,
            systems: systems.collect::<Result<_>>()?,
            carried: carried.collect::<Result<_>>()?,
            recurrences: recurrences.collect::<Result<_>>()?,
        })
    }
}

impl SiteState {
    /// The states, those of interventions included, of these sequences of the batch, in this order.
    ///
    /// # Errors
    /// As [`MixerState::select`].
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let interventions = self.interventions.iter().map(|own| own.select(rows));
        Ok(Self {
            state: State {
                memory: select_rows(&self.state.memory, rows)?,
                position: self.state.position,
            },
            interventions: interventions.collect::<Result<_>>()?,
        })
    }

    /// One batch of all `recurrences`; its position is that of the sequence that has seen most.
    ///
    /// # Errors
    /// As [`MixerState::cat`].
    pub fn cat(recurrences: &[&Self]) -> Result<Self> {
        let Some((first, others)) = recurrences.split_first() else {
            return Err(nothing_to_join());
        };
        if others
            .iter()
            .any(|other| other.interventions.len() != first.interventions.len())
        {
            return Err(different("different numbers of interventions"));
        }
        let interventions = first.interventions.iter().enumerate().map(|(index, own)| {
            let others: Vec<&dyn InterventionState> = others
                .iter()
                .map(|other| other.interventions[index].as_ref())
                .collect();
            own.cat(&others)
        });
        let parts = recurrences.iter().map(|part| part.state.memory.clone());
        let positions = recurrences.iter().map(|part| part.state.position);
        Ok(Self {
            state: State {
                memory: cat_rows("state", parts.collect())?,
                position: positions.max().unwrap_or(0),
            },
            interventions: interventions.collect::<Result<_>>()?,
        })
    }
}

impl Element {
    /// The segment's element for these sequences of the batch, in this order.
    ///
    /// # Errors
    /// [`Error::Value`] for a row that is not there.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self {
            transition: match &self.transition {
                Transition::Decay(sums) => Transition::Decay(select_rows(sums, rows)?),
                Transition::Matrix(products) => Transition::Matrix(select_rows(products, rows)?),
                Transition::Mean(sums) => Transition::Mean(select_rows(sums, rows)?),
            },
            update: select_rows(&self.update, rows)?,
        })
    }

    /// One element for the sequences of all `elements`, which are of one recurrence.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] for elements that do not belong together.
    pub fn cat(elements: &[&Self]) -> Result<Self> {
        let Some(first) = elements.first() else {
            return Err(nothing_to_join());
        };
        let (mut sums, mut products) = (vec![], vec![]);
        for element in elements {
            match (&first.transition, &element.transition) {
                (Transition::Decay(_), Transition::Decay(sum))
                | (Transition::Mean(_), Transition::Mean(sum)) => {
                    sums.push(sum.clone());
                }
                (Transition::Matrix(_), Transition::Matrix(product)) => products.push(product.clone()),
                (_, other) => return Err(different(other.kind())),
            }
        }
        let transition = match &first.transition {
            Transition::Decay(_) => Transition::Decay(cat_rows("log_decay", sums)?),
            Transition::Mean(_) => Transition::Mean(cat_rows("log_decay", sums)?),
            Transition::Matrix(_) => Transition::Matrix(cat_rows("transition", products)?),
        };
        let updates = elements.iter().map(|element| element.update.clone());
        Ok(Self {
            transition,
            update: cat_rows("update", updates.collect())?,
        })
    }
}

impl KeyValueCache {
    fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self {
            // First, because this says when a row is not there.
            keys: select_rows(&self.keys, rows)?,
            values: select_rows(&self.values, rows)?,
            lengths: rows.iter().map(|row| self.lengths[*row]).collect(),
            window: self.window,
            conv_state: self
                .conv_state
                .as_ref()
                .map(|conv_state| select_rows(conv_state, rows))
                .transpose()?,
        })
    }

    /// Sequences may hold different numbers of tokens: all get the room of the largest cache.
    fn cat(caches: &[&Self]) -> Result<Self> {
        let Some(first) = caches.first() else {
            return Err(nothing_to_join());
        };
        if caches.iter().any(|cache| cache.window != first.window) {
            return Err(different("attention of different windows"));
        }
        let capacity = caches.iter().map(|cache| cache.capacity()).max().unwrap_or(0);
        let all = |part: fn(&Self) -> &Tensor<4>| {
            let roomy = caches.iter().map(|cache| with_room(part(cache), capacity));
            roomy.collect::<Vec<_>>()
        };
        let conv_states: Vec<Tensor<3>> = caches
            .iter()
            .filter_map(|cache| cache.conv_state.clone())
            .collect();
        let conv_state = match conv_states.len() {
            0 => None,
            count if count == caches.len() => Some(cat_rows("taps", conv_states)?),
            _ => return Err(different("attention with and without a convolution")),
        };
        Ok(Self {
            keys: cat_rows("cache of keys", all(|cache| &cache.keys))?,
            values: cat_rows("cache of values", all(|cache| &cache.values))?,
            lengths: caches.iter().flat_map(|cache| cache.lengths.clone()).collect(),
            window: first.window,
            conv_state,
        })
    }
}

/// `[batch, heads, capacity, dim]` with room for more tokens.
fn with_room(cache: &Tensor<4>, capacity: usize) -> Tensor<4> {
    let [batch, heads, held, dim] = cache.dims();
    let room = Tensor::zeros([batch, heads, capacity - held, dim], &cache.device());
    match (held, capacity - held) {
        (_, 0) => cache.clone(),
        (0, _) => room,
        _ => Tensor::cat(vec![cache.clone(), room], 2),
    }
}
