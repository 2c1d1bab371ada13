//! Heads switched off: what they read, and pass on of their input, is 0.
//!
//! Not a cure but a question to a model: what was this head good for? A task that fails without it, and at which position, says
//! what it carries. Heads that hold the first tokens of a text, and those that leave their range beyond the training length, are
//! what `spillway diagnose` lists; this asks for the difference that they make.
//!
//! Of a layer whose heads are all listed nothing is left but the gate and projection behind them, which give 0.

use crate::form::{Form, Parameter};
use crate::head_list::{EXPECTED, HeadList};
use crate::mitigation::{Part, Role};
use burn::tensor::Tensor;
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Error, Gates, Intervention, InterventionState, Site, State};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "ablate",
    syntax: "ablate:LAYER.HEAD/LAYER/..",
    summary: "switch off these heads, or all heads of these layers: a diagnosis",
    parameters: &[Parameter::required(
        "LAYER",
        "layers (2) or heads (5.0), counted from 0, with / between",
    )],
    works_on: "every model",
    calibrated: false,
    example: "ablate:2/5.0",
    parse: |written| {
        let [at] = written.exactly()?;
        let at = at
            .parse()
            .map_err(|_| written.wrong_number("heads", EXPECTED, at))?;
        Ok(Arc::new(Ablate { at }))
    },
};

/// `ablate:2/5.0`: what the listed layers and heads read, and pass on of their input, is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ablate {
    /// The layers and heads that are switched off.
    pub at: HeadList,
}

impl Intervention for Ablate {
    fn text(&self) -> String {
        format!("ablate:{}", self.at)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let output = next(gates, state)?;
        let [batch, time, heads, columns] = output.dims();
        let off: Vec<bool> = (0..heads).map(|head| self.at.cover(site, head)).collect();
        if batch * time * columns == 0 || !off.contains(&true) {
            return Ok(output);
        }
        // Filled, not multiplied: what has overflowed is no number, and 0 times that is none.
        let off = Tensor::<1, burn::tensor::Bool>::from_data(off.as_slice(), &output.device());
        let off = off
            .reshape([1, 1, heads, 1])
            .expand([batch, time, heads, columns]);
        Ok(output.mask_fill(off, 0.0))
    }
}

impl Part for Ablate {
    fn role(&self) -> Role {
        Role::Gates
    }
}
