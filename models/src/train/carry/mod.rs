//! What a sequence starts from: the states that are carried between the segments of a batch, and from batch to batch.
//!
//! ```text
//! batch i     h ← start ─► segment ─► (cut?) ─► segment ─► … ─► h_end ┐
//!                                                                     │ always cut
//! batch i+1   h ← start  ◄────────────────────────────────────────────┘
//! ```
//!
//! | to have | `carry` | and |
//! |---|---|---|
//! | every sequence by itself | no | |
//! | state passing: the state of an unrelated text | yes | shuffled data |
//! | truncated back-propagation through time | yes | data in the order of the documents; `restart_documents` where a document's state shall not reach the next one |
//! | long sequences in little memory | | `segment`, `backpropagation` truncated |
//! | long sequences with all their gradients | | `segment`, or one segment: the same gradients |
//! | states that training would not come to | no | `initial`: noise, or noise fitted to final states |
//!
//! State passing and truncated back-propagation are one mechanism; the order of the data makes the difference. Source:
//! Buitrago & Gu, *Understanding and improving length generalization in recurrent models* (2507.02782), whose four ways to start
//! are these: noise, fitted noise, state passing, truncated back-propagation.
//!
//! Recurrent states, convolutions' taps and token shifts are carried to whatever text follows. Keys and values of attention are
//! not: a sequence that goes on with another text starts with an empty cache at position 0. While a text goes on its cache is
//! carried, so that a cache without a window grows to the length of the text.
//!
//! Everything that is drawn is a function of the seed, the number of the batch and the row: nothing has to be remembered about
//! random numbers, and no row's depend on another's.

mod config;
mod fitted;
mod noise;

use std::collections::BTreeMap;

use burn::tensor::{DType, TensorData};
use spillway_ssm_core::{Chain, MixerState, Site};

pub use config::{Backpropagation, CarryConfig, Initial};

use self::fitted::Fitted;
use self::noise::Draw;
use super::Batch;
use crate::error::ModelError;
use crate::state::{LayerState, ModelState, file};

/// The entry that says how many tokens the sequences of a carried state have seen.
const POSITIONS: &str = "state.positions";

/// Carries states, and draws those that sequences start from.
///
/// For every batch: [`begin`](Self::begin), then for every segment of [`segment`](Self::segment) tokens the model, with
/// [`between`](Self::between) between two of them, then [`end`](Self::end).
#[derive(Clone, Debug)]
pub struct Carry {
    config: CarryConfig,
    seed: u64,
    sites: Vec<Site>,
    /// The states after the batch before, without autodiff.
    carried: Option<ModelState>,
    fitted: Option<Fitted>,
}

impl Carry {
    /// A beginning with nothing carried yet. `sites` are those of the model, layer by layer.
    ///
    /// # Errors
    /// [`ModelError::Option`] for a number out of range.
    pub fn new(config: &CarryConfig, seed: u64, sites: &[Site]) -> Result<Self, ModelError> {
        config.validate()?;
        let fitted = match config.initial {
            Initial::Fitted { momentum } => Some(Fitted::new(momentum, sites)),
            Initial::Zero | Initial::Noise { .. } => None,
        };
        Ok(Self {
            config: config.clone(),
            seed,
            sites: sites.to_vec(),
            carried: None,
            fitted,
        })
    }

    /// Tokens of each segment of `batch`.
    pub fn segment(&self, batch: &Batch) -> usize {
        self.config.segment.unwrap_or(batch.time).max(1)
    }

    /// Whether gradients stop between the segments of a batch, so that each may be propagated back as soon as it is computed.
    pub fn is_truncated(&self) -> bool {
        self.config.backpropagation == Backpropagation::Truncated
    }

    /// What the sequences of the batch start from. `fresh` is the empty state of as many sequences, on the device where they will
    /// be trained; `index` is the number of the batch from the beginning of the training.
    ///
    /// A row is, in this order: empty, with the probability of a reset; the end of the same row of the batch before, where states
    /// are carried; the configured initial state.
    ///
    /// # Errors
    /// [`ModelError::Batch`] when batch, fresh and carried state are not of as many sequences; [`ModelError::Layer`] for a state
    /// with interventions.
    pub fn begin(&self, fresh: ModelState, batch: &Batch, index: u64) -> Result<ModelState, ModelError> {
        let rows = batch.sequences;
        expect_rows("sequences of the fresh state", rows, fresh.batch())?;
        expect_rows("rows that say whether they continue", rows, batch.continues.len())?;
        let (mut carried, mut drawn) = (vec![false; rows], vec![false; rows]);
        for row in 0..rows {
            if noise::is_reset(self.seed, index, row, self.config.reset_probability) {
                continue;
            }
            let goes_on = batch.continues[row] || !self.config.restart_documents;
            carried[row] = goes_on && self.carried.is_some();
            drawn[row] = !carried[row];
        }
        let initial = self.initial(fresh, &drawn, index);
        match &self.carried {
            Some(state) => joined(state, initial, &carried, &batch.continues),
            None => Ok(initial),
        }
    }

    /// The state between two segments of a batch: cut from the graph, or as it is.
    ///
    /// # Errors
    /// As [`ModelState::detach`].
    pub fn between(&self, state: ModelState) -> Result<ModelState, ModelError> {
        match self.config.backpropagation {
            Backpropagation::Full => Ok(state),
            Backpropagation::Truncated => state.detach(),
        }
    }

    /// Takes in the state after the last segment of a batch: always cut from the graph.
    ///
    /// # Errors
    /// [`ModelError::Layer`] for a state with interventions, or one that is to be fitted and is not finite.
    pub fn end(&mut self, state: ModelState) -> Result<(), ModelError> {
        if self.fitted.is_none() && !self.config.carry {
            return Ok(());
        }
        let mut state = match state.device() {
            Some(device) => state.to_device(&device.inner())?,
            None => state,
        };
        if let Some(fitted) = &mut self.fitted {
            fitted.update(&self.sites, &state)?;
        }
        if self.config.carry {
            let parts = state.layers.iter_mut();
            for part in parts.flat_map(|layer| [&mut layer.mixer, &mut layer.channel]) {
                // As it would come out of a file, so that an interrupted training goes on to the same bits.
                part.compact();
            }
            self.carried = Some(state);
        }
        Ok(())
    }

    /// The empty state with the rows in `drawn` replaced by what sequences start from.
    fn initial(&self, mut state: ModelState, drawn: &[bool], index: u64) -> ModelState {
        if !drawn.contains(&true) {
            return state;
        }
        for (number, (site, recurrence)) in self.sites.iter().zip(state.recurrences_mut()).enumerate() {
            let draw = match (&self.config.initial, &self.fitted) {
                (Initial::Noise { deviation }, _) => Draw::around_zero(site, *deviation),
                (Initial::Fitted { .. }, Some(fitted)) => match fitted.draw(number) {
                    Some(draw) => draw,
                    None => continue,
                },
                (Initial::Zero | Initial::Fitted { .. }, _) => continue,
            };
            let stream = |row| noise::stream(self.seed, index, row, number as u64);
            recurrence.state.memory = draw.rows(site, drawn, &recurrence.state.memory, stream);
        }
        state
    }

    /// Everything needed to go on, by name: `state.layers.N.mixer.NAME`, `state.positions`, `fitted.NAME`.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let mut saved = BTreeMap::new();
        if let Some(state) = &self.carried {
            let entries = file::entries(state).into_iter();
            saved.extend(entries.map(|(name, data)| (format!("state.{name}"), data)));
            let positions: Vec<i64> = state.positions.iter().map(|&position| position as i64).collect();
            saved.insert(POSITIONS.into(), TensorData::new(positions, [state.batch()]));
        }
        if let Some(fitted) = &self.fitted {
            let entries = fitted.save().into_iter();
            saved.extend(entries.map(|(name, data)| (format!("fitted.{name}"), data)));
        }
        saved
    }

    /// Takes up what [`Carry::save`] gave with the same configuration and model; `fresh` is the empty state of as many sequences
    /// as a batch has.
    ///
    /// # Errors
    /// [`ModelError::Layer`] for an entry that is missing or does not fit.
    pub fn restore(
        &mut self,
        saved: &BTreeMap<String, TensorData>,
        fresh: ModelState,
    ) -> Result<(), ModelError> {
        let fitted = match &self.fitted {
            Some(fitted) => Some(fitted.restored(&below(saved, "fitted."))?),
            None => None,
        };
        self.carried = match saved.get(POSITIONS) {
            Some(positions) => Some(self.restored_state(saved, positions, fresh)?),
            None => None,
        };
        self.fitted = fitted;
        Ok(())
    }

    fn restored_state(
        &self,
        saved: &BTreeMap<String, TensorData>,
        positions: &TensorData,
        fresh: ModelState,
    ) -> Result<ModelState, ModelError> {
        let rows = fresh.batch();
        if positions.dtype() != DType::I64 || positions.shape().as_slice() != [rows] {
            return Err(ModelError::Layer(spillway_ssm_core::Error::Saved {
                what: POSITIONS.into(),
                expected: format!("I64 [{rows}]"),
                found: format!("{:?} {:?}", positions.dtype(), positions.shape().as_slice()),
            }));
        }
        let mut state = match fresh.device() {
            Some(device) => fresh.to_device(&device.inner())?,
            None => fresh,
        };
        state.positions = positions.iter::<i64>().map(i64::unsigned_abs).collect();
        let position = state.position();
        for (layer, state) in state.layers.iter_mut().enumerate() {
            let sites = self.sites.iter().filter(|site| site.layer == layer);
            let sites: Vec<Site> = sites.cloned().collect();
            for (part, state) in [("mixer", &mut state.mixer), ("channel", &mut state.channel)] {
                let entries = below(saved, &format!("state.layers.{layer}.{part}."));
                state.restore(&entries, &sites, &Chain::default(), position)?;
            }
        }
        Ok(state)
    }
}

/// As [`joined`], of one mixer's state: rows of caches are those that `related` names.
fn chosen(
    carried: &MixerState,
    initial: &MixerState,
    taken: &[bool],
    related: &[bool],
) -> spillway_ssm_core::Result<MixerState> {
    match (carried, initial) {
        (MixerState::Several(carried), MixerState::Several(initial)) if carried.len() == initial.len() => {
            let parts = carried.iter().zip(initial);
            let parts = parts.map(|(carried, initial)| chosen(carried, initial, taken, related));
            Ok(MixerState::Several(parts.collect::<Result<_, _>>()?))
        }
        (MixerState::Attention(_), _) => MixerState::choose(related, carried, initial),
        _ => MixerState::choose(taken, carried, initial),
    }
}

/// The rows of `carried` that `taken` names, those of `initial` elsewhere; caches of attention only where the text goes on.
fn joined(
    carried: &ModelState,
    initial: ModelState,
    taken: &[bool],
    continues: &[bool],
) -> Result<ModelState, ModelError> {
    expect_rows("sequences of the carried state", taken.len(), carried.batch())?;
    expect_rows(
        "layers of the carried state",
        initial.layers.len(),
        carried.layers.len(),
    )?;
    let related: Vec<bool> = taken.iter().zip(continues).map(|(a, b)| *a && *b).collect();
    let carried = match initial.device() {
        Some(device) => carried.clone().to_device(&device)?,
        None => carried.clone(),
    };
    let choose = |carried: &MixerState, initial: &MixerState| chosen(carried, initial, taken, &related);
    let layers = carried.layers.iter().zip(&initial.layers);
    let layers = layers.map(|(carried, initial)| {
        Ok(LayerState {
            mixer: choose(&carried.mixer, &initial.mixer)?,
            channel: choose(&carried.channel, &initial.channel)?,
        })
    });
    let positions = related.iter().zip(&carried.positions);
    let positions = positions.map(|(related, position)| if *related { *position } else { 0 });
    let mut state = ModelState {
        layers: layers.collect::<Result<_, ModelError>>()?,
        chain: initial.chain,
        positions: positions.collect(),
        prefix: initial.prefix,
    };
    let position = state.position();
    state
        .recurrences_mut()
        .for_each(|recurrence| recurrence.state.position = position);
    Ok(state)
}

fn expect_rows(what: &'static str, expected: usize, found: usize) -> Result<(), ModelError> {
    if expected == found {
        return Ok(());
    }
    Err(ModelError::Batch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

/// The entries whose name starts with `prefix`, without it.
fn below(saved: &BTreeMap<String, TensorData>, prefix: &str) -> BTreeMap<String, TensorData> {
    let entries = saved.iter();
    entries
        .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_string(), data.clone())))
        .collect()
}
