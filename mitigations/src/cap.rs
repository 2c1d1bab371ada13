//! Capped forgetting: no head remembers for longer than a given number of tokens.
//!
//! A head's memory length τ is the number of tokens after which e⁻¹ of a write is left, 1 / mean(−log a). Few heads of a
//! collapsing model have a long one; [`crate::forget_and_remember`] makes all of them forget more, this only those that never
//! learned to.
//!
//! | text | what | calibration |
//! |---|---|---|
//! | `cap:T` | log a′ₜ = min(log aₜ, −1/T): every token forgets at least that much | – |
//! | `cap-mean:T` | log a′ₜ = log aₜ − max(0, 1/T − 1/τ): heads with τ > T are brought to T on average, and keep the differences between their tokens | τ per head |
//!
//! With decays per key row, `cap:T` acts on every row, and the τ of `cap-mean:T` is that of the head's slowest row. Heads
//! whose memory is shorter stay as they are, bit for bit. `,at=2/5.0/5.3` restricts either to layers or single heads (here
//! layer 2, and heads 0 and 3 of layer 5).
//!
//! No publication is known to do this; it is the per-head form of reduced retention (*Stuffed Mamba*, 2410.07145).

use crate::calibrate::{Calibration, CalibrationError, Table, numbers};
use crate::form::{Form, Parameter};
use crate::head_list::{self, HeadList};
use crate::mitigation::{Calibratable, Part, Role};
use crate::tokens::{PerHead, map_decay};
use crate::written::{ParseError, Written};
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, Site};
use std::sync::Arc;

pub(crate) const CAP: Form = Form {
    name: "cap",
    syntax: "cap:T[,at=LAYER.HEAD/LAYER/..]",
    summary: "let every token forget at least 1/T of the state",
    parameters: &[
        Parameter::required("T", "memory length in tokens, above 0"),
        Parameter::optional(
            "at",
            "layers (2) or heads (5.0) that it acts in, counted from 0, with / between",
            "everywhere",
        ),
    ],
    works_on: "every model",
    calibrated: false,
    example: "cap:2048",
    parse: |written| parse(written).map(|cap| Arc::new(cap) as Arc<dyn Part>),
};

pub(crate) const CAP_MEAN: Form = Form {
    name: "cap-mean",
    syntax: "cap-mean:T[,at=LAYER.HEAD/LAYER/..]",
    summary: "let heads that remember for more than T tokens on average forget more, down to T",
    parameters: &[
        Parameter::required("T", "memory length in tokens, above 0"),
        Parameter::optional(
            "at",
            "layers (2) or heads (5.0) that it acts in, counted from 0, with / between",
            "everywhere",
        ),
    ],
    works_on: "every model",
    calibrated: true,
    example: "cap-mean:2048",
    parse: |written| {
        let cap = parse(written)?;
        Ok(Arc::new(CapMean {
            cap,
            forgetting: None,
        }))
    },
};

/// `cap:T`: log a′ₜ = min(log aₜ, −1/T).
#[derive(Clone, Debug, PartialEq)]
pub struct Cap {
    /// T, the longest memory that a head may have, in tokens, above 0.
    pub tokens: f64,
    /// The layers and heads that it acts in; `None` for all.
    pub at: Option<HeadList>,
}

/// `cap-mean:T`: log a′ₜ = log aₜ − max(0, 1/T − 1/τ).
#[derive(Clone, Debug, PartialEq)]
pub struct CapMean {
    /// T, and the layers and heads that it acts in.
    pub cap: Cap,
    /// 1/τ of every head, once calibrated.
    pub forgetting: Option<Arc<Table>>,
}

impl Cap {
    fn arguments(&self) -> String {
        match &self.at {
            None => self.tokens.to_string(),
            Some(at) => format!("{},at={at}", self.tokens),
        }
    }

    /// A number for each head of `site`, 0 for those that are not covered.
    fn per_head(&self, site: &Site, number: impl Fn(usize) -> f64) -> Vec<f32> {
        let covered = |head| self.at.as_ref().is_none_or(|at| at.cover(site, head));
        let of = |head| if covered(head) { number(head) as f32 } else { 0.0 };
        (0..site.heads).map(of).collect()
    }
}

/// Leaves gates of heads that are all as they should be alone.
fn map(gates: Gates, numbers: &[f32], map: PerHead) -> Gates {
    match numbers.iter().all(|&number| number == 0.0) {
        true => gates,
        false => map_decay(gates, numbers, map),
    }
}

impl Intervention for Cap {
    fn text(&self) -> String {
        format!("cap:{}", self.arguments())
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        let limits = self.per_head(site, |_| -1.0 / self.tokens);
        Ok(map(gates, &limits, PerHead::AtMost))
    }
}

impl Intervention for CapMean {
    fn text(&self) -> String {
        format!("cap-mean:{}", self.cap.arguments())
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        numbers(self, self.forgetting.as_deref(), site).map(|_| ())
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        let forgetting = numbers(self, self.forgetting.as_deref(), site)?;
        let more = |head: usize| -(1.0 / self.cap.tokens - f64::from(forgetting[head])).max(0.0);
        Ok(map(gates, &self.cap.per_head(site, more), PerHead::Add))
    }
}

impl Part for Cap {
    fn role(&self) -> Role {
        Role::Gates
    }
}

impl Part for CapMean {
    fn role(&self) -> Role {
        Role::Gates
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        Some(self)
    }
}

impl Calibratable for CapMean {
    fn table(&self) -> Option<&Table> {
        self.forgetting.as_deref()
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        calibration.table(|_, head| head.forgetting)
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        Arc::new(Self {
            forgetting: Some(Arc::new(table)),
            ..self.clone()
        })
    }
}

fn parse(written: &Written<'_>) -> Result<Cap, ParseError> {
    let ([tokens], [at]) = written.values_and(["at"])?;
    let wrong = |at: &str| written.wrong_number("at", head_list::EXPECTED, at);
    Ok(Cap {
        tokens: written.positive("memory length", tokens)?,
        at: at.map(|at| at.parse().map_err(|_| wrong(at))).transpose()?,
    })
}
