//! An initial state like those at the end of training texts, instead of zeros.
//!
//! ```text
//! h_{−1} ~ N(0, F² σ²),  σ² = mean of ‖h_T‖² / (K·V)          per head
//! ```
//!
//! If models fail beyond their training length because they never met the states that lie there, then a state of that size
//! is unfamiliar from the first token on; if a model bears it, its size alone does not make it fail. As an intervention on a
//! trained model it is a diagnosis, not a cure: the publication *trains* on such states for 500 steps (*fitted noise*;
//! Buitrago & Gu, *Understanding and improving length generalization in recurrent models*, ICML 2025, 2507.02782). There mean
//! and deviation are fitted; here the mean goes into σ, and signs are symmetric.
//!
//! Numbers are drawn by seed, layer, head and place: the same seed gives the same bits, whatever the batch, and every
//! sequence of a batch starts from the same state. A reset (`reset:N`) empties the state as always.

use crate::calibrate::{Calibration, CalibrationError, Table, numbers};
use crate::form::{Form, Parameter};
use crate::mitigation::{Calibratable, Part, Role};
use crate::random::Normal;
use crate::written::{ParseError, Written};
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, InterventionState, Rule, Site, State};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "fitted-noise",
    syntax: "fitted-noise[:F][,seed=N]",
    summary: "start from noise as large as the states after training texts, times F",
    parameters: &[
        Parameter::optional("F", "factor of the noise, above 0", "1"),
        Parameter::optional("seed", "whole number that chooses the noise", "0"),
    ],
    works_on: "every model but RWKV-4",
    calibrated: true,
    example: "fitted-noise",
    parse: |written| parse(written).map(|noise| Arc::new(noise) as Arc<dyn Part>),
};

/// `fitted-noise`, `fitted-noise:F`, `fitted-noise:F,seed=N`.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedNoise {
    /// F, what the deviations are multiplied by.
    pub factor: f64,
    /// Seed of the noise: the same seed gives the same initial state.
    pub seed: u64,
    /// √mean of ‖h_T‖² of every head, once calibrated.
    pub final_norms: Option<Arc<Table>>,
}

impl FittedNoise {
    /// h_{−1} of one sequence, repeated for each of `batch`.
    fn draw(&self, site: &Site, batch: usize, device: &Device) -> Result<Tensor<4>, Incompatible> {
        let final_norms = numbers(self, self.final_norms.as_deref(), site)?;
        let size = site.key_dim * site.value_dim;
        let mut values = Vec::with_capacity(site.heads * size);
        for (head, norm) in final_norms.iter().enumerate() {
            let deviation = self.factor * f64::from(*norm) / (size.max(1) as f64).sqrt();
            let mut normal = Normal::new(&[self.seed, site.layer as u64, (site.first_head + head) as u64]);
            values.extend((0..size).map(|_| (deviation * normal.next()) as f32));
        }
        let data = TensorData::new(values, [1, site.heads, site.key_dim, site.value_dim]);
        Ok(Tensor::<4>::from_data(data, device).repeat_dim(0, batch))
    }
}

impl Intervention for FittedNoise {
    fn text(&self) -> String {
        let mut arguments = Vec::new();
        if self.factor != 1.0 {
            arguments.push(self.factor.to_string());
        }
        if self.seed != 0 {
            arguments.push(format!("seed={}", self.seed));
        }
        match arguments.as_slice() {
            [] => "fitted-noise".into(),
            some => format!("fitted-noise:{}", some.join(",")),
        }
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if site.rule == Rule::Mean {
            return Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason: "this layer keeps a weighted mean, whose sums mean nothing without the tokens that wrote them; start \
                         from the state after another text instead"
                    .into(),
            });
        }
        numbers(self, self.final_norms.as_deref(), site).map(|_| ())
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let dims = gates.dims();
        if state.position == 0 && dims.time > 0 {
            let device = state.memory.device();
            let memory = state.take();
            state.memory = memory + self.draw(site, dims.batch, &device)?;
        }
        next(gates, state)
    }
}

impl Part for FittedNoise {
    fn role(&self) -> Role {
        Role::InitialState
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        Some(self)
    }
}

impl Calibratable for FittedNoise {
    fn table(&self) -> Option<&Table> {
        self.final_norms.as_deref()
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        calibration.table(|_, head| head.final_norm)
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        Arc::new(Self {
            final_norms: Some(Arc::new(table)),
            ..self.clone()
        })
    }
}

fn parse(written: &Written<'_>) -> Result<FittedNoise, ParseError> {
    let (factor, [seed]) = written.optional_and(["seed"])?;
    let wrong = |seed| written.wrong_number("seed", "a whole number of at least 0", seed);
    Ok(FittedNoise {
        factor: match factor {
            None => 1.0,
            Some(factor) => written.positive("factor of the noise", factor)?,
        },
        seed: match seed {
            None => 0,
            Some(seed) => seed.parse().map_err(|_| wrong(seed))?,
        },
        final_norms: None,
    })
}
