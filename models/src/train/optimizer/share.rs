//! An optimiser with the moments of one part of the values, and what of it is saved, entry by entry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, TensorData};
use burn_optim::{AdamWState, AdaptiveMomentumState};

use super::{Optimizer, OptimizerError, Slot};
use crate::train::snapshot::{Moments, SnapshotError};

/// What is saved of every parameter.
pub(super) const ENTRIES: [&str; 3] = ["time", "moment_1", "moment_2"];

/// Name of an entry.
pub(super) fn entry(kind: &str, name: &str) -> String {
    format!("{kind}.{name}")
}

/// A parameter's state as it goes from rank to rank: the number of its steps, and both moments of a part of its values.
pub(in crate::train) type Saved = (u64, [TensorData; 2]);

impl Optimizer {
    /// Gives up the moments of all values but these, which are given for each parameter.
    pub(in crate::train) fn keep(&mut self, places: Vec<Range<usize>>) {
        for (slot, places) in self.slots.iter_mut().zip(places) {
            slot.places = places.clone();
            if let Some(AdamWState { momentum }) = slot.state.take() {
                let own = |moment: burn::tensor::Tensor<1>| {
                    slot.own_tensor(slice(&moment.into_data(), places.clone()))
                };
                let [first, second] = [momentum.moment_1, momentum.moment_2].map(own);
                let momentum = AdaptiveMomentumState::new(momentum.time, first, second);
                slot.state = Some(AdamWState::new(momentum));
            }
        }
    }

    /// Number of values that there are moments of here, those counted that have had a gradient.
    pub fn held(&self) -> usize {
        let states = self.slots.iter().filter_map(|slot| slot.state.as_ref());
        states.map(|state| state.momentum.moment_1.dims()[0]).sum()
    }

    /// What there is here of the entry of this name.
    pub(in crate::train) fn own_entry(&self, name: &str) -> Option<TensorData> {
        let (kind, name) = name.split_once('.')?;
        let slot = self.slots.iter().find(|slot| slot.name == name)?;
        let momentum = &slot.state.as_ref()?.momentum;
        match kind {
            "time" => Some(time(momentum.time)),
            "moment_1" => Some(momentum.moment_1.to_data()),
            "moment_2" => Some(momentum.moment_2.to_data()),
            _ => None,
        }
    }

    /// The index of the parameter that an entry is of, and whether the entry has a number for each of its values.
    pub(in crate::train) fn subject(&self, name: &str) -> Option<(usize, bool)> {
        let (kind, name) = name.split_once('.')?;
        let index = self.slots.iter().position(|slot| slot.name == name)?;
        Some((index, kind != ENTRIES[0]))
    }

    /// Of whole entries that [`Optimizer::restore`] has taken, the values in `places` of parameter `index`.
    pub(in crate::train) fn part_of(
        &self,
        tensors: &BTreeMap<String, TensorData>,
        index: usize,
        places: Range<usize>,
    ) -> Option<Saved> {
        let slot = &self.slots[index];
        let [time, first, second] = ENTRIES.map(|kind| tensors.get(&entry(kind, &slot.name)));
        let time = *time?.as_slice::<u64>().ok()?.first()?;
        Some((time, [first?, second?].map(|data| slice(data, places.clone()))))
    }

    /// Takes up what [`Optimizer::part_of`] gave for the values of parameter `index` that are this rank's.
    ///
    /// # Errors
    /// [`OptimizerError::Saved`] for moments of another number of values.
    pub(in crate::train) fn take_up(
        &mut self,
        index: usize,
        saved: Option<Saved>,
    ) -> Result<(), OptimizerError> {
        let slot = &mut self.slots[index];
        slot.state = match saved {
            None => None,
            Some((time, moments)) => Some(slot.taken_up(time, moments)?),
        };
        Ok(())
    }
}

impl Slot {
    fn taken_up(&self, time: u64, moments: [TensorData; 2]) -> Result<AdamWState<1>, OptimizerError> {
        for (kind, data) in ENTRIES[1..].iter().zip(&moments) {
            if data.num_elements() != self.places.len() {
                return Err(OptimizerError::saved(
                    entry(kind, &self.name),
                    format!("{} values", self.places.len()),
                    data.num_elements(),
                ));
            }
        }
        let [first, second] = moments.map(|data| self.own_tensor(data));
        Ok(AdamWState::new(AdaptiveMomentumState::new(
            time as usize,
            first,
            second,
        )))
    }
}

/// As one rank alone has them.
impl Moments for Optimizer {
    fn entries(&self) -> BTreeMap<String, (DType, Vec<usize>)> {
        let with_state = self.slots.iter().filter(|slot| slot.state.is_some());
        let of_slot = |slot: &Slot| {
            let [steps, first, second] = ENTRIES.map(|kind| entry(kind, &slot.name));
            let moment = (DType::F32, vec![slot.count]);
            [
                (steps, (DType::U64, vec![1])),
                (first, moment.clone()),
                (second, moment),
            ]
        };
        with_state.flat_map(of_slot).collect()
    }

    fn fetch(&self, name: &str) -> Result<Option<Cow<'_, TensorData>>, SnapshotError> {
        Ok(self.own_entry(name).map(Cow::Owned))
    }
}

/// The number of steps of a parameter, as it is saved.
pub(super) fn time(steps: usize) -> TensorData {
    TensorData::new(vec![steps as u64], [1])
}

/// Some of the f32 values of a tensor that has them.
pub(super) fn slice(data: &TensorData, places: Range<usize>) -> TensorData {
    let bytes = &data.as_bytes()[places.start * size_of::<f32>()..places.end * size_of::<f32>()];
    TensorData::new(bytemuck::pod_collect_to_vec::<u8, f32>(bytes), [places.len()])
}
