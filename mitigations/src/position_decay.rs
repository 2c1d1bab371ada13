//! Position-adaptive decay: the later the token, the less it forgets.
//!
//! ```text
//! log a′_t = log a_t · min(1, T / (t + 1))^p        t counted from 0, T the training length
//! ```
//!
//! With p = 1 a head that remembers for τ tokens at T remembers for a share τ/T of everything read so far, however long: memories
//! stretch with the text. It is the opposite of [`crate::forget_and_remember`], and a test of what that is good for: where
//! too little forgetting is what makes a model collapse, this must make it collapse sooner.
//!
//! | text | exponent p | calibration |
//! |---|---|---|
//! | `position-decay:T` | 1 for every head; `,exponent=P` another | – |
//! | `position-spectrum:T` | one per head, such that the memories of a layer's heads spread evenly on a logarithmic scale up to t | memory length τ per head |
//!
//! The second is the published law. With the N heads of a recurrence in the order of ln τ, the longest first (k = 0), and
//! c_k = ln τ_0 − ln τ_k,
//!
//! ```text
//! p_k = clip((N − 1 − k)/(N − 1) + (c_k − k·c_{N−1}/(N − 1)) / ln T, 0, 1)
//! ```
//!
//! so that the head with the longest memory stretches in proportion to t and the one with the shortest not at all. It is published
//! with models that are trained under it from their first token. Here it acts beyond T alone, and memories that are longer than T
//! count as T, since text of T tokens does not tell them apart.
//!
//! Source: *Optimal Decay Spectra for Linear Recurrences* (2604.07658), position-adaptive decay.

use crate::calibrate::{Calibration, CalibrationError, Row, SiteStatistics, Table, numbers};
use crate::form::{Form, Parameter};
use crate::mitigation::{Calibratable, Part, Role};
use crate::tokens::scale_decay;
use burn::tensor::Tensor;
use spillway_ssm_core::{Error, Gates, Incompatible, Intervention, Rule, Site};
use std::sync::Arc;

const LENGTH: Parameter = Parameter::required("T", "training length in tokens, at least 2");
const WORKS_ON: &str = "models that forget: not linear attention, DeltaNet or RWKV-4";

pub(crate) const DECAY: Form = Form {
    name: "position-decay",
    syntax: "position-decay:T[,exponent=P]",
    summary: "let tokens beyond T forget less, in proportion to (T / position)^P",
    parameters: &[
        LENGTH,
        Parameter::optional("exponent", "P, above 0 and at most 1", "1"),
    ],
    works_on: WORKS_ON,
    calibrated: false,
    example: "position-decay:2048",
    parse: |written| {
        let ([tokens], [exponent]) = written.values_and(["exponent"])?;
        Ok(Arc::new(PositionDecay {
            tokens: length(written.tokens("length", tokens)?)
                .ok_or_else(|| written.wrong_number("length", LENGTH_EXPECTED, tokens))?,
            exponent: exponent.map_or(Ok(1.0), |exponent| written.share("exponent", exponent))?,
        }))
    },
};

pub(crate) const SPECTRUM: Form = Form {
    name: "position-spectrum",
    syntax: "position-spectrum:T",
    summary: "the same with an exponent per head, which spreads the memories of a layer evenly up to the position",
    parameters: &[LENGTH],
    works_on: WORKS_ON,
    calibrated: true,
    example: "position-spectrum:2048",
    parse: |written| {
        let [tokens] = written.exactly()?;
        Ok(Arc::new(PositionSpectrum {
            tokens: length(written.tokens("length", tokens)?)
                .ok_or_else(|| written.wrong_number("length", LENGTH_EXPECTED, tokens))?,
            exponents: None,
        }))
    },
};

const LENGTH_EXPECTED: &str = "a whole number of tokens, at least 2";

/// ln 1 is nothing to divide by.
fn length(tokens: u64) -> Option<u64> {
    (tokens >= 2).then_some(tokens)
}

/// `position-decay:T` and `position-decay:T,exponent=P`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionDecay {
    /// T, at least 2.
    pub tokens: u64,
    /// P, above 0 and at most 1.
    pub exponent: f64,
}

/// `position-spectrum:T`: position-adaptive decay with an exponent p of its own for every head.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionSpectrum {
    /// T, at least 2.
    pub tokens: u64,
    /// p of every head, once calibrated.
    pub exponents: Option<Arc<Table>>,
}

/// (T / (t + 1))^p, at most 1.
fn factor(tokens: u64, position: u64, exponent: f64) -> f64 {
    let stretch = tokens as f64 / (position as f64 + 1.0);
    stretch.min(1.0).powf(exponent)
}

fn check(part: &dyn Intervention, site: &Site) -> Result<(), Incompatible> {
    let reason = match (site.rule, site.decays) {
        (Rule::Mean, _) => {
            "the weights of this layer's mean decay at a rate that is the same for all tokens; use forget:C, which is one rate more"
        }
        (_, false) => "this layer has no decay that could be smaller; use forget:C, which gives it one",
        (Rule::WeightedSum | Rule::Delta, true) => return Ok(()),
    };
    Err(Incompatible {
        intervention: part.text(),
        layer: site.layer,
        reason: reason.into(),
    })
}

/// Log decays times the factor of their token and head. Decays that are the same for all tokens become one for each even where
/// nothing changes, so that a sequence has decays of one kind from its first call to its last.
fn stretch(gates: Gates, tokens: u64, position: u64, exponents: &[f64]) -> Gates {
    let dims = gates.dims();
    let time = dims.time;
    if dims.batch * time == 0 {
        return gates;
    }
    let factors: Vec<f32> = (0..time as u64)
        .flat_map(|token| {
            let of = move |exponent: &f64| factor(tokens, position.saturating_add(token), *exponent) as f32;
            exponents.iter().map(of)
        })
        .collect();
    let factors = Tensor::<1>::from_floats(factors.as_slice(), &gates.value.device());
    scale_decay(gates, factors.reshape([1, time, exponents.len()]))
}

impl Intervention for PositionDecay {
    fn text(&self) -> String {
        match self.exponent {
            1.0 => format!("{}:{}", DECAY.name, self.tokens),
            exponent => format!("{}:{},exponent={exponent}", DECAY.name, self.tokens),
        }
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        check(self, site)
    }

    fn on_gates(&self, site: &Site, gates: Gates, position: u64) -> Result<Gates, Error> {
        check(self, site)?;
        Ok(stretch(
            gates,
            self.tokens,
            position,
            &vec![self.exponent; site.heads],
        ))
    }
}

impl Intervention for PositionSpectrum {
    fn text(&self) -> String {
        format!("{}:{}", SPECTRUM.name, self.tokens)
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        check(self, site)?;
        numbers(self, self.exponents.as_deref(), site).map(|_| ())
    }

    fn on_gates(&self, site: &Site, gates: Gates, position: u64) -> Result<Gates, Error> {
        check(self, site)?;
        let exponents = numbers(self, self.exponents.as_deref(), site)?;
        let exponents: Vec<f64> = exponents.iter().map(|&exponent| exponent.into()).collect();
        Ok(stretch(gates, self.tokens, position, &exponents))
    }
}

impl Part for PositionDecay {
    fn role(&self) -> Role {
        Role::Gates
    }
}

impl Part for PositionSpectrum {
    fn role(&self) -> Role {
        Role::Gates
    }

    fn calibratable(&self) -> Option<&dyn Calibratable> {
        Some(self)
    }
}

impl Calibratable for PositionSpectrum {
    fn table(&self) -> Option<&Table> {
        self.exponents.as_deref()
    }

    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError> {
        // A number that is not finite is refused as such, before anything is made of it.
        calibration.table(|_, head| head.forgetting)?;
        Table::new(calibration.sites.iter().map(|site| Row {
            layer: site.layer,
            first_head: site.first_head,
            values: exponents(site, self.tokens as f64),
        }))
    }

    fn with_table(&self, table: Table) -> Arc<dyn Part> {
        Arc::new(Self {
            exponents: Some(Arc::new(table)),
            ..self.clone()
        })
    }
}

/// p of every head of a recurrence.
fn exponents(site: &SiteStatistics, tokens: f64) -> Vec<f32> {
    let memories: Vec<f64> = site
        .heads
        .iter()
        .map(|head| (1.0 / f64::from(head.forgetting)).clamp(1.0, tokens).ln())
        .collect();
    let mut longest_first: Vec<usize> = (0..memories.len()).collect();
    longest_first.sort_by(|&a, &b| memories[b].total_cmp(&memories[a]));
    let below_longest: Vec<f64> = longest_first
        .iter()
        .map(|&head| memories[longest_first[0]] - memories[head])
        .collect();
    let last = memories.len().saturating_sub(1);
    let mut exponents = vec![1.0; memories.len()];
    for (k, &head) in longest_first.iter().enumerate().filter(|_| last > 0) {
        let rank = (last - k) as f64 / last as f64;
        let uneven = below_longest[k] - k as f64 * below_longest[last] / last as f64;
        exponents[head] = (rank + uneven / tokens.ln()).clamp(0.0, 1.0) as f32;
    }
    exponents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::HeadStatistics;
    use crate::histogram::Histogram;

    fn site(memories: &[f64]) -> SiteStatistics {
        let head = |memory: &f64| HeadStatistics {
            norm: 1.0,
            final_norm: 1.0,
            forgetting: (1.0 / memory) as f32,
            step_sizes: Histogram::default(),
        };
        SiteStatistics {
            layer: 0,
            first_head: 0,
            heads: memories.iter().map(head).collect(),
            step_norms: Histogram::default(),
        }
    }

    #[test]
    fn memories_spread_evenly_at_any_position() {
        // At T they are spread unevenly over 1 to T; at t = T² ones that grow by these exponents lie evenly on a logarithmic scale.
        let memories = [30.0, 1024.0, 1.0, 500.0, 3.0];
        let found = exponents(&site(&memories), 1024.0);
        let stretched: Vec<f64> = [1usize, 3, 0, 4, 2]
            .iter()
            .map(|&head| memories[head].ln() + f64::from(found[head]) * 1024f64.ln())
            .collect();
        let gap = 2.0 * 1024f64.ln() / 4.0;
        for (k, ln) in stretched.iter().enumerate() {
            // Where no exponent is clipped.
            assert!((ln - (4 - k) as f64 * gap).abs() < 1e-3, "{k}: {stretched:?}");
        }
    }

    #[test]
    fn a_head_alone_stretches_with_the_text_and_no_memory_counts_as_longer_than_the_training() {
        assert_eq!(exponents(&site(&[7.0]), 64.0), [1.0]);
        assert_eq!(exponents(&site(&[f64::INFINITY, 1.0]), 64.0), [1.0, 0.0]);
        assert_eq!(
            exponents(&site(&[1e9, 8.0]), 64.0),
            exponents(&site(&[64.0, 8.0]), 64.0)
        );
    }
}
