//! One factor per layer on the step size: Δ′ = s_l·Δ in layer l.
//!
//! [`crate::delta_scale`] with a factor of its own for every layer, as in *MambaExtend* (ICLR 2025). The factors are numbers
//! of the text form, found elsewhere: [`crate::fit`] finds them without derivatives and with a strict split between the text
//! they are fitted on and the text they are judged by.

use crate::delta_scale::scale_step;
use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "scales",
    syntax: "scales:S,S,..",
    summary: "multiply the step size of each layer by a factor of its own",
    parameters: &[Parameter::required(
        "S",
        "factor of a layer's step size, above 0; one for each layer, the first layer first",
    )],
    works_on: "models with a step size: Mamba-1, Mamba-2",
    calibrated: false,
    example: "scales:0.8,0.6",
    parse: |written| {
        let factor = |found: &&str| written.positive("factor of a layer's step size", found);
        Ok(Arc::new(LayerScales {
            factors: written.list()?.iter().map(factor).collect::<Result<_, _>>()?,
        }))
    },
};

/// `scales:s_0,s_1,..`: Δ′ = s_l·Δ in layer l.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerScales {
    /// s of every layer of the model, from layer 0, each above 0. Those of layers without a recurrence are not looked at.
    pub factors: Vec<f64>,
}

impl LayerScales {
    fn factor(&self, site: &Site) -> Result<f64, Incompatible> {
        let factor = self.factors.get(site.layer).copied();
        let Some(factor) = factor.filter(|_| site.has_step_size) else {
            let reason = if site.has_step_size {
                format!("expected a factor for every layer, found {}", self.factors.len())
            } else {
                "this layer has no step size to scale; use a-scale:S to change its decay, remember:C its writes".into()
            };
            return Err(Incompatible {
                intervention: self.text(),
                layer: site.layer,
                reason,
            });
        };
        Ok(factor)
    }
}

impl Intervention for LayerScales {
    fn text(&self) -> String {
        let factors: Vec<String> = self.factors.iter().map(f64::to_string).collect();
        format!("scales:{}", factors.join(","))
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        self.factor(site).map(|_| ())
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        Ok(scale_step(gates, self.factor(site)?))
    }
}

impl Part for LayerScales {
    fn role(&self) -> Role {
        Role::Gates
    }
}
