//! Fewer tokens for the heads that remember: LongMamba's filter on the step size.
//!
//! A head is *global* when something of its first token is left after the training length L, exp(−L/τ) ≥ θ with τ its memory
//! length. Read over S > L tokens, a global head forgets by more e-foldings than it ever did in training. So tokens with a
//! small step are skipped there entirely, and the threshold g is such that S tokens decay the state as much as L did:
//!
//! ```text
//! Δ_t < g:   (α′_t, B̄′_t) = (1, 0)             Σ_{Δ ≥ g} Δ over S tokens  =  Σ Δ over L tokens
//! ```
//!
//! Tokens with larger steps, and heads that are not global, stay as they are. g comes from the distribution of Δ in
//! calibration: the largest Δ that make up a share L/S of their sum; the largest 5 % of them are clamped for that, so that a
//! single one does not stand for hundreds. For S ≤ L nothing is skipped.
//!
//! It pushes in the opposite direction of [`crate::forget_and_remember`]: state statistics return to what training saw by
//! writing less often, instead of by forgetting more.
//!
//! What differs from the publication (Ye et al., *LongMamba*, ICLR 2025, 2504.16053): there, S is the length of the prompt
//! and the filter ends with the prompt; here S is a number given in advance, and decode is filtered like prefill, so that
//! where a text is split changes nothing. In models with decays per key row a head's slowest row decides what is global.

use crate::calibrate::{Calibration, CalibrationError, Table, numbers};
use crate::delta_scale::no_step_size;
use crate::form::{Form, Parameter};
use crate::mitigation::{Calibratable, Part, Role};
use crate::tokens::skip_tokens;
use burn::tensor::Tensor;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, Site};
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "delta-filter",
    syntax: "delta-filter:S[,global=SHARE][,clamp=SHARE]",
    summary: "LongMamba: heads with a long memory skip small steps, for texts of S tokens",
    parameters: &[
        Parameter::required("S", "length in tokens of the texts to be read, at least 1"),
        Parameter::optional(
            "global",
            "share that is left of a token after the training length from which on a head is filtered, above 0 and at most 1",
            "0.05",
        ),
        Parameter::optional(
            "clamp",
            "share of the largest steps that are clamped, from 0 to 1",
            "0.05",
        ),
    ],
    works_on: "models with a step size: Mamba-1, Mamba-2",
    calibrated: true,
    example: "delta-filter:16384",
    parse: |written| {
        let ([tokens], [global, clamp]) = written.values_and(["global", "clamp"])?;
        let clamped = |found: &str| {
            let expected = "a number from 0 (none) to 1";
            written.number("share of clamped steps", expected, found, |share| {
                (0.0..=1.0).contains(&share)
            })
        };
        let left = |found: &str| written.share("share that is left in a global head", found);
        Ok(Arc::new(DeltaFilter {
            tokens: written.tokens("length", tokens)?,
            global: global.map_or(Ok(DeltaFilter::GLOBAL), left)?,
            clamp: clamp.map_or(Ok(DeltaFilter::CLAMP), clamped)?,
            thresholds: None,
        }))
    },
};

/// `delta-filter:S`, `delta-filter:S,global=θ,clamp=c`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaFilter {
    /// S, the length of the texts to be read, in tokens, at least 1.
    pub tokens: u64,
    /// θ, the share of the first token left after the training length from which on a head is global.
    pub global: f64,
    /// The share of the largest steps that are clamped.
    pub clamp: f64,
    /// g of every head, 0 for heads that are not global; once calibrated.
    pub thresholds: Option<Arc<Table>>,
}

impl DeltaFilter {
    /// θ unless the text says otherwise: the published one for Mamba-2.
    pub const GLOBAL: f64 = 0.05;

    /// The share of clamped steps unless the text says otherwise.
    pub const CLAMP: f64 = 0.05;
}

impl Intervention for DeltaFilter {
    fn text(&self) -> String {
        let option = |name: &str, number: f64, default: f64| match number == default {
            true => String::new(),
            false => format!(",{name}={number}"),
        };
        format!(
            "delta-filter:{}{}{}",
            self.tokens,
            option("global", self.global, Self::GLOBAL),
            option("clamp", self.clamp, Self::CLAMP)
        )
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if !site.has_step_size {
            return Err(no_step_size(self, site, "filter"));
        }
        numbers(self, self.thresholds.as_deref(), site).map(|_| ())
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        let thresholds = numbers(self, self.thresholds.as_deref(), site)?;
        let Some(step) = gates.step_size.clone() else {
            return Err(no_step_size(self, site, "filter").into());
        };
        let shape = step.dims();
        if thresholds.iter().all(|&threshold| threshold == 0.0) || shape.contains(&0) {
            return Ok(gates);
        }
        let thresholds = Tensor::<1>::from_floats(thresholds, &step.device());
        let skip = step.lower(thresholds.unsqueeze_dims::<3>(&[0, 1]).expand(shape));
        Ok(skip_tokens(gates, skip))
    }
}

impl Part for DeltaFilter {
    fn role(&self) -> Role {
        Role::Gates
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        Some(self)
    }
}

impl Calibratable for DeltaFilter {
    fn table(&self) -> Option<&Table> {
        self.thresholds.as_deref()
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        let length = calibration.tokens as f64;
        let share = (length / self.tokens as f64).min(1.0);
        calibration.table(|_, head| {
            let left = (-length * f64::from(head.forgetting)).exp();
            if left < self.global || share == 1.0 {
                return 0.0;
            }
            head.step_sizes.reached_by_sum(share, self.clamp)
        })
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        Arc::new(Self {
            thresholds: Some(Arc::new(table)),
            ..self.clone()
        })
    }
}
