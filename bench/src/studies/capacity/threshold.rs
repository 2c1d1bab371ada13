//! From trainings to thresholds: T_forget and T_recall, as intervals.
//!
//! T_forget of a state size is the shortest training length at which the model does not collapse; lengths are tried one by one, so it lies
//! between the longest that collapses and the shortest that does not. Where the two are out of order the interval spans both,
//! and says so. T_recall is the longest context in which passkeys are found; contexts are tried one by one as well.

use super::result::{RunResult, StateSize};
use crate::kit::format::count;
use serde::Serialize;
use spillway_models::evaluation::laws::Observation;
use spillway_models::evaluation::passkey::RECALLED;
use spillway_models::evaluation::wilson;
use std::collections::BTreeMap;
use std::fmt;

/// A kind of threshold: T_forget or T_recall, and by what it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// T_forget, collapsed if the largest loss beyond the training length is over the ratio times the largest inside.
    ForgetLoss,
    /// As for the loss, of perplexity.
    ForgetPerplexity,
    /// T_recall with more than 95 % of the passkeys found.
    Recall,
    /// T_recall with the lower end of the Wilson interval above 95 %.
    RecallWilson,
}

impl Quantity {
    /// Every kind: T_forget by perplexity and by loss, then T_recall by the share of passkeys and by its Wilson bound.
    pub const ALL: [Self; 4] = [
        Self::ForgetPerplexity,
        Self::ForgetLoss,
        Self::Recall,
        Self::RecallWilson,
    ];

    /// Whether it is a T_forget.
    pub fn is_forget(self) -> bool {
        matches!(self, Self::ForgetLoss | Self::ForgetPerplexity)
    }

    /// Symbol of the threshold: `T_forget` or `T_recall`.
    pub fn symbol(self) -> &'static str {
        if self.is_forget() { "T_forget" } else { "T_recall" }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForgetLoss => "T_forget by loss",
            Self::ForgetPerplexity => "T_forget by perplexity",
            Self::Recall => "T_recall, more than 95 % found",
            Self::RecallWilson => "T_recall, Wilson bound above 95 %",
        })
    }
}

/// `(64, 128]`, `at most 64`, `above 512`, `unknown`.
pub fn interval(observation: Observation) -> String {
    let tokens = |value: f64| count(value.round() as u64);
    match observation {
        Observation::Exact(value) => tokens(value),
        Observation::Within {
            low,
            high: Some(high),
        } if low > 0.0 => format!("({}, {}]", tokens(low), tokens(high)),
        Observation::Within { high: Some(high), .. } => format!("at most {}", tokens(high)),
        Observation::Within { low, high: None } if low > 0.0 => format!("above {}", tokens(low)),
        Observation::Within { .. } => "unknown".into(),
    }
}

/// As [`interval`]; a recall length is at least the lower end and below the upper one: `[64, 128)`.
pub fn interval_of(quantity: Quantity, observation: Observation) -> String {
    let text = interval(observation);
    match quantity.is_forget() {
        true => text,
        false => text
            .replace('(', "[")
            .replace(']', ")")
            .replace("at most", "below")
            .replace("above", "at least"),
    }
}

/// One length that was tried, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Training length in tokens.
    pub length: u64,
    /// Collapse ratio; recall length in tokens, 0 if passkeys were not found at any.
    pub value: f64,
    /// Whether the model collapsed; always false for recall.
    pub collapsed: bool,
}

/// A threshold of one state size and seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// Sizes of the model.
    pub state: StateSize,
    /// Elements of its state.
    pub elements: u64,
    /// Seed of the trainings that the threshold is found from.
    pub seed: u64,
    /// What was tried, the shortest training length first.
    pub trials: Vec<Trial>,
    /// Where the threshold lies.
    pub interval: Observation,
    /// Whether no longer training length collapsed after a shorter one had not.
    pub ordered: bool,
}

/// The thresholds of a task, by state size and seed; empty if the task was not evaluated for them.
pub fn thresholds(runs: &[RunResult], task: &str, quantity: Quantity, ratio: f64) -> Vec<Threshold> {
    let mut groups: BTreeMap<(u64, StateSize, u64), Vec<&RunResult>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.task == task) {
        let group = groups.entry((run.elements, run.state, run.seed)).or_default();
        group.push(run);
    }
    let threshold = |((elements, state, seed), mut runs): ((u64, StateSize, u64), Vec<&RunResult>)| {
        runs.sort_by_key(|run| run.train_length);
        let found = if quantity.is_forget() {
            forget(&runs, quantity, ratio)
        } else {
            recall(&runs, quantity)
        };
        found.map(|(trials, interval, ordered)| Threshold {
            state,
            elements,
            seed,
            trials,
            interval,
            ordered,
        })
    };
    groups.into_iter().filter_map(threshold).collect()
}

type Found = (Vec<Trial>, Observation, bool);

fn forget(runs: &[&RunResult], quantity: Quantity, ratio: f64) -> Option<Found> {
    let trials = runs.iter().filter_map(|run| {
        let forgetting = run.forgetting.as_ref()?;
        let value = match quantity {
            Quantity::ForgetLoss => forgetting.loss_ratio(),
            _ => forgetting.perplexity_ratio(),
        };
        Some(Trial {
            length: run.train_length,
            value,
            collapsed: value > ratio,
        })
    });
    let trials: Vec<Trial> = trials.collect();
    let first_safe = trials.iter().position(|trial| !trial.collapsed);
    let last_collapsed = trials.iter().rposition(|trial| trial.collapsed);
    let ordered = match (first_safe, last_collapsed) {
        (Some(safe), Some(collapsed)) => collapsed < safe,
        _ => true,
    };
    // The longest length before the first that is safe, and the shortest after the last that collapses.
    let low = match first_safe {
        Some(safe) => safe.checked_sub(1),
        None => trials.len().checked_sub(1),
    };
    let high = last_collapsed.map_or(0, |collapsed| collapsed + 1);
    let interval = Observation::Within {
        low: low.map_or(0.0, |index| trials[index].length as f64),
        high: trials.get(high).map(|trial| trial.length as f64),
    };
    (!trials.is_empty()).then_some((trials, interval, ordered))
}

/// The longest context over all training lengths; the next longer one that was asked bounds it from above.
fn recall(runs: &[&RunResult], quantity: Quantity) -> Option<Found> {
    let passes = |correct: u64, samples: u64| match quantity {
        Quantity::RecallWilson => wilson::interval(correct, samples).0 > RECALLED,
        _ => correct as f64 > RECALLED * samples as f64,
    };
    let mut trials = Vec::new();
    let mut best: Option<(u64, Option<u64>)> = None;
    for run in runs {
        let Some(recall) = &run.recall else { continue };
        let lengths: Vec<u64> = recall.by_length().iter().map(|(length, ..)| *length).collect();
        let reach = recall.reach(passes).unwrap_or(0);
        let next = lengths.iter().copied().find(|length| *length > reach);
        trials.push(Trial {
            length: run.train_length,
            value: reach as f64,
            collapsed: false,
        });
        let better = best.is_none_or(|(longest, bound)| {
            // Of two equal reaches the tighter bound.
            reach > longest
                || (reach == longest && next.is_some_and(|next| bound.is_none_or(|bound| next < bound)))
        });
        if better {
            best = Some((reach, next));
        }
    }
    let (low, high) = best?;
    let interval = Observation::Within {
        low: low as f64,
        high: high.map(|high| high as f64),
    };
    Some((trials, interval, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::capacity::result::{Bucket, Forgetting, Recall, RecallCell, RunSeconds, VERSION};

    fn run(train_length: u64, worst: Option<f64>, recall: &[(u64, u64)]) -> RunResult {
        let state = StateSize {
            model_dim: 64,
            layers: 2,
            head_dim: 32,
            d_state: 16,
        };
        let cell = |&(length, correct): &(u64, u64)| RecallCell {
            length,
            depth: 0,
            correct,
            samples: 100,
        };
        RunResult {
            version: VERSION,
            task: "text".into(),
            state,
            elements: state.elements(),
            train_length,
            seed: 0,
            parameters: 1,
            steps: 1,
            tokens: 1,
            train_loss: 1.0,
            train_curve: Vec::new(),
            forgetting: Some(Forgetting {
                streams: 1,
                buckets: vec![Bucket {
                    start: 0,
                    end: train_length,
                    loss: Some(1.0),
                }],
                inside: Some(1.0),
                worst,
                worst_at: 2 * train_length,
            }),
            recall: (!recall.is_empty()).then(|| Recall {
                cells: recall.iter().map(cell).collect(),
            }),
            pairs: None,
            seconds: RunSeconds::default(),
            settings: serde_json::Value::Null,
        }
    }

    fn interval(worst: &[Option<f64>]) -> (Observation, bool) {
        let runs: Vec<RunResult> = worst
            .iter()
            .zip([64, 128, 256, 512])
            .map(|(worst, length)| run(length, *worst, &[]))
            .collect();
        let found = thresholds(&runs, "text", Quantity::ForgetLoss, 2.0);
        (found[0].interval, found[0].ordered)
    }

    fn within(low: f64, high: Option<f64>) -> Observation {
        Observation::Within { low, high }
    }

    #[test]
    fn a_threshold_lies_between_the_last_collapse_and_the_first_safe_length() {
        let (bad, good) = (Some(2.5), Some(1.2));
        assert_eq!(
            interval(&[bad, bad, good, good]),
            (within(128.0, Some(256.0)), true)
        );
        assert_eq!(interval(&[good; 4]), (within(0.0, Some(64.0)), true));
        assert_eq!(interval(&[bad; 4]), (within(512.0, None), true));
        // A loss that is no number is a collapse.
        assert_eq!(
            interval(&[None, good, good, good]),
            (within(64.0, Some(128.0)), true)
        );
    }

    #[test]
    fn lengths_out_of_order_widen_the_interval() {
        let (bad, good) = (Some(2.5), Some(1.2));
        assert_eq!(
            interval(&[bad, good, bad, good]),
            (within(64.0, Some(512.0)), false)
        );
        let (nothing, ordered) = interval(&[good, bad, good, bad]);
        assert!(nothing.is_empty() && !ordered);
    }

    #[test]
    fn loss_and_perplexity_are_different_criteria() {
        // 1 to 1.8 nats: 1.8 times the loss, e^0.8 = 2.2 times the perplexity.
        let runs = [run(64, Some(1.8), &[])];
        let collapsed = |quantity| thresholds(&runs, "text", quantity, 2.0)[0].trials[0].collapsed;
        assert!(!collapsed(Quantity::ForgetLoss) && collapsed(Quantity::ForgetPerplexity));
        assert!(thresholds(&runs, "text", Quantity::Recall, 2.0).is_empty());
        assert!(thresholds(&runs, "other", Quantity::ForgetLoss, 2.0).is_empty());
    }

    #[test]
    fn recall_is_the_longest_context_over_all_training_lengths() {
        let runs = [
            run(64, Some(1.0), &[(64, 100), (128, 96), (256, 40), (512, 0)]),
            run(128, Some(1.0), &[(64, 100), (128, 100), (256, 98), (512, 95)]),
        ];
        let of = |quantity| thresholds(&runs, "text", quantity, 2.0)[0].interval;
        assert_eq!(of(Quantity::Recall), within(256.0, Some(512.0)));
        // 98 of 100 has a Wilson bound of 0.93, 100 of 100 one of 0.963.
        assert_eq!(of(Quantity::RecallWilson), within(128.0, Some(256.0)));
        let nothing = [run(64, Some(1.0), &[(64, 10)])];
        let found = thresholds(&nothing, "text", Quantity::Recall, 2.0);
        assert_eq!(found[0].interval, within(0.0, Some(64.0)));
    }
}
