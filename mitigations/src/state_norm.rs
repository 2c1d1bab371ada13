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
//! Where there is no kernel that does both at once (delta rules, devices other than the CPU, gradients), the first mode calls
//! the recurrence once per token.
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

use crate::calibrate::{Calibration, CalibrationError, Table, numbers};
use crate::form::{Form, Parameter};
use crate::mitigation::{Calibratable, Part, Role};
use crate::observer::frobenius_norms;
use crate::pieces::{count_data, in_pieces, next_multiple, own_state, own_states, saved_count};
use crate::written::{ParseError, Written};
use burn::tensor::{Device, Int, Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{
    Error, Gates, Incompatible, Intervention, InterventionState, ReadOut, Rule, Site, State,
    recurrence_bounded,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "state-norm",
    syntax: "state-norm:P|auto|auto*F[,chunk=Q]",
    summary: "bound the norm of every head's state by P, or by F times its norms in training",
    parameters: &[
        Parameter::required("P", "largest Frobenius norm of a head's state, above 0"),
        Parameter::required(
            "auto",
            "each head's largest norm inside the training length, times F if given",
        ),
        Parameter::optional("F", "factor of these norms, above 0", "1"),
        Parameter::optional(
            "chunk",
            "bound the state after every Q-th token only, Q in tokens",
            "after every token",
        ),
    ],
    works_on: "every model but RWKV-4",
    calibrated: true,
    example: "state-norm:auto",
    parse: |written| parse(written).map(|norm| Arc::new(norm) as Arc<dyn Part>),
};

/// Where a head's largest norm comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Threshold {
    /// The same norm for every head of every layer.
    Absolute(f64),
    /// A multiple of what calibration recorded for each head; `None` until it has.
    Calibrated {
        /// What the recorded norms are multiplied by.
        multiplier: f64,
        /// The norm that calibration recorded for each head.
        recorded: Option<Arc<Table>>,
    },
}

/// `state-norm:P`, `state-norm:auto`, `state-norm:auto*F`, each also with `,chunk=Q`.
///
/// In a chain it stands innermost: the parser puts it there.
#[derive(Clone, Debug, PartialEq)]
pub struct StateNorm {
    /// p, the largest norm of a head's state, and where it comes from.
    pub threshold: Threshold,
    /// `None` clips after every token, `Some(Q)` after every Q-th.
    pub chunk: Option<u64>,
}

impl StateNorm {
    /// p of every head of this layer.
    fn bound(&self, site: &Site) -> Result<Vec<f32>, Incompatible> {
        match &self.threshold {
            Threshold::Absolute(norm) => Ok(vec![*norm as f32; site.heads]),
            Threshold::Calibrated { multiplier, recorded } => {
                // A head that never held anything gets the smallest number instead of 0: 0/0 would be no number.
                let scaled = |norm: &f32| ((f64::from(*norm) * multiplier) as f32).max(f32::MIN_POSITIVE);
                Ok(numbers(self, recorded.as_deref(), site)?
                    .iter()
                    .map(scaled)
                    .collect())
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

impl InterventionState for Clipped {
    fn clone_box(&self) -> Box<dyn InterventionState> {
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

    /// The counts are of the batch as a whole, and so is their share.
    fn select(&self, _rows: &[usize]) -> Result<Box<dyn InterventionState>, Error> {
        Ok(Box::new(self.clone()))
    }

    fn cat(&self, others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>, Error> {
        let others = own_states::<Self>(others)?;
        let all = || others.iter().copied().chain([self]);
        Ok(Box::new(Self {
            seen: all().map(|counts| counts.seen).sum(),
            clipped: all().map(|counts| counts.clipped).sum(),
        }))
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

    fn looks_at_positions(&self) -> bool {
        self.chunk.is_some()
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if site.rule == Rule::Mean {
            return Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason: "this layer keeps a weighted mean relative to a maximum, so its state's norm says nothing; use forget:C \
                         or reset:N"
                    .into(),
            });
        }
        self.bound(site).map(|_| ())
    }

    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn InterventionState> {
        Box::new(Clipped::default())
    }

    fn restore(
        &self,
        _site: &Site,
        _batch: usize,
        _device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>, Error> {
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
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let bound = Tensor::<1>::from_floats(self.bound(site)?.as_slice(), &gates.value.device());
        let counts: &mut Clipped = own_state(own)?;
        let dims = gates.dims();
        let states = (dims.batch * dims.heads) as u64;
        let Some(chunk) = self.chunk else {
            let (output, clipped) = bounded(gates, state, &bound, next)?;
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
                    counts.clipped += count(clip(state, &bound).1)?;
                }
                Ok(output)
            },
        )
    }
}

impl Part for StateNorm {
    fn role(&self) -> Role {
        Role::Norm
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        match self.threshold {
            Threshold::Absolute(_) => None,
            Threshold::Calibrated { .. } => Some(self),
        }
    }
}

impl Calibratable for StateNorm {
    fn table(&self) -> Option<&Table> {
        match &self.threshold {
            Threshold::Absolute(_) => None,
            Threshold::Calibrated { recorded, .. } => recorded.as_deref(),
        }
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        calibration.table(|_, head| head.norm)
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        let mut calibrated = self.clone();
        if let Threshold::Calibrated { recorded, .. } = &mut calibrated.threshold {
            *recorded = Some(Arc::new(table));
        }
        Arc::new(calibrated)
    }
}

/// The recurrence with every state bounded, by the kernel that does both where there is one.
fn bounded(
    gates: Gates,
    state: &mut State,
    bound: &Tensor<1>,
    next: &mut Next<'_>,
) -> Result<(Tensor<4>, u64), Error> {
    if gates.rule() == Rule::WeightedSum {
        match recurrence_bounded(gates.clone(), state, bound) {
            Err(Error::Unsupported { .. }) => {}
            result => return result,
        }
    }
    token_by_token(gates, state, bound, next)
}

/// Runs the recurrence one token per call. A read-out after the update sees the clipped state; it is linear in the state, so it shrinks as the
/// state does, all but its skip.
fn token_by_token(
    mut gates: Gates,
    state: &mut State,
    bound: &Tensor<1>,
    next: &mut Next<'_>,
) -> Result<(Tensor<4>, u64), Error> {
    let dims = gates.dims();
    let skipped = gates.skip.take().map(|skip| {
        let columns = skip.dims()[0] / dims.heads.max(1);
        gates.value.clone() * skip.reshape([1, 1, dims.heads, columns])
    });
    let after_update = matches!(gates.read_out, ReadOut::Inclusive);
    let mut clipped = None;
    let each = |position: u64| position.saturating_add(1);
    let output = in_pieces(gates, state, each, |piece, state| {
        let output = next(piece, state)?;
        let (factors, above) = clip(state, bound);
        clipped = Some(match clipped.take() {
            None => above,
            Some(earlier) => above + earlier,
        });
        Ok(match after_update {
            true => output * factors.unsqueeze_dims::<4>(&[1, 3]),
            false => output,
        })
    })?;
    let clipped = clipped.map_or(Ok(0), count)?;
    Ok(match skipped {
        Some(skipped) => (output + skipped, clipped),
        None => (output, clipped),
    })
}

/// h ← h · min(1, p/‖h‖) per head; the factors, `[batch, heads]`, and how many of them are below 1.
fn clip(state: &mut State, bound: &Tensor<1>) -> (Tensor<2>, Tensor<1, Int>) {
    let norms = frobenius_norms(&state.memory);
    let [batch, heads] = norms.dims();
    let bound = bound.clone().reshape([1, heads]).expand([batch, heads]);
    let above = norms.clone().greater(bound.clone()).int().sum();
    // A norm of 0 gives p/0 = ∞, which the clamp turns into 1.
    let factors = (bound / norms).clamp_max(1.0);
    state.memory = state.take() * factors.clone().unsqueeze_dims::<4>(&[2, 3]);
    (factors, above)
}

fn count(clipped: Tensor<1, Int>) -> Result<u64, Error> {
    let count = clipped.try_into_scalar::<i64>().map_err(|error| Error::Value {
        what: "norms of the state",
        expected: "readable from the device",
        found: error.to_string(),
    })?;
    Ok(count.unsigned_abs())
}

fn parse(written: &Written<'_>) -> Result<StateNorm, ParseError> {
    let ([norm], [chunk]) = written.values_and(["chunk"])?;
    let threshold = match norm.strip_prefix("auto") {
        None => Threshold::Absolute(written.positive("threshold", norm)?),
        Some(rest) => {
            let multiplier = match rest.trim() {
                "" => 1.0,
                factor => match factor.strip_prefix('*') {
                    Some(factor) => written.positive("factor of the calibrated thresholds", factor.trim())?,
                    None => return Err(written.wrong_arguments(format!("auto{factor}"))),
                },
            };
            Threshold::Calibrated {
                multiplier,
                recorded: None,
            }
        }
    };
    let chunk = chunk.map(|chunk| written.tokens("chunk", chunk)).transpose()?;
    Ok(StateNorm { threshold, chunk })
}
