//! Fewer tokens for a layer: DeciMamba's decimation, as far as it can be causal.
//!
//! A token matters to a layer as far as its step sizes are large, so only the tokens with the largest norm over heads are
//! kept:
//!
//! ```text
//! ‖Δ_t‖₂ < g:   (α′_t, B̄′_t) = (1, 0) in every head of the layer
//! ```
//!
//! g is such that `SHARE` of the tokens are kept in calibration. `,at=12/20` restricts it to some layers: the publication
//! decimates from about the middle on (layer 12 of Mamba-130M).
//!
//! What differs from the publication (Ben-Kish et al., *DeciMamba*, ICLR 2025, 2406.14528), because a prompt's best tokens are
//! known only at its end, and state goes in and out here:
//! - a threshold instead of the N best: the share of kept tokens is that of the calibration text, not exactly N of this text;
//! - a token that is skipped leaves the *state* of the layer alone, but is still computed, convolved and handed on to later
//!   layers (there it is gone for all later layers, which is what makes them faster);
//! - decode is decimated like prefill, so that where a text is split changes nothing; there, answers are always kept.

use crate::calibrate::{Calibration, CalibrationError, Table, numbers};
use crate::delta_scale::no_step_size;
use crate::form::{Form, Parameter};
use crate::head_list::{self, HeadList};
use crate::mitigation::{Calibratable, Part, Role};
use crate::tokens::skip_tokens;
use burn::tensor::Tensor;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "decimate",
    syntax: "decimate:SHARE[,at=LAYER/LAYER/..]",
    summary: "DeciMamba: keep only this share of the tokens, those with the largest steps",
    parameters: &[
        Parameter::required(
            "SHARE",
            "share of the tokens that are kept, above 0 and at most 1",
        ),
        Parameter::optional(
            "at",
            "layers that it acts in, counted from 0, with / between",
            "all",
        ),
    ],
    works_on: "models with a step size: Mamba-1, Mamba-2",
    calibrated: true,
    example: "decimate:0.5",
    parse: |written| {
        let ([share], [at]) = written.values_and(["at"])?;
        let expected = "layers, counted from 0 and separated by /, such as 12/20";
        let wrong = |at: &str| written.wrong_number("at", expected, at);
        let layers = |at: &str| match at.parse::<HeadList>() {
            Ok(list) if !list.single_heads() => Ok(list),
            Ok(_) | Err(head_list::NotAHeadList) => Err(wrong(at)),
        };
        Ok(Arc::new(Decimate {
            share: written.share("share of kept tokens", share)?,
            at: at.map(layers).transpose()?,
            thresholds: None,
        }))
    },
};

/// `decimate:SHARE`, `decimate:SHARE,at=12/20`.
#[derive(Clone, Debug, PartialEq)]
pub struct Decimate {
    /// The share of tokens that are kept.
    pub share: f64,
    /// Layers; `None` for all.
    pub at: Option<HeadList>,
    /// g, the same for all heads of a recurrence, once calibrated.
    pub thresholds: Option<Arc<Table>>,
}

impl Decimate {
    fn covers(&self, site: &Site) -> bool {
        self.at.as_ref().is_none_or(|at| at.cover(site, 0))
    }
}

impl Intervention for Decimate {
    fn text(&self) -> String {
        match &self.at {
            None => format!("decimate:{}", self.share),
            Some(at) => format!("decimate:{},at={at}", self.share),
        }
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if !self.covers(site) {
            return Ok(());
        }
        if !site.has_step_size {
            return Err(no_step_size(self, site, "choose tokens by"));
        }
        numbers(self, self.thresholds.as_deref(), site).map(|_| ())
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        if !self.covers(site) {
            return Ok(gates);
        }
        let thresholds = numbers(self, self.thresholds.as_deref(), site)?;
        let Some(step) = gates.step_size.clone() else {
            return Err(no_step_size(self, site, "choose tokens by").into());
        };
        let threshold = thresholds.first().copied().unwrap_or_default();
        let dims = step.dims();
        if threshold == 0.0 || dims.contains(&0) {
            return Ok(gates);
        }
        let norms: Tensor<3> = (step.clone() * step).sum_dim(2).sqrt();
        Ok(skip_tokens(gates, norms.lower_elem(threshold).expand(dims)))
    }
}

impl Part for Decimate {
    fn role(&self) -> Role {
        Role::Gates
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        Some(self)
    }
}

impl Calibratable for Decimate {
    fn table(&self) -> Option<&Table> {
        self.thresholds.as_deref()
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        calibration.table(|site, _| site.step_norms.reached_by(self.share))
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        Arc::new(Self {
            thresholds: Some(Arc::new(table)),
            ..self.clone()
        })
    }
}
