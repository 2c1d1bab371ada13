//! Forget more, remember less: multiply what a token keeps of the state, and what it writes into it.
//!
//! ```text
//! α′_t = c_α · α_t    (log α′ = log α + ln c_α)          B′_t = c_B · B_t
//! ```
//!
//! at every head of every layer, for every token, in prefill and in decode. The pair was published as *reduced retention
//! and insertion* (Chen et al., *Stuffed Mamba*, 2410.07145), with (0.9999, 0.75) for Mamba-2.
//!
//! What the constants mean. c_α adds an upper limit to every head's memory: after n tokens at most c_αⁿ of a write is left,
//! so the e-folding time is −1/ln c_α tokens.
//!
//! | c_α | e-folding time | left after 8,192 tokens |
//! |---|---|---|
//! | 0.99 | 99.5 tokens | 2·10⁻³⁶ |
//! | 0.999 | 1,000 | 2.8·10⁻⁴ |
//! | 0.9999 | 10,000 | 0.44 |
//! | 0.99999 | 100,000 | 0.92 |
//!
//! It therefore has to be chosen by the training length T: c_α = exp(−κ/T) with κ between 0.6 and 0.9 is a good start
//! (0.9999 is κ = 0.82 at T = 8,192).
//!
//! Two traps. c_α is a factor, not an exponent: α^0.9999 is *larger* than α, and makes a model remember longer. And c_B alone
//! is not forgetting: the state is linear in B, so it shrinks all memories alike, old and new, which for one layer is the
//! same as shrinking the read-out against the skip D·x. It postpones the moment when a growing norm becomes unfamiliar; it
//! does not stop the growth.
//!
//! What a token "writes" is not the same everywhere:
//!
//! | rule | forget | remember |
//! |---|---|---|
//! | weighted sum | every decay, which gives models without decay one | k (or Δ in the write alone) |
//! | delta rule with β (DeltaNet, Gated DeltaNet) | the decay before the erasure | β: a token writes less *and* erases less |
//! | delta rule of rank 1 (RWKV-7) | the decay; what is erased stays | k: what is erased stays |
//! | weighted mean (RWKV-4) | the decay of all weights | log weights + ln c_B in the state; the bonus of the current token stays as it was, since a common factor of all weights cancels in a mean |

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::{Erase, Error, Gates, Intervention, LogDecay, ReadOut, Site};
use std::sync::Arc;

pub(crate) const FORGET: Form = Form {
    name: "forget",
    syntax: "forget:C",
    summary: "multiply every decay by C",
    parameters: &[Parameter::required(
        "C",
        "share of the state that a token keeps, above 0 and at most 1",
    )],
    works_on: "every model",
    calibrated: false,
    example: "forget:0.9999",
    parse: |written| {
        let [retention] = written.exactly()?;
        Ok(Arc::new(Forget {
            retention: written.retention(retention)?,
        }))
    },
};

pub(crate) const REMEMBER: Form = Form {
    name: "remember",
    syntax: "remember:C",
    summary: "multiply what every token writes by C",
    parameters: &[Parameter::required("C", "factor of what a token writes, above 0")],
    works_on: "every model",
    calibrated: false,
    example: "remember:0.75",
    parse: |written| {
        let [insertion] = written.exactly()?;
        Ok(Arc::new(Remember {
            insertion: written.positive("insertion", insertion)?,
        }))
    },
};

pub(crate) const RRI: Form = Form {
    name: "rri",
    syntax: "rri:C,D",
    summary: "forget:C and remember:D together: reduced retention and insertion",
    parameters: &[
        Parameter::required(
            "C",
            "share of the state that a token keeps, above 0 and at most 1",
        ),
        Parameter::required("D", "factor of what a token writes, above 0"),
    ],
    works_on: "every model",
    calibrated: false,
    example: "rri:0.9999,0.75",
    parse: |written| {
        let [retention, insertion] = written.exactly()?;
        Ok(Arc::new(ReducedRetentionAndInsertion {
            retention: written.retention(retention)?,
            insertion: written.positive("insertion", insertion)?,
        }))
    },
};

/// `forget:c`: α′ = c·α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forget {
    /// c_α, in (0, 1].
    pub retention: f64,
}

/// `remember:c`: B′ = c·B, the decay left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remember {
    /// c_B, the factor of what a token writes, above 0.
    pub insertion: f64,
}

/// `rri:c_α,c_B`: both at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReducedRetentionAndInsertion {
    /// c_α, in (0, 1].
    pub retention: f64,
    /// c_B, the factor of what a token writes, above 0.
    pub insertion: f64,
}

impl Intervention for Forget {
    fn text(&self) -> String {
        format!("forget:{}", self.retention)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, _site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        Ok(multiply_retention(gates, self.retention))
    }
}

impl Intervention for Remember {
    fn text(&self) -> String {
        format!("remember:{}", self.insertion)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, _site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        Ok(multiply_insertion(gates, self.insertion))
    }
}

impl Intervention for ReducedRetentionAndInsertion {
    fn text(&self) -> String {
        format!("rri:{},{}", self.retention, self.insertion)
    }

    fn looks_at_positions(&self) -> bool {
        false
    }

    fn on_gates(&self, _site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        Ok(multiply_insertion(
            multiply_retention(gates, self.retention),
            self.insertion,
        ))
    }
}

impl Part for Forget {
    fn role(&self) -> Role {
        Role::Gates
    }
}

impl Part for Remember {
    fn role(&self) -> Role {
        Role::Gates
    }
}

impl Part for ReducedRetentionAndInsertion {
    fn role(&self) -> Role {
        Role::Gates
    }
}

/// The logarithm is taken in f64: 0.9999 rounded to f32 first would be off by 3e-4 of its distance from 1.
fn multiply_retention(gates: Gates, retention: f64) -> Gates {
    gates.add_log_decay(retention.ln() as f32)
}

/// What a token writes, times `insertion`; where that is depends on the rule.
fn multiply_insertion(mut gates: Gates, insertion: f64) -> Gates {
    match (&gates.erase, &gates.read_out) {
        (Erase::Delta(beta), _) => gates.erase = Erase::Delta(beta.clone().mul_scalar(insertion)),
        (Erase::None, ReadOut::Mean(bonus)) => {
            let log = insertion.ln();
            gates.read_out = ReadOut::Mean(bonus.clone().sub_scalar(log));
            gates.key = gates.key.add_scalar(log);
        }
        (Erase::None | Erase::LowRank { .. }, _) => scale_write(&mut gates, insertion),
    }
    gates
}

/// A write is k (δ v)ᵀ, so the factor may go to δ, which is `key_dim` times smaller than k, where there is one. Where δ makes
/// the decay too, it is not the write's alone.
fn scale_write(gates: &mut Gates, insertion: f64) {
    match (&gates.step_size, &gates.log_decay) {
        (Some(step), decay) if !matches!(decay, LogDecay::PerStep(_)) => {
            gates.step_size = Some(step.clone().mul_scalar(insertion));
        }
        _ => gates.key = gates.key.clone().mul_scalar(insertion),
    }
}
