//! Batches of states, divided into their sequences and joined.
//!
//! Every sequence has its own position, which mixers look at for rotary embeddings and key-value caches. A recurrence needs
//! none. Interventions do where they act at positions (resets, windows), and a batch has one position for all of them: they
//! are refused for sequences of different lengths, by [`ModelState::cat`] and [`crate::Model::prefill_batch`] alike, before anything
//! is computed. They work on batches of one length, and sequence by sequence.

use spillway_ssm_core::{Chain, MixerState};

use super::{LayerState, ModelState, ask_for_states};
use crate::error::ModelError;

impl ModelState {
    /// The states of these sequences of the batch, in this order; one may be taken several times.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for a sequence that is not there, [`ModelError::Budget`] when the machine has no memory for so
    /// many, [`ModelError::Layer`] for an intervention whose state cannot be divided.
    pub fn select(&self, rows: &[usize]) -> Result<Self, ModelError> {
        if let Some(row) = rows.iter().find(|row| **row >= self.batch()) {
            return Err(ModelError::Batch {
                what: "sequence",
                expected: format!("an index below {}", self.batch()),
                found: row.to_string(),
            });
        }
        let one = self.bytes() / self.batch().max(1);
        ask_for_states(Some(one as u64), rows.len())?;
        let layers = self.layers.iter().map(|layer| {
            Ok(LayerState {
                mixer: layer.mixer.select(rows)?,
                channel: layer.channel.select(rows)?,
            })
        });
        let mut selected = Self {
            layers: layers.collect::<Result<_, ModelError>>()?,
            chain: self.chain.clone(),
            positions: rows.iter().map(|row| self.positions[*row]).collect(),
            prefix: match &self.prefix {
                Some(prefix) => Some(prefix.select(rows)?),
                None => None,
            },
        };
        let position = selected.position();
        selected
            .recurrences_mut()
            .for_each(|recurrence| recurrence.state.position = position);
        Ok(selected)
    }

    /// One batch of the sequences of all `states`, in their order.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for no states, for states of different models or chains, and for sequences of different lengths
    /// under an intervention that acts at positions; [`ModelError::Layer`] for an intervention whose states cannot be joined.
    pub fn cat(states: &[&Self]) -> Result<Self, ModelError> {
        let Some((first, others)) = states.split_first() else {
            return Err(different("states", "at least one", "none"));
        };
        for other in others {
            let (expected, found) = (first.layers.len(), other.layers.len());
            if expected != found {
                return Err(different("layers", &expected.to_string(), &found.to_string()));
            }
            if first.chain.identity() != other.chain.identity() {
                return Err(different(
                    "interventions",
                    &first.chain.identity(),
                    &other.chain.identity(),
                ));
            }
            if first.prefix.is_some() || other.prefix.is_some() {
                let expected = "none that is still to be read: join sequences before or after it";
                return Err(different("prefixes", expected, "one"));
            }
        }
        let positions: Vec<u64> = states.iter().flat_map(|state| state.positions.clone()).collect();
        expect_one_length(&first.chain, positions.iter().copied())?;
        let layers = (0..first.layers.len()).map(|index| {
            let mixers: Vec<&MixerState> = states.iter().map(|state| &state.layers[index].mixer).collect();
            let channels: Vec<&MixerState> =
                states.iter().map(|state| &state.layers[index].channel).collect();
            Ok(LayerState {
                mixer: MixerState::cat(&mixers)?,
                channel: MixerState::cat(&channels)?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_, ModelError>>()?,
            chain: first.chain.clone(),
            positions,
            prefix: None,
        })
    }
}

fn different(what: &'static str, expected: &str, found: &str) -> ModelError {
    ModelError::Batch {
        what,
        expected: expected.into(),
        found: found.into(),
    }
}

/// Refuses sequences of different lengths under an intervention that acts at positions.
pub(crate) fn expect_one_length(
    chain: &Chain,
    lengths: impl Iterator<Item = u64> + Clone,
) -> Result<(), ModelError> {
    let (shortest, longest) = (lengths.clone().min(), lengths.max());
    match chain.looking_at_positions() {
        Some(intervention) if shortest != longest => Err(ModelError::Batch {
            what: "lengths",
            expected: format!(
                "one for all sequences, because {} acts at positions; run sequences of different lengths one by one",
                intervention.text()
            ),
            found: format!("{} to {}", shortest.unwrap_or(0), longest.unwrap_or(0)),
        }),
        _ => Ok(()),
    }
}
