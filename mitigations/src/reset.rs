//! Start again: the state is emptied at regular positions, with or without an overlap.
//!
//! The trivial cure, and the baseline that every other one has to beat: on plain text it is often within a few hundredths of
//! a nat of the best, while it can retrieve nothing from before the last reset. The short convolution is left alone, and the
//! layers above still receive what the layers below computed from older tokens.

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use crate::pieces::{in_pieces, next_multiple, own_state, own_states, saved_state};
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::mixer::{cat_rows, select_rows};
use spillway_ssm_core::{Error, Gates, Intervention, InterventionState, Site, State};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const RESET: Form = Form {
    name: "reset",
    syntax: "reset:N",
    summary: "empty the state every N tokens",
    parameters: &[Parameter::required("N", "period in tokens, at least 1")],
    works_on: "every model",
    calibrated: false,
    example: "reset:2048",
    parse: |written| {
        let [period] = written.exactly()?;
        Ok(Arc::new(Reset {
            period: written.tokens("period", period)?,
        }))
    },
};

pub(crate) const RESET_OVERLAP: Form = Form {
    name: "reset-overlap",
    syntax: "reset-overlap:N,M",
    summary: "every N tokens, go on from the last M tokens only",
    parameters: &[
        Parameter::required("N", "period in tokens, at least 1"),
        Parameter::required("M", "tokens that are kept, at least 1 and fewer than N"),
    ],
    works_on: "every model",
    calibrated: false,
    example: "reset-overlap:2048,1024",
    parse: |written| {
        let [period, overlap_text] = written.exactly()?;
        let period = written.tokens("period", period)?;
        let overlap = written.tokens("overlap", overlap_text)?;
        if overlap >= period {
            return Err(written.wrong_number("overlap", "fewer tokens than the period", overlap_text));
        }
        Ok(Arc::new(ResetOverlap { period, overlap }))
    },
};

/// `reset:N`: h ← 0 before every token whose position is a multiple of N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// N, at least 1.
    pub period: u64,
}

/// `reset-overlap:N,M`: before every token whose position is a multiple of N, h becomes the state that has seen only the last
/// M tokens.
///
/// That state is a second recurrence, started empty at kN − M, so the price is M/N more work and, from there on to kN, a
/// second state. A token sees between M + 1 and M + N tokens (fewer at the very beginning).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetOverlap {
    /// N, the period in tokens, above M.
    pub period: u64,
    /// M, at least 1 and below N.
    pub overlap: u64,
}

impl Intervention for Reset {
    fn text(&self) -> String {
        format!("reset:{}", self.period)
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let cut = |position| next_multiple(position, self.period);
        in_pieces(gates, state, cut, |piece, state| {
            if state.position > 0 && state.position.is_multiple_of(self.period) {
                state.memory = empty_like(site, state);
            }
            next(piece, state)
        })
    }
}

impl Part for Reset {
    fn role(&self) -> Role {
        Role::Reset
    }
}

impl Part for ResetOverlap {
    fn role(&self) -> Role {
        Role::ResetOverlap
    }
}

/// What `state` was before the first token.
pub(crate) fn empty_like(site: &Site, state: &State) -> Tensor<4> {
    let [batch, _, _, _] = state.memory.dims();
    site.empty_state(batch, &state.memory.device()).memory
}

/// The state that will take over at the next reset, while it is being prepared.
#[derive(Clone, Debug, Default)]
struct Successor(Option<State>);

impl InterventionState for Successor {
    fn clone_box(&self) -> Box<dyn InterventionState> {
        Box::new(self.clone())
    }

    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, State::bytes)
    }

    fn save(&self) -> BTreeMap<String, TensorData> {
        self.0
            .iter()
            .map(|state| ("successor".into(), state.memory.to_data()))
            .collect()
    }

    fn select(&self, rows: &[usize]) -> Result<Box<dyn InterventionState>, Error> {
        let selected = |state: &State| {
            Ok::<_, Error>(State {
                memory: select_rows(&state.memory, rows)?,
                position: state.position,
            })
        };
        Ok(Box::new(Self(self.0.as_ref().map(selected).transpose()?)))
    }

    fn cat(&self, others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>, Error> {
        let others = own_states::<Self>(others)?;
        let all: Vec<&State> = [self]
            .into_iter()
            .chain(others.iter().copied())
            .flat_map(|one| &one.0)
            .collect();
        let Some(first) = all.first().filter(|_| all.len() == others.len() + 1) else {
            return match all.len() {
                0 => Ok(Box::new(Self(None))),
                some => Err(Error::Value {
                    what: "second states of a reset to join",
                    expected: "those of sequences at one position, all there or none",
                    found: format!("{some} of {}", others.len() + 1),
                }),
            };
        };
        let memories = all.iter().map(|state| state.memory.clone());
        Ok(Box::new(Self(Some(State {
            memory: cat_rows("second state of a reset", memories.collect())?,
            position: first.position,
        }))))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Intervention for ResetOverlap {
    fn text(&self) -> String {
        format!("reset-overlap:{},{}", self.period, self.overlap)
    }

    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn InterventionState> {
        Box::new(Successor::default())
    }

    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>, Error> {
        let memory = saved_state(saved, "successor", site.state_shape(batch), device)?;
        // The position is set from the main state's before each use.
        Ok(Box::new(Successor(
            memory.map(|memory| State { memory, position: 0 }),
        )))
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let Successor(successor) = own_state(own)?;
        let alone = self.period - self.overlap;
        let cut = |position: u64| match position % self.period {
            phase if phase < alone => position.saturating_add(alone - phase),
            phase => position.saturating_add(self.period - phase),
        };
        in_pieces(gates, state, cut, |piece, state| {
            let phase = state.position % self.period;
            if phase == 0 && state.position > 0 {
                state.memory = match successor.take() {
                    Some(ready) => ready.memory,
                    None => empty_like(site, state),
                };
            }
            if phase >= alone {
                let empty = || State {
                    memory: empty_like(site, state),
                    position: 0,
                };
                let second = successor.get_or_insert_with(empty);
                second.position = state.position;
                next(piece.clone(), second)?;
            }
            next(piece, state)
        })
    }
}
