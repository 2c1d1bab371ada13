//! The control: a weaker read-out, and nothing else. C′ = s·C.
//!
//! ```text
//! y_t = s · C_tᵀ h_t + D x_t
//! ```
//!
//! The state is as large as without it and forgets no faster, so what this gains is no cure of the state. It is here because the state
//! of a weighted sum is linear in its writes: multiplying *all* writes, `remember:s`, gives the same read-outs to the last
//! rounding. Whatever `remember:C` alone gains, compare it with `c-scale:C`. (A delta rule erases by what it holds, so there
//! `remember` is more than this.)
//!
//! Where the layer divides by a read-out of its own, as normalised linear attention does, or normalises it, the factor
//! cancels, and nothing changes at all.

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::{Error, Gates, Intervention, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "c-scale",
    syntax: "c-scale:S",
    summary: "multiply what is read from the state by S: a control that cures nothing",
    parameters: &[Parameter::required("S", "factor of what is read, above 0")],
    works_on: "every model",
    calibrated: false,
    example: "c-scale:0.75",
    parse: |written| {
        let [factor] = written.exactly()?;
        Ok(Arc::new(CScale {
            factor: written.positive("factor of the read-out", factor)?,
        }))
    },
};

/// `c-scale:s`: C′ = s·C, what is read from the state multiplied by s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CScale {
    /// s, the factor of what is read from the state, above 0.
    pub factor: f64,
}

impl Intervention for CScale {
    fn text(&self) -> String {
        format!("c-scale:{}", self.factor)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, _site: &Site, mut gates: Gates, _position: u64) -> Result<Gates, Error> {
        // The same as on every query, at no cost.
        gates.scale = (f64::from(gates.scale) * self.factor) as f32;
        Ok(gates)
    }
}

impl Part for CScale {
    fn role(&self) -> Role {
        Role::Gates
    }
}
