//! What the probe keeps of one recurrence: fixed in size before the first token, however long the text becomes.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use spillway_ssm_core::error::Result;
use spillway_ssm_core::{InterventionState, Rule, Site};

use super::gates::{Gate, GateSegment, host};
use super::operator_block::{LARGEST_KEY, WINDOW, effective_rank};
use super::state_statistics::{self, StateStatistics, mean_statistics, state_statistics};
use super::usage::{HeadUsage, Usage};
use crate::evaluation::tally::Tally;

/// When there is something to do: samples of the state, and the length over which retention is averaged.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Samples of the state after these numbers of tokens, which ascend.
    pub positions: Arc<[u64]>,
    /// Training length T of the model, in tokens.
    pub train_length: u64,
}

/// What a probe saw of one recurrence. Saving and loading loses no bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedRecord", into = "SavedRecord")]
pub struct SiteRecord {
    shape: Shape,
    plan: Plan,
    /// Samples of the state so far, `[samples, heads]`.
    states: Vec<StateStatistics>,
    /// Σ log α from the second token to the sample, `[samples, heads]`.
    strengths: Vec<f64>,
    /// Σ log α from the second token to now, `[heads]`.
    strength: Vec<f64>,
    /// Statistics of the gates up to each position from the one before, `[positions, columns]`.
    gates: Vec<Tally>,
    /// Σ log a inside the training length of every key row, `[heads, key_dim]`; empty where rows do not differ.
    keys: Vec<f64>,
    /// Tokens that went into `keys`.
    key_tokens: f64,
    /// What of the past the future can use, of the tokens around the training length, `[heads]`.
    usage: Usage,
}

/// What decides the sizes of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    layer: usize,
    first_head: usize,
    heads: usize,
    key_dim: usize,
    is_mean: bool,
    per_key: bool,
    /// Columns of each gate, in the order of [`Gate::ALL`].
    columns: [usize; Gate::ALL.len()],
}

impl Shape {
    fn new(site: &Site) -> Self {
        Self {
            layer: site.layer,
            first_head: site.first_head,
            heads: site.heads,
            key_dim: site.key_dim,
            is_mean: site.rule == Rule::Mean,
            per_key: site.per_key_decay,
            columns: Gate::ALL.map(|gate| gate.columns(site)),
        }
    }

    /// Columns of all gates together.
    fn row(&self) -> usize {
        self.columns.iter().sum()
    }
}

/// A [`SiteRecord`] with floats as their 64 bits.
#[derive(Serialize, Deserialize)]
struct SavedRecord {
    shape: Shape,
    positions: Vec<u64>,
    train_length: u64,
    arrays: BTreeMap<String, Vec<u64>>,
}

impl From<SiteRecord> for SavedRecord {
    fn from(record: SiteRecord) -> Self {
        let bits = |(name, values): (&str, Vec<f64>)| {
            (name.to_string(), values.iter().map(|v| v.to_bits()).collect())
        };
        let arrays = record.arrays().into_iter().map(bits).collect();
        Self {
            shape: record.shape,
            positions: record.plan.positions.to_vec(),
            train_length: record.plan.train_length,
            arrays,
        }
    }
}

impl TryFrom<SavedRecord> for SiteRecord {
    type Error = String;

    fn try_from(saved: SavedRecord) -> std::result::Result<Self, String> {
        let plan = Plan {
            positions: saved.positions.into(),
            train_length: saved.train_length,
        };
        // A shape is a few numbers, and the arrays that it asks for must not be longer than those in the file.
        let length = |name: &str| saved.arrays.get(name).map_or(0, Vec::len);
        let shape = &saved.shape;
        let row = shape
            .columns
            .iter()
            .try_fold(0, |sum: usize, count| sum.checked_add(*count));
        let gates = row.and_then(|row| row.checked_mul(plan.positions.len()));
        let keys = match shape.per_key {
            true => shape.heads.checked_mul(shape.key_dim),
            false => Some(0),
        };
        let fits = |count: Option<usize>, name: &str| count.is_some_and(|count| count <= length(name));
        if shape.heads != length("strength") || !fits(gates, "gates") || !fits(keys, "keys") {
            return Err(format!("{} heads with other numbers of values", shape.heads));
        }
        let mut record = Self::of(saved.shape, plan);
        let floats = |bits: &Vec<u64>| bits.iter().map(|&bits| f64::from_bits(bits)).collect();
        record.set_arrays(|name| saved.arrays.get(name).map(floats))?;
        Ok(record)
    }
}

impl SiteRecord {
    /// The record of a recurrence of which nothing has been seen yet.
    pub fn new(site: &Site, plan: Plan) -> Self {
        Self::of(Shape::new(site), plan)
    }

    fn of(shape: Shape, plan: Plan) -> Self {
        let keys = if shape.per_key {
            shape.heads * shape.key_dim
        } else {
            0
        };
        Self {
            states: Vec::new(),
            strengths: Vec::new(),
            strength: vec![0.0; shape.heads],
            gates: vec![Tally::default(); plan.positions.len() * shape.row()],
            keys: vec![0.0; keys],
            key_tokens: 0.0,
            usage: Usage::default(),
            shape,
            plan,
        }
    }

    /// Whether this is a record of that recurrence.
    pub fn is_of(&self, site: &Site) -> bool {
        self.shape == Shape::new(site)
    }

    /// When something is due.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Index of the layer.
    pub fn layer(&self) -> usize {
        self.shape.layer
    }

    /// Heads of the recurrence.
    pub fn heads(&self) -> usize {
        self.shape.heads
    }

    /// Heads of the layer's earlier recurrences.
    pub fn first_head(&self) -> usize {
        self.shape.first_head
    }

    /// What plays the part of a state's norm: `norm`, or `weight` in a weighted mean.
    pub fn measure(&self) -> &'static str {
        if self.shape.is_mean { "weight" } else { "norm" }
    }

    /// Number of columns of a gate: heads or groups, or 0 where the recurrence has no such gate.
    pub fn columns(&self, gate: Gate) -> usize {
        self.shape.columns[index(gate)]
    }

    /// (position, statistics of the state, Σ log α since the first token) of one head at every sample so far.
    pub fn samples(&self, head: usize) -> impl Iterator<Item = (u64, StateStatistics, f64)> + '_ {
        let heads = self.heads().max(1);
        let rows = self.states.chunks(heads).zip(self.strengths.chunks(heads));
        self.plan
            .positions
            .iter()
            .zip(rows)
            .map(move |(&position, (states, strengths))| (position, states[head], strengths[head]))
    }

    /// ((start, end), statistics) of one column of a gate between the samples; nothing for a gate that is not there.
    pub fn gate(&self, gate: Gate, column: usize) -> impl Iterator<Item = ((u64, u64), &Tally)> + '_ {
        let there = (column < self.columns(gate)).then_some(self.offset(gate) + column);
        let positions = || self.plan.positions.iter().copied();
        let ranges = std::iter::once(0).chain(positions()).zip(positions());
        let rows = self.gates.chunks(self.shape.row().max(1));
        ranges
            .zip(rows)
            .filter_map(move |(range, row)| Some((range, &row[there?])))
    }

    /// Statistics of one column of a gate over the first `tokens` positions, which must be one of the samples.
    pub fn gate_inside(&self, gate: Gate, column: usize, tokens: u64) -> Tally {
        let mut sum = Tally::default();
        self.gate(gate, column)
            .filter(|((_, end), _)| *end <= tokens)
            .for_each(|(_, tally)| sum.merge(tally));
        sum
    }

    /// Mean of log α of a head over the first `tokens` positions, which must be one of the samples.
    pub fn mean_log_decay(&self, head: usize, tokens: u64) -> Option<f64> {
        self.gate_inside(Gate::LogDecay, head, tokens).mean()
    }

    /// Least and largest mean of log a inside the training length among the key rows of a head, where they differ.
    pub fn key_range(&self, head: usize) -> Option<(f64, f64)> {
        let rows = self.keys.chunks(self.shape.key_dim.max(1)).nth(head)?;
        let mean = |sum: &f64| sum / self.key_tokens;
        let least = rows.iter().map(mean).min_by(f64::total_cmp)?;
        let largest = rows.iter().map(mean).max_by(f64::total_cmp)?;
        (self.key_tokens > 0.0).then_some((least, largest))
    }

    /// How much of its state a head uses.
    pub fn usage(&self, head: usize) -> HeadUsage {
        self.usage.of(head)
    }

    fn offset(&self, gate: Gate) -> usize {
        self.shape.columns[..index(gate)].iter().sum()
    }

    /// Several streams' records as one: states averaged over the streams that got so far, gates pooled. `None` of none.
    pub fn pool(records: &[Self]) -> Option<Self> {
        let first = records.first()?;
        let mut pooled = Self::of(first.shape.clone(), first.plan.clone());
        for record in records {
            let gates = pooled.gates.iter_mut().zip(&record.gates);
            gates.for_each(|(mine, theirs)| mine.merge(theirs));
            let keys = pooled.keys.iter_mut().zip(&record.keys);
            keys.for_each(|(mine, theirs)| *mine += theirs);
            pooled.key_tokens += record.key_tokens;
        }
        pooled.usage = Usage::pool(records.iter().map(|record| &record.usage));
        let samples = records
            .iter()
            .map(|record| record.states.len())
            .max()
            .unwrap_or(0);
        for index in 0..samples {
            let there = || records.iter().filter(|record| record.states.len() > index);
            let states: Vec<StateStatistics> = there().map(|record| record.states[index]).collect();
            let strength = there().map(|record| record.strengths[index]).sum::<f64>() / states.len() as f64;
            pooled.states.extend(StateStatistics::average(&states));
            pooled.strengths.push(strength);
        }
        Some(pooled)
    }

    /// Everything recorded, as arrays by name.
    fn arrays(&self) -> Vec<(&'static str, Vec<f64>)> {
        let states = self.states.iter().flat_map(|state| state.to_array());
        let gates = self.gates.iter().flat_map(|tally| tally.to_array());
        let mut arrays = vec![
            ("states", states.collect()),
            ("strengths", self.strengths.clone()),
            ("strength", self.strength.clone()),
            ("gates", gates.collect()),
            ("keys", self.keys.clone()),
            ("key_tokens", vec![self.key_tokens]),
        ];
        arrays.extend(self.usage.arrays());
        arrays
    }

    /// The inverse of [`Self::arrays`], for a record of the same shape.
    ///
    /// # Errors
    /// One sentence about what is missing or of another length.
    pub(super) fn set_arrays(
        &mut self,
        array: impl Fn(&str) -> Option<Vec<f64>>,
    ) -> std::result::Result<(), String> {
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
        let (states, rest) = states.as_chunks::<{ state_statistics::FIELDS }>();
        if !rest.is_empty() || states.len() % self.heads().max(1) != 0 {
            return Err(format!(
                "probe.states: expected {} numbers for each of {} heads",
                state_statistics::FIELDS,
                self.heads()
            ));
        }
        self.strengths = of("strengths", Some(states.len()))?;
        self.states = states
            .iter()
            .map(|array| StateStatistics::from_array(*array))
            .collect();
        self.strength = of("strength", Some(self.heads()))?;
        let gates = of("gates", Some(3 * self.gates.len()))?;
        let (gates, _) = gates.as_chunks();
        self.gates = gates.iter().map(|array| Tally::from_array(*array)).collect();
        self.keys = of("keys", Some(self.keys.len()))?;
        self.key_tokens = of("key_tokens", Some(1))?[0];
        self.usage = Usage::from_arrays(self.heads(), self.shape.key_dim, array)?;
        Ok(())
    }

    /// Takes a sample of the state.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a state that is not of 32-bit floats.
    pub(super) fn sample(&mut self, memory: &Tensor<4>, position: u64) -> Result<()> {
        let [batch, heads, rows, columns] = memory.dims();
        let values = host(memory)?;
        let statistics = |state: &[f32]| match *state {
            [numerator, denominator, maximum] if self.shape.is_mean => {
                mean_statistics([numerator, denominator, maximum])
            }
            _ => state_statistics(state),
        };
        for head in 0..heads {
            let size = rows * columns;
            let of_sequence = |sequence: usize| &values[(sequence * heads + head) * size..][..size];
            let all: Vec<StateStatistics> = (0..batch)
                .map(|sequence| statistics(of_sequence(sequence)))
                .collect();
            self.states
                .push(StateStatistics::average(&all).unwrap_or_default());
        }
        self.strengths.extend_from_slice(&self.strength);
        let is_last = self.plan.positions.last() == Some(&position);
        if (position == self.plan.train_length || is_last) && !self.shape.is_mean {
            let ranks = values
                .chunks((rows * columns).max(1))
                .take(heads)
                .map(|state| effective_rank(state, rows, columns));
            self.usage
                .set_ranks(position == self.plan.train_length, ranks.collect());
        }
        Ok(())
    }

    /// The record of a stream that is done: what is left of the block of the operator becomes a number.
    pub(super) fn end(mut self) -> Self {
        self.usage.finish();
        self
    }

    /// Takes the transitions of tokens `position..`, and the queries of those beyond the training length, into the block of the operator
    /// that leads from the tokens before it to those behind; of the first sequence of a batch.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for queries that are not of 32-bit floats.
    pub(super) fn passage(&mut self, segment: &GateSegment, query: &Tensor<4>, position: u64) -> Result<()> {
        let (heads, key_dim) = (self.heads(), self.shape.key_dim);
        let middle = self.plan.train_length;
        let reach = WINDOW.min(middle);
        let window = middle - reach..middle.saturating_add(reach);
        let time = segment.dims().time;
        let end = position.saturating_add(time as u64);
        if self.shape.is_mean || key_dim > LARGEST_KEY || end <= window.start || position >= window.end {
            return Ok(());
        }
        let queries = if end > middle { host(query)? } else { Vec::new() };
        for token in 0..time {
            let at = position + token as u64;
            if !window.contains(&at) {
                continue;
            }
            for (head, block) in self.usage.blocks(heads, key_dim).iter_mut().enumerate() {
                let token = segment.block_token(token, head, &queries);
                match at < middle {
                    true => block.written(&token),
                    false => block.read(&token),
                }
            }
        }
        if end >= window.end {
            self.usage.finish();
        }
        Ok(())
    }

    /// Takes the gates of tokens `position..` and what was read after them in; none of them crosses a sample.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for read-outs that are not of 32-bit floats.
    pub(super) fn tokens(
        &mut self,
        segment: &GateSegment,
        read_out: &Tensor<4>,
        position: u64,
    ) -> Result<()> {
        let dims = *segment.dims();
        let interval = self.plan.positions.partition_point(|&end| end <= position);
        let row = self.shape.row();
        let [decay, step, erase, value, write, read, key] = Gate::ALL.map(|gate| self.offset(gate));
        let has_erase = self.columns(Gate::Erase) > 0;
        let (heads, tokens) = (dims.heads, dims.batch * dims.time);
        let Some(tallies) = self.gates.get_mut(interval * row..(interval + 1) * row) else {
            return Ok(()); // Beyond the last sample.
        };
        for token in 0..tokens {
            let first = position == 0 && token % dims.time == 0;
            for head in 0..heads {
                let found = segment.token(token, head);
                tallies[decay + head].add(found.log_decay);
                tallies[write + head].add(found.write);
                if has_erase {
                    tallies[erase + head].add(found.erase);
                }
                if !first {
                    self.strength[head] += found.log_decay / dims.batch as f64;
                }
            }
        }
        if let Some(steps) = segment.step_sizes() {
            add_columns(&mut tallies[step..erase], steps, 1);
        }
        add_columns(&mut tallies[value..write], segment.values(), dims.value_dim);
        let read_outs = host(read_out)?;
        add_columns(&mut tallies[read..key], &read_outs, dims.value_dim);
        add_columns(&mut tallies[key..], segment.keys(), dims.key_dim);
        if position < self.plan.train_length && segment.is_per_key() {
            self.add_keys(segment, tokens);
        }
        Ok(())
    }

    /// Sums log a of every key row.
    fn add_keys(&mut self, segment: &GateSegment, tokens: usize) {
        let width = self.shape.key_dim.max(1);
        for token in 0..tokens {
            for (head, sums) in self.keys.chunks_mut(width).enumerate() {
                let decays = segment.log_decays(token, head).iter();
                sums.iter_mut()
                    .zip(decays)
                    .for_each(|(sum, a)| *sum += f64::from(*a));
            }
        }
        self.key_tokens += tokens as f64;
    }
}

fn index(gate: Gate) -> usize {
    gate as usize
}

/// Adds `[…, columns, width]` to one tally per column.
fn add_columns(tallies: &mut [Tally], values: &[f32], width: usize) {
    let columns = tallies.len();
    if columns == 0 {
        return;
    }
    for (index, values) in values.chunks(width.max(1)).enumerate() {
        tallies[index % columns].add_all(values);
    }
}

impl InterventionState for SiteRecord {
    fn clone_box(&self) -> Box<dyn InterventionState> {
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
