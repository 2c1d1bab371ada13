//! State normalisation: no head's state may grow beyond a norm that it had in training.
//!
//! ```text
//! ĥ_t = a_t ∘ h_{t-1} + k_t (δ_t v_t)ᵀ          h_t = ĥ_t · min(1, p / ‖ĥ_t‖_F)
//! ```
//!
//! per head, with the Frobenius norm. A clipped head forgets exactly as fast as it is written: all older memories shrink by
//! the same factor. The factor depends on the state, so the recurrence is no longer linear: there is no chunked form that
//! gives the same numbers, and no sliding window. There are therefore two modes.
//!
//! | text | what is clipped | in prefill |
//! |---|---|---|
//! | `state-norm:P` | the state after every token: the definition | token by token |
//! | `state-norm:P,chunk=64` | the state after every 64th token, by absolute position | chunks |
//!
//! Both do the same in decode as in prefill, however the tokens are split among calls. They differ from each other: between
//! two clips the second mode lets the state grow, and its tokens read the grown state.
//!
//! Where P comes from. An absolute P is the same for all heads of all layers, although their norms differ by orders of
//! magnitude, and clipping changes the ratio between heads. `state-norm:auto` takes one P per head of every layer from norms
//! recorded inside the training length (see [`crate::calibrate`]), `state-norm:auto*2` twice that.
//!
//! The published implementation multiplies by ‖h‖/p where it should divide, so it amplifies what it means to clip; it acts
//! in prefill only, and it ignores its own multiplier. Source of the idea: *State Collapse and State Capacity of RNN-Based
//! Long-Context Modeling*, 2410.07145 version 1.

use crate::calibrate::{Thresholds, frobenius_norms};
use crate::pieces::{count_data, in_pieces, next_multiple, own_memory, saved_count};
use burn::tensor::{Device, Tensor, TensorData};
use ssm_core::intervention::Next;
use ssm_core::{Error, Gates, Incompatible, Intervention, Memory, Rule, Site, State, recurrence_bounded};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a head's largest norm comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Threshold {
    /// The same norm for every head of every layer.
    Absolute(f64),
    /// A multiple of what calibration recorded for each head; `None` until it has.
    Calibrated {
        /// What the recorded norms are multiplied by.
        multiplier: f64,
        /// The recorded norms.
        recorded: Option<Arc<Thresholds>>,
    },
}

/// `state-norm:P`, `state-norm:auto`, `state-norm:auto*F`, each also with `,chunk=Q`.
///
/// In a chain it stands innermost: the parser puts it there.
#[derive(Clone, Debug, PartialEq)]
pub struct StateNorm {
    /// The largest norm.
    pub threshold: Threshold,
    /// `None` clips after every token, `Some(Q)` after every Q-th.
    pub chunk: Option<u64>,
}

impl StateNorm {
    /// p of every head of this layer.
    fn bound(&self, site: &Site) -> Result<Vec<f32>, Incompatible> {
        let incompatible = |reason: String| Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason,
        };
        match &self.threshold {
            Threshold::Absolute(norm) => Ok(vec![*norm as f32; site.heads]),
            Threshold::Calibrated { recorded: None, .. } => Err(incompatible(
                "its thresholds are not known yet: calibrate it on text inside the training length, or give a number instead \
                 of auto"
                    .into(),
            )),
            Threshold::Calibrated { multiplier, recorded: Some(recorded) } => {
                let heads = recorded.layers().get(site.layer).map(Vec::as_slice).unwrap_or_default();
                if heads.len() != site.heads {
                    return Err(incompatible(format!(
                        "it was calibrated for another model: expected thresholds of {} heads, found {}; calibrate it on this one",
                        site.heads,
                        heads.len()
                    )));
                }
                Ok(heads.iter().map(|norm| (f64::from(*norm) * multiplier) as f32).collect())
            }
        }
    }
}

/// How many states were looked at, and how many of them clipped; those of a reset's second recurrence count too.
#[derive(Clone, Debug, Default)]
struct Clipped {
    seen: u64,
    clipped: u64,
}

impl Memory for Clipped {
    fn clone_box(&self) -> Box<dyn Memory> {
        Box::new(self.clone())
    }

    fn bytes(&self) -> usize {
        0
    }

    fn save(&self) -> BTreeMap<String, TensorData> {
        BTreeMap::from([
            ("seen".into(), count_data(self.seen)),
            ("clipped".into(), count_data(self.clipped)),
        ])
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let share = if self.seen == 0 {
            0.0
        } else {
            self.clipped as f64 / self.seen as f64
        };
        BTreeMap::from([("clipped_share".into(), share)])
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Intervention for StateNorm {
    fn text(&self) -> String {
        let norm = match &self.threshold {
            Threshold::Absolute(norm) => norm.to_string(),
            Threshold::Calibrated { multiplier: 1.0, .. } => "auto".into(),
            Threshold::Calibrated { multiplier, .. } => format!("auto*{multiplier}"),
        };
        match self.chunk {
            None => format!("state-norm:{norm}"),
            Some(chunk) => format!("state-norm:{norm},chunk={chunk}"),
        }
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if site.rule != Rule::WeightedSum {
            return Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason: "this layer's state is normalised or kept relative to a maximum already, so its norm says nothing; use \
                         forget:C or reset:N"
                    .into(),
            });
        }
        self.bound(site).map(|_| ())
    }

    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn Memory> {
        Box::new(Clipped::default())
    }

    fn restore(
        &self,
        _site: &Site,
        _batch: usize,
        _device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn Memory>, Error> {
        Ok(Box::new(Clipped {
            seen: saved_count(saved, "seen")?,
            clipped: saved_count(saved, "clipped")?,
        }))
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        memory: &mut dyn Memory,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let bound = Tensor::<1>::from_floats(self.bound(site)?.as_slice(), &gates.value.device());
        let counts: &mut Clipped = own_memory(memory)?;
        let dims = gates.dims();
        let states = (dims.batch * dims.heads) as u64;
        let Some(chunk) = self.chunk else {
            let (output, clipped) = recurrence_bounded(gates, state, &bound)?;
            counts.seen += states * dims.time as u64;
            counts.clipped += clipped;
            return Ok(output);
        };
        in_pieces(
            gates,
            state,
            |position| next_multiple(position, chunk),
            |piece, state| {
                let output = next(piece, state)?;
                if state.position.is_multiple_of(chunk) {
                    counts.seen += states;
                    counts.clipped += clip(state, &bound)?;
                }
                Ok(output)
            },
        )
    }
}

/// h ← h · min(1, p/‖h‖) per head; how many states that changed.
fn clip(state: &mut State, bound: &Tensor<1>) -> Result<u64, Error> {
    let norms = frobenius_norms(&state.memory);
    let [_, heads] = norms.dims();
    let bound = bound.clone().reshape([1, heads]);
    let above = norms
        .clone()
        .greater(bound.clone())
        .int()
        .sum()
        .try_into_scalar::<i64>();
    let clipped = above.map_err(|error| Error::Value {
        what: "norms of the state",
        expected: "readable from the device",
        found: error.to_string(),
    })?;
    if clipped > 0 {
        // A norm of 0 gives p/0 = ∞, which the clamp turns into 1.
        let factor = (bound / norms).clamp_max(1.0);
        let memory = state.take();
        state.memory = memory * factor.unsqueeze_dims::<4>(&[2, 3]);
    }
    Ok(clipped.unsigned_abs())
}
