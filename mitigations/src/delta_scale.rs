//! A smaller step: Δ′ = s·Δ.
//!
//! In models that discretise (Mamba), the step size enters twice, so one factor does two things:
//!
//! ```text
//! log α′ = s · log α    (α′ = α^s)          B̄′ = s·Δ·B
//! ```
//!
//! With s < 1 the state decays *more slowly* and is written more weakly: s positions count as one, the counterpart of
//! position interpolation in attention. Published without training as LongMamba's first step (jzhang38, 2024, s = 0.5) and as
//! a baseline with s = 0.2; with one s per layer as MambaExtend (2025, see
//! [`crate::layer_scales`]). It does not remove what
//! accumulates, it slows the accumulation down by 1/s, and costs accuracy on short inputs. s > 1 forgets faster and writes
//! more strongly.

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, LogDecay, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "delta-scale",
    syntax: "delta-scale:S",
    summary: "multiply the step size by S",
    parameters: &[Parameter::required("S", "factor of the step size, above 0")],
    works_on: "models with a step size: Mamba-1, Mamba-2",
    calibrated: false,
    example: "delta-scale:0.5",
    parse: |written| {
        let [factor] = written.exactly()?;
        Ok(Arc::new(DeltaScale {
            factor: written.positive("factor of the step size", factor)?,
        }))
    },
};

/// `delta-scale:s`: Δ′ = s·Δ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaScale {
    /// s, the factor of the step size, above 0.
    pub factor: f64,
}

impl Intervention for DeltaScale {
    fn text(&self) -> String {
        format!("delta-scale:{}", self.factor)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        match site.has_step_size {
            true => Ok(()),
            false => Err(no_step_size(self, site, "scale")),
        }
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        if gates.step_size.is_none() {
            return Err(no_step_size(self, site, "scale").into());
        }
        Ok(scale_step(gates, self.factor))
    }
}

impl Part for DeltaScale {
    fn role(&self) -> Role {
        Role::Gates
    }
}

/// Δ′ = factor · Δ.
pub(crate) fn scale_step(mut gates: Gates, factor: f64) -> Gates {
    gates.step_size = gates.step_size.map(|step| step.mul_scalar(factor));
    gates.log_decay = match gates.log_decay {
        // A constant times the step, which is scaled already.
        decay @ LogDecay::PerStep(_) => decay,
        decay => decay.scale(factor as f32),
    };
    gates
}

/// Why a part that needs step sizes cannot `act` on them here.
pub(crate) fn no_step_size(part: &dyn Intervention, site: &Site, act: &str) -> Incompatible {
    Incompatible {
        intervention: part.text(),
        layer: site.layer,
        reason: format!(
            "this layer has no step size to {act}; use forget:C to change its decay, remember:C its writes, or rri:C,C both"
        ),
    }
}
