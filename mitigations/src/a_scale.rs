//! A faster or slower spectrum: A′ = s·A, with the step size and the writes left alone.
//!
//! ```text
//! log α′ = s · log α    (α′ = α^s)          B̄′ = B̄
//! ```
//!
//! With s > 1 every head forgets s times as fast, in proportion to what it does anyway: heads with a short memory lose as
//! many e-foldings as those with a long one. In models that discretise it is the half of [`crate::delta_scale`] that acts on
//! memory, without the half that acts on writes. Published with one factor per layer as *Mamba Modulation* (2509.19633),
//! and without training as a baseline of *Stuffed Mamba* (2410.07145).
//!
//! A layer that does not forget at all (linear attention, DeltaNet) has no spectrum to scale: `forget:C` gives it one.

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, LogDecay, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "a-scale",
    syntax: "a-scale:S",
    summary: "multiply the logarithm of every decay by S, writes left alone",
    parameters: &[Parameter::required(
        "S",
        "factor of the logarithm of every decay, above 0; above 1 forgets faster",
    )],
    works_on: "models that forget: not linear attention or DeltaNet",
    calibrated: false,
    example: "a-scale:2",
    parse: |written| {
        let [factor] = written.exactly()?;
        Ok(Arc::new(AScale {
            factor: written.positive("factor of the log decay", factor)?,
        }))
    },
};

/// `a-scale:s`: A′ = s·A, that is, log α′ = s · log α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AScale {
    /// s, the factor of every log decay, above 0.
    pub factor: f64,
}

impl AScale {
    fn nothing_to_scale(&self, site: &Site) -> Incompatible {
        Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason: "this layer has no decay to scale; use forget:C, which gives it one".into(),
        }
    }
}

impl Intervention for AScale {
    fn text(&self) -> String {
        format!("a-scale:{}", self.factor)
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        match site.decays {
            true => Ok(()),
            false => Err(self.nothing_to_scale(site)),
        }
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, site: &Site, mut gates: Gates, _position: u64) -> Result<Gates, Error> {
        if matches!(gates.log_decay, LogDecay::None) {
            return Err(self.nothing_to_scale(site).into());
        }
        gates.log_decay = gates.log_decay.scale(self.factor as f32);
        Ok(gates)
    }
}

impl Part for AScale {
    fn role(&self) -> Role {
        Role::Gates
    }
}
