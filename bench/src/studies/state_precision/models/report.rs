//! How far a model's predictions are off with states of fewer bits, and up to where a type is safe.

use super::config::SubjectConfig;
use super::measure::ModelMeasured;
use crate::kit::format::{count, list, short};
use crate::studies::state_precision::config::PrecisionConfig;
use serde::Serialize;

/// A model under all its mitigations.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// Configuration of the model: which it is, and what it reads.
    pub model: SubjectConfig,
    /// The model's runs, those that are not finished left out.
    pub runs: Vec<RunReport>,
}

/// A model under one mitigation.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The mitigation, and what it is held against where that is another.
    pub name: String,
    /// The ends of the spans, in tokens: each is from half of its end to it.
    pub positions: Vec<u64>,
    /// Mean −ln p of the next token over each span, by the truth, in nats.
    pub loss: Vec<f64>,
    /// The types, in the order of the configuration.
    pub types: Vec<RunTypeReport>,
}

/// A type in a model under one mitigation.
#[derive(Clone, Debug, Serialize)]
pub struct RunTypeReport {
    /// As `state-dtype` takes it.
    pub name: String,
    /// Bits of a stored number in a state of the laws' size, its share of the scales included.
    pub bits: f64,
    /// Mean |Δ ln p| of the next token over each span, in nats; absent where it is no number.
    pub change: Vec<Option<f64>>,
    /// By how much the loss rises over each span, in nats; absent where it is no number.
    pub rise: Vec<Option<f64>>,
    /// Standard error of the rise, from the means over 256 tokens each.
    pub rise_error: Vec<Option<f64>>,
    /// The last position up to which the mean change is at most what is tolerated; 0 if the first span is beyond.
    pub safe_up_to: u64,
}

impl ModelReport {
    /// The report of what is measured so far of a model.
    pub fn of(
        config: &PrecisionConfig,
        model: &SubjectConfig,
        names: &[(String, f64)],
        measured: &[Option<ModelMeasured>],
    ) -> Self {
        let runs = model.runs.iter().zip(measured);
        let runs = runs.filter_map(|(run, measured)| {
            let measured = measured.as_ref()?;
            let types = names.iter().zip(&measured.types);
            let types = types.map(|((name, bits), errors)| RunTypeReport {
                name: name.clone(),
                bits: *bits,
                change: errors.change.clone(),
                rise: errors.rise.clone(),
                rise_error: errors.rise_error.clone(),
                safe_up_to: safe(config.tolerated_change, &measured.positions, &errors.change),
            });
            Some(RunReport {
                name: run.name(),
                positions: measured.positions.clone(),
                loss: measured.loss.clone(),
                types: types.collect(),
            })
        });
        Self {
            model: model.clone(),
            runs: runs.collect(),
        }
    }

    /// Up to where which types are safe, a sentence for each run.
    pub fn findings(&self, tolerated: f64) -> Vec<String> {
        self.runs
            .iter()
            .map(|run| {
                let under = match run.name.as_str() {
                    super::config::NONE => String::new(),
                    name => format!(" under {name}"),
                };
                format!("{}{under}: {}.", self.model.name, verdict(run, tolerated))
            })
            .collect()
    }
}

/// Says which types are safe to the end, which for a while, and which never.
fn verdict(run: &RunReport, tolerated: f64) -> String {
    let last = run.positions.last().copied().unwrap_or(0);
    let names = |is: &dyn Fn(u64) -> bool| -> Vec<String> {
        let types = run.types.iter().filter(|found| is(found.safe_up_to));
        types.map(|found| found.name.clone()).collect()
    };
    let mut parts = Vec::new();
    let whole = names(&|safe| safe == last);
    if !whole.is_empty() {
        parts.push(format!("for all {} tokens with {}", count(last), list(&whole)));
    }
    let some = run
        .types
        .iter()
        .filter(|found| (1..last).contains(&found.safe_up_to));
    let some: Vec<String> = some
        .map(|found| format!("{} for {}", found.name, count(found.safe_up_to)))
        .collect();
    if !some.is_empty() {
        parts.push(format!("with {}", list(&some)));
    }
    let never = names(&|safe| safe == 0);
    if !never.is_empty() {
        parts.push(format!("not even for the first tokens with {}", list(&never)));
    }
    format!(
        "ln p of the next token stays within {} of what states in f32 give, in the mean, {}",
        short(tolerated),
        parts.join("; ")
    )
}

/// The last position before the first beyond which the change is more than is tolerated, or no number.
fn safe(tolerated: f64, positions: &[u64], changes: &[Option<f64>]) -> u64 {
    let spans = positions.iter().zip(changes);
    let safe = spans.take_while(|(_, change)| change.is_some_and(|change| change <= tolerated));
    safe.last().map_or(0, |(position, _)| *position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, safe_up_to: u64) -> RunTypeReport {
        RunTypeReport {
            name: name.into(),
            bits: 16.0,
            change: Vec::new(),
            rise: Vec::new(),
            rise_error: Vec::new(),
            safe_up_to,
        }
    }

    #[test]
    fn a_type_is_safe_until_the_change_is_too_large_or_no_number() {
        let positions = [16, 32, 64];
        assert_eq!(safe(0.02, &positions, &[Some(0.01), Some(0.02), Some(0.03)]), 32);
        assert_eq!(safe(0.02, &positions, &[Some(0.01), None, Some(0.01)]), 16);
        assert_eq!(safe(0.02, &positions, &[Some(0.1), Some(0.0), Some(0.0)]), 0);
    }

    #[test]
    fn a_verdict_names_every_type_once() {
        let run = RunReport {
            name: "window:64".into(),
            positions: vec![16, 4096],
            loss: vec![1.0, 1.0],
            types: vec![found("f32", 4096), found("bf16", 16), found("int8", 0)],
        };
        assert_eq!(
            verdict(&run, 0.02),
            "ln p of the next token stays within 0.02 of what states in f32 give, in the mean, for all 4,096 tokens with f32; with bf16 for \
             16; not even for the first tokens with int8"
        );
    }
}
