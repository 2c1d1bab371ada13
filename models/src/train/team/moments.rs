//! Moments on their way between the ranks that have them and rank 0, which has the snapshots: one entry at a time.
//!
//! ```text
//! written   rank 0 ── name of an entry ──► owners ── their parts ──► rank 0 ──► file        entry by entry, then an empty name
//! read      file ──► rank 0 ── parts of every parameter ──► rank 1 ── a sign ──► rank 0     then the same to rank 2, …
//! ```
//!
//! A snapshot has whole entries, so any number of ranks can read it. While one is written rank 0 holds one entry of one
//! parameter beside its own part; while one is read, all of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::tensor::{DType, TensorData};

use super::Team;
use crate::parallel::collectives::decoded;
use crate::parallel::{ParallelError, Tag};
use crate::train::error::TrainError;
use crate::train::optimizer::{Optimizer, Saved};
use crate::train::snapshot::{Moments, SnapshotError};

const ASKED: Tag = Tag::new(26, "which moments are to be saved");
const GIVEN: Tag = Tag::new(27, "its part of the moments");
const SAVED: Tag = Tag::new(28, "saved moments");
const TAKEN: Tag = Tag::new(29, "a sign that it has its moments");

/// The moments of all ranks as rank 0 sees them.
pub(in crate::train) struct Gathered<'a> {
    pub(in crate::train) team: &'a Team,
    pub(in crate::train) optimizer: &'a Optimizer,
}

impl Gathered<'_> {
    /// The whole entry, of a part from each rank that has one.
    fn whole(&self, name: &str, parameter: usize) -> Result<TensorData, ParallelError> {
        let (ranks, partition) = (self.team.ranks(), &self.team.partition);
        let count = |rank: usize| partition.places(rank)[parameter].len();
        let owners: Vec<usize> = (0..ranks.size()).filter(|rank| count(*rank) > 0).collect();
        let others = || owners.iter().filter(|rank| **rank != ranks.rank());
        others().try_for_each(|owner| ranks.send(*owner, ASKED, name.as_bytes().to_vec()))?;
        let mut values = Vec::with_capacity(partition.count(parameter));
        for owner in owners {
            match owner == ranks.rank() {
                true => values.extend(
                    self.optimizer
                        .own_entry(name)
                        .iter()
                        .flat_map(TensorData::iter::<f32>),
                ),
                false => values.extend(decoded::<f32>(
                    &ranks.receive(owner, GIVEN)?,
                    count(owner),
                    (GIVEN, owner),
                )?),
            }
        }
        let found = values.len();
        Ok(TensorData::new(values, [found]))
    }
}

impl Moments for Gathered<'_> {
    fn entries(&self) -> BTreeMap<String, (DType, Vec<usize>)> {
        // Every rank counts the steps of all parameters.
        self.optimizer.entries()
    }

    fn fetch(&self, name: &str) -> Result<Option<Cow<'_, TensorData>>, SnapshotError> {
        let data = match self.optimizer.subject(name) {
            Some((parameter, true)) => Some(self.whole(name, parameter)?),
            _ => self.optimizer.own_entry(name),
        };
        Ok(data.map(Cow::Owned))
    }
}

impl Team {
    /// On rank 0: whatever `save` does with the moments of all ranks, which the others give meanwhile.
    pub(in crate::train) fn with_moments<T>(
        &self,
        optimizer: &Optimizer,
        save: impl FnOnce(&dyn Moments) -> Result<T, SnapshotError>,
    ) -> Result<T, TrainError> {
        self.call(super::MOMENTS)?;
        let team = self;
        let saved = save(&Gathered { team, optimizer })?;
        let others = 1..self.ranks().size();
        others
            .into_iter()
            .try_for_each(|rank| self.ranks().send(rank, ASKED, Vec::new()))?;
        Ok(saved)
    }

    /// On the other ranks: gives what rank 0 asks for, until it has everything.
    pub(in crate::train) fn give_moments(&self, optimizer: &Optimizer) -> Result<(), TrainError> {
        loop {
            let name = self.ranks().receive(0, ASKED)?;
            if name.is_empty() {
                return Ok(());
            }
            let entry = optimizer.own_entry(&String::from_utf8_lossy(&name));
            let bytes = entry.map_or_else(Vec::new, |data| data.as_bytes().to_vec());
            self.ranks().send(0, GIVEN, bytes)?;
        }
    }

    /// On rank 0, which has restored these: gives the other ranks their parts, to one after another.
    pub(in crate::train) fn deal_moments(
        &self,
        optimizer: &Optimizer,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<(), TrainError> {
        for rank in 1..self.ranks().size() {
            for (parameter, places) in self.partition.places(rank).into_iter().enumerate() {
                let part = optimizer.part_of(saved, parameter, places);
                self.ranks()
                    .send(rank, SAVED, part.map_or_else(Vec::new, encoded))?;
            }
            self.ranks().receive(rank, TAKEN)?;
        }
        Ok(())
    }

    /// On the other ranks: takes up what rank 0 gives.
    pub(in crate::train) fn take_moments(&self, optimizer: &mut Optimizer) -> Result<(), TrainError> {
        let places = self.partition.places(self.ranks().rank());
        for (parameter, places) in places.into_iter().enumerate() {
            let message = self.ranks().receive(0, SAVED)?;
            optimizer.take_up(parameter, read(&message, places.len())?)?;
        }
        Ok(self.ranks().send(0, TAKEN, Vec::new())?)
    }
}

/// The number of steps in eight bytes, then the moments.
fn encoded((time, moments): Saved) -> Vec<u8> {
    let [first, second] = moments.each_ref().map(TensorData::as_bytes);
    [&time.to_le_bytes(), first, second].concat()
}

/// What [`encoded`] gave for a part of so many values; `None` for an empty message.
fn read(message: &[u8], count: usize) -> Result<Option<Saved>, ParallelError> {
    if message.is_empty() {
        return Ok(None);
    }
    let (time, moments) = message.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let moments: Vec<f32> = decoded(moments, 2 * count, (SAVED, 0))?;
    let (first, second) = moments.split_at(count);
    let data = |values: &[f32]| TensorData::new(values.to_vec(), [count]);
    Ok(Some((u64::from_le_bytes(*time), [data(first), data(second)])))
}
