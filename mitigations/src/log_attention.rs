//! Sharper attention the more tokens there are: queries multiplied by a logarithm of the position.
//!
//! The softmax over n keys spreads as n grows: with scores of a fixed size, the weight of the one key that matters falls as 1/n.
//! A factor of log n on the scores holds it. For layers of softmax attention over all earlier tokens, such as hybrids have;
//! recurrences, and attention within a window, stay as they are.
//!
//! | text | factor on q_t, t counted from 0 |
//! |---|---|
//! | `log-attention:A` | ln(t + A) / ln A |
//! | `logn-attention:T` | max(1, ln(t + 1) / ln T), which leaves the training length alone |
//!
//! Sources: Chen et al., HypeNet (2601.22156), for the first, which is trained with A = 362;
//! Chiang and Cholak, *Overcoming a Theoretical Limitation of Self-Attention* (2202.12172), for the logarithm of the length,
//! and Su, *Entropy invariance of softmax* (2021), for the second.

use crate::form::{Form, Parameter};
use crate::mitigation::{Part, Role};
use spillway_ssm_core::Intervention;
use std::sync::Arc;

pub(crate) const LOG: Form = Form {
    name: "log-attention",
    syntax: "log-attention:A",
    summary: "multiply the queries of attention layers by ln(t + A) / ln A at position t",
    parameters: &[Parameter::required("A", "tokens, above 1; 362 as published")],
    works_on: "models with attention over all tokens; their recurrences stay as they are",
    calibrated: false,
    example: "log-attention:362",
    parse: |written| {
        let [tokens] = written.exactly()?;
        Ok(Arc::new(LogAttention {
            law: Law::Shifted,
            tokens: written.number("tokens", "a finite number above 1", tokens, |number| number > 1.0)?,
        }))
    },
};

pub(crate) const LOG_N: Form = Form {
    name: "logn-attention",
    syntax: "logn-attention:T",
    summary: "multiply the queries of attention layers by ln n / ln T at the n-th token, beyond T tokens",
    parameters: &[Parameter::required("T", "training length in tokens, above 1")],
    works_on: "models with attention over all tokens; their recurrences stay as they are",
    calibrated: false,
    example: "logn-attention:2048",
    parse: |written| {
        let [tokens] = written.exactly()?;
        Ok(Arc::new(LogAttention {
            law: Law::BeyondLength,
            tokens: written.number("tokens", "a finite number above 1", tokens, |number| number > 1.0)?,
        }))
    },
};

/// How the factor grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// ln(t + A) / ln A.
    Shifted,
    /// max(1, ln(t + 1) / ln T).
    BeyondLength,
}

/// `log-attention:A` and `logn-attention:T`: queries multiplied by a logarithm of the position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogAttention {
    /// The factor as a function of the position.
    pub law: Law,
    /// A or T, above 1.
    pub tokens: f64,
}

impl Intervention for LogAttention {
    fn text(&self) -> String {
        let name = match self.law {
            Law::Shifted => LOG.name,
            Law::BeyondLength => LOG_N.name,
        };
        format!("{name}:{}", self.tokens)
    }

    /// Not at that of recurrences, which it leaves alone.
    fn looks_at_positions(&self) -> bool {
        false
    }

    fn attention_scale(&self, position: u64) -> Option<f64> {
        let position = position as f64;
        Some(match self.law {
            Law::Shifted => (position + self.tokens).ln() / self.tokens.ln(),
            Law::BeyondLength => ((position + 1.0).ln() / self.tokens.ln()).max(1.0),
        })
    }
}

impl Part for LogAttention {
    fn role(&self) -> Role {
        Role::Attention
    }
}
