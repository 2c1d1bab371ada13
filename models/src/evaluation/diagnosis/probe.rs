//! Samples gates and states as they pass, and changes nothing.
//!
//! The probe is an intervention: it sees the gates of the tokens at hand, hands them on in pieces that end where a sample at
//! the state is due, and looks. What it records is a [`SiteRecord`].

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::error::{Error, Result};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Gates, Intervention, InterventionState, Site, State};

use super::gates::GateSegment;
use super::record::{Plan, SiteRecord};

/// Records statistics of states at given positions, and of gates and read-outs between them.
#[derive(Clone, Debug)]
pub struct Probe {
    plan: Plan,
}

impl Probe {
    /// A probe that looks at the state after each of these numbers of tokens, which ascend, in a model trained on
    /// `train_length` tokens.
    pub fn new(positions: Vec<u64>, train_length: u64) -> Self {
        Self {
            plan: Plan {
                positions: positions.into(),
                train_length,
            },
        }
    }

    fn record(&self, site: &Site) -> SiteRecord {
        SiteRecord::new(site, self.plan.clone())
    }
}

impl Intervention for Probe {
    fn text(&self) -> String {
        "probe".into()
    }

    fn start(&self, site: &Site, _batch: usize, _device: &Device) -> Box<dyn InterventionState> {
        Box::new(self.record(site))
    }

    fn restore(
        &self,
        site: &Site,
        _batch: usize,
        _device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>> {
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
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>> {
        let Some(record) = own.as_any_mut().downcast_mut::<SiteRecord>() else {
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
            let samples = &record.plan().positions;
            let due = samples
                .get(samples.partition_point(|&sample| sample <= position))
                .copied();
            let left = due.map_or(u64::MAX, |sample| sample - position);
            let piece = (time - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            let gates = gates.slice(done..done + piece)?;
            let segment = GateSegment::new(&gates)?;
            record.passage(&segment, &gates.query, position)?;
            let output = next(gates, state)?;
            record.tokens(&segment, &output, position)?;
            outputs.push(output);
            if due == Some(state.position) {
                record.sample(&state.memory, state.position)?;
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
