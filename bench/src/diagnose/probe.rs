//! Looks at gates and states as they pass, and changes nothing.
//!
//! The probe is an intervention: it sees the gates of the tokens at hand, hands them on in pieces that end where a look at
//! the state is due, and looks. What it records is fixed in size before the first token, however long the text becomes.

use super::head_statistics::{StateStatistics, state_statistics};
use super::loss::Tally;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use ssm_core::error::{Error, Result};
use ssm_core::intervention::Next;
use ssm_core::{Gates, Intervention, LogDecay, Memory, Site, State};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records statistics of states at given positions, and of gates between them.
#[derive(Clone, Debug)]
pub struct Probe {
    positions: Arc<[u64]>,
}

/// What a [`Probe`] saw of one layer. Saving and loading loses no bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedRecord", into = "SavedRecord")]
pub struct LayerRecord {
    heads: usize,
    groups: usize,
    positions: Arc<[u64]>,
    /// Looks at the state so far, `[looks, heads]`.
    states: Vec<StateStatistics>,
    /// Σ log α from the second token to the look, `[looks, heads]`.
    strengths: Vec<f64>,
    /// Σ log α from the second token to now, `[heads]`.
    strength: Vec<f64>,
    /// Statistics of the gates up to each position from the one before, `[positions, columns]`.
    gates: Vec<Tally>,
}

/// A [`LayerRecord`] with floats as their 64 bits.
#[derive(Serialize, Deserialize)]
struct SavedRecord {
    heads: usize,
    groups: usize,
    positions: Vec<u64>,
    arrays: BTreeMap<String, Vec<u64>>,
}

impl From<LayerRecord> for SavedRecord {
    fn from(record: LayerRecord) -> Self {
        let bits = |(name, values): (&str, Vec<f64>)| {
            (name.to_string(), values.iter().map(|v| v.to_bits()).collect())
        };
        let arrays = record.arrays().into_iter().map(bits).collect();
        Self {
            heads: record.heads,
            groups: record.groups,
            positions: record.positions.to_vec(),
            arrays,
        }
    }
}

impl TryFrom<SavedRecord> for LayerRecord {
    type Error = String;

    fn try_from(saved: SavedRecord) -> std::result::Result<Self, String> {
        let mut record = Self::new(saved.heads, saved.groups, saved.positions.into());
        let floats = |bits: &Vec<u64>| bits.iter().map(|&bits| f64::from_bits(bits)).collect();
        record.set_arrays(|name| saved.arrays.get(name).map(floats))?;
        Ok(record)
    }
}

/// A gate that statistics are kept of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// log α, per head.
    LogDecay,
    /// Δ, per head.
    StepSize,
    /// x (the value), per head, over its elements.
    Value,
    /// B (the key), per group, over its elements.
    Key,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 4] = [Self::LogDecay, Self::StepSize, Self::Value, Self::Key];

    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogDecay => "log_decay",
            Self::StepSize => "step_size",
            Self::Value => "value",
            Self::Key => "key",
        }
    }
}

impl LayerRecord {
    fn new(heads: usize, groups: usize, positions: Arc<[u64]>) -> Self {
        let gates = vec![Tally::default(); positions.len() * (3 * heads + groups)];
        Self {
            heads,
            groups,
            positions,
            states: Vec::new(),
            strengths: Vec::new(),
            strength: vec![0.0; heads],
            gates,
        }
    }

    /// Heads of the layer.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// How many columns a gate has: heads or groups.
    pub fn columns(&self, gate: Gate) -> usize {
        if gate == Gate::Key {
            self.groups
        } else {
            self.heads
        }
    }

    /// (position, statistics of the state, Σ log α since the first token) of one head at every look so far.
    pub fn looks(&self, head: usize) -> impl Iterator<Item = (u64, StateStatistics, f64)> + '_ {
        let rows = self
            .states
            .chunks(self.heads)
            .zip(self.strengths.chunks(self.heads));
        self.positions
            .iter()
            .zip(rows)
            .map(move |(&position, (states, strengths))| (position, states[head], strengths[head]))
    }

    /// ((start, end), statistics) of one column of a gate between the looks.
    pub fn gate(&self, gate: Gate, column: usize) -> impl Iterator<Item = ((u64, u64), &Tally)> + '_ {
        let starts = std::iter::once(0).chain(self.positions.iter().copied());
        let rows = self.gates.chunks(3 * self.heads + self.groups);
        let ranges = starts.zip(self.positions.iter().copied());
        ranges.zip(rows.map(move |row| &row[self.offset(gate) + column]))
    }

    /// Mean of log α of a head over the first `tokens` positions, which must be one of the looks.
    pub fn mean_log_decay(&self, head: usize, tokens: u64) -> Option<f64> {
        let mut sum = Tally::default();
        self.gate(Gate::LogDecay, head)
            .filter(|((_, end), _)| *end <= tokens)
            .for_each(|(_, tally)| sum.merge(tally));
        sum.mean()
    }

    fn offset(&self, gate: Gate) -> usize {
        match gate {
            Gate::LogDecay => 0,
            Gate::StepSize => self.heads,
            Gate::Value => 2 * self.heads,
            Gate::Key => 3 * self.heads,
        }
    }

    /// Several streams' records as one: states averaged over the streams that got so far, gates pooled. `None` of none.
    pub fn pool(records: &[Self]) -> Option<Self> {
        let first = records.first()?;
        let mut pooled = Self::new(first.heads, first.groups, first.positions.clone());
        for record in records {
            pooled
                .gates
                .iter_mut()
                .zip(&record.gates)
                .for_each(|(mine, theirs)| mine.merge(theirs));
        }
        for index in 0..records
            .iter()
            .map(|record| record.states.len())
            .max()
            .unwrap_or(0)
        {
            let there: Vec<&Self> = records
                .iter()
                .filter(|record| record.states.len() > index)
                .collect();
            let states: Vec<StateStatistics> = there.iter().map(|record| record.states[index]).collect();
            let strength =
                there.iter().map(|record| record.strengths[index]).sum::<f64>() / there.len() as f64;
            pooled.states.extend(StateStatistics::average(&states));
            pooled.strengths.push(strength);
        }
        Some(pooled)
    }

    /// Everything recorded, by name.
    fn arrays(&self) -> [(&'static str, Vec<f64>); 4] {
        [
            (
                "states",
                self.states.iter().flat_map(|state| state.to_array()).collect(),
            ),
            ("strengths", self.strengths.clone()),
            ("strength", self.strength.clone()),
            (
                "gates",
                self.gates.iter().flat_map(|tally| tally.to_array()).collect(),
            ),
        ]
    }

    /// The inverse of [`Self::arrays`], for a record of the same shape.
    fn set_arrays(&mut self, array: impl Fn(&str) -> Option<Vec<f64>>) -> std::result::Result<(), String> {
        let of = |name: &str, length: Option<usize>| {
            let values = array(name).ok_or(format!("probe.{name} is missing"))?;
            match length {
                Some(length) if values.len() != length => Err(format!(
                    "probe.{name}: expected {length} numbers, found {}",
                    values.len()
                )),
                _ => Ok(values),
            }
        };
        let states = of("states", None)?;
        let (states, rest) = states.as_chunks();
        if !rest.is_empty() || states.len() % self.heads.max(1) != 0 {
            return Err(format!(
                "probe.states: expected 5 numbers for each of {} heads",
                self.heads
            ));
        }
        self.strengths = of("strengths", Some(states.len()))?;
        self.states = states
            .iter()
            .map(|array| StateStatistics::from_array(*array))
            .collect();
        self.strength = of("strength", Some(self.heads))?;
        let gates = of("gates", Some(3 * self.gates.len()))?;
        self.gates = gates
            .as_chunks()
            .0
            .iter()
            .map(|array| Tally::from_array(*array))
            .collect();
        Ok(())
    }

    fn look(&mut self, memory: &Tensor<4>) -> Result<()> {
        let [batch, heads, key_dim, value_dim] = memory.dims();
        let data = memory.to_data();
        let values = floats(&data)?;
        for head in 0..heads {
            let size = key_dim * value_dim;
            let of_sequence = |sequence: usize| &values[(sequence * heads + head) * size..][..size];
            let all: Vec<StateStatistics> = (0..batch)
                .map(|sequence| state_statistics(of_sequence(sequence)))
                .collect();
            self.states
                .push(StateStatistics::average(&all).unwrap_or_default());
        }
        self.strengths.extend_from_slice(&self.strength);
        Ok(())
    }

    /// Takes the gates of tokens `position..` in; none of them crosses a look.
    fn tokens(&mut self, gates: &Gates, position: u64) -> Result<()> {
        let dims = gates.dims();
        let interval = self.positions.partition_point(|&end| end <= position);
        let (heads, row) = (self.heads, 3 * self.heads + self.groups);
        let offsets = Gate::ALL.map(|gate| self.offset(gate));
        let Some(tallies) = self.gates.get_mut(interval * row..(interval + 1) * row) else {
            return Ok(()); // Beyond the last look.
        };
        let log_decays = log_decays(gates)?;
        for (token, decays) in log_decays.chunks(heads).enumerate() {
            let first = position == 0 && token % dims.time == 0;
            for (head, &log_decay) in decays.iter().enumerate() {
                tallies[offsets[0] + head].add(f64::from(log_decay));
                if !first {
                    self.strength[head] += f64::from(log_decay) / dims.batch as f64;
                }
            }
        }
        if let Some(step_size) = &gates.step_size {
            add_columns(&mut tallies[offsets[1]..][..heads], &step_size.to_data(), 1)?;
        }
        add_columns(
            &mut tallies[offsets[2]..][..heads],
            &gates.value.to_data(),
            dims.value_dim,
        )?;
        add_columns(&mut tallies[offsets[3]..], &gates.key.to_data(), dims.key_dim)
    }
}

/// Adds `[…, columns, width]` to one tally per column.
fn add_columns(tallies: &mut [Tally], data: &TensorData, width: usize) -> Result<()> {
    let columns = tallies.len();
    for (index, values) in floats(data)?.chunks(width).enumerate() {
        tallies[index % columns].add_all(values);
    }
    Ok(())
}

/// log α of every token and head, `[batch · time, heads]`, the mean over a head's rows where they differ.
fn log_decays(gates: &Gates) -> Result<Vec<f32>> {
    let dims = gates.dims();
    let row_means = |values: &[f32]| -> Vec<f32> {
        values
            .chunks(dims.key_dim)
            .map(|row| row.iter().sum::<f32>() / row.len() as f32)
            .collect()
    };
    let gates = gates.clone().with_stored_decay();
    Ok(match &gates.log_decay {
        LogDecay::None => vec![0.0; dims.batch * dims.time * dims.heads],
        LogDecay::PerHead(a) => floats(&a.to_data())?.repeat(dims.batch * dims.time),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => {
            row_means(floats(&a.to_data())?).repeat(dims.batch * dims.time)
        }
        LogDecay::PerHeadToken(a) => floats(&a.to_data())?.to_vec(),
        LogDecay::PerKeyToken(a) => row_means(floats(&a.to_data())?),
    })
}

fn floats(data: &TensorData) -> Result<&[f32]> {
    data.as_slice::<f32>().map_err(|error| Error::Value {
        what: "tensor looked at by the probe",
        expected: "32-bit floats",
        found: format!("{error:?}"),
    })
}

impl Probe {
    /// A probe that looks at the state after each of these numbers of tokens, which ascend.
    pub fn new(positions: Vec<u64>) -> Self {
        Self {
            positions: positions.into(),
        }
    }

    fn record(&self, site: &Site) -> LayerRecord {
        LayerRecord::new(site.heads, site.groups, self.positions.clone())
    }
}

impl Memory for LayerRecord {
    fn clone_box(&self) -> Box<dyn Memory> {
        Box::new(self.clone())
    }

    /// The probe is no part of the model: its records do not count as the model's memory.
    fn bytes(&self) -> usize {
        0
    }

    fn save(&self) -> BTreeMap<String, TensorData> {
        let data = |(name, values): (&str, Vec<f64>)| {
            let length = values.len();
            (name.to_string(), TensorData::new(values, [length]))
        };
        self.arrays().into_iter().map(data).collect()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Intervention for Probe {
    fn text(&self) -> String {
        "probe".into()
    }

    fn start(&self, site: &Site, _batch: usize, _device: &Device) -> Box<dyn Memory> {
        Box::new(self.record(site))
    }

    fn restore(
        &self,
        site: &Site,
        _batch: usize,
        _device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn Memory>> {
        let mut record = self.record(site);
        let wrong = |found: String| Error::Saved {
            what: format!("layer {}, probe", site.layer),
            expected: "what the probe recorded, as 64-bit floats".into(),
            found,
        };
        record
            .set_arrays(|name| saved.get(name)?.try_to_vec::<f64>().ok())
            .map_err(wrong)?;
        Ok(Box::new(record))
    }

    fn on_recurrence(
        &self,
        _site: &Site,
        gates: Gates,
        state: &mut State,
        memory: &mut dyn Memory,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>> {
        let Some(record) = memory.as_any_mut().downcast_mut::<LayerRecord>() else {
            return Err(Error::Value {
                what: "memory of the probe",
                expected: "the record it started with",
                found: "another intervention's memory".into(),
            });
        };
        let time = gates.dims().time;
        let mut outputs = Vec::new();
        let mut done = 0;
        while done < time {
            let position = state.position;
            let due = self
                .positions
                .get(self.positions.partition_point(|&look| look <= position))
                .copied();
            let left = due.map_or(u64::MAX, |look| look - position);
            let piece = (time - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            let gates = gates.slice(done..done + piece)?;
            record.tokens(&gates, position)?;
            outputs.push(next(gates, state)?);
            if due == Some(state.position) {
                record.look(&state.memory)?;
            }
            done += piece;
        }
        match outputs.len() {
            0 => next(gates, state),
            1 => Ok(outputs.swap_remove(0)),
            _ => Ok(Tensor::cat(outputs, 1)),
        }
    }
}
