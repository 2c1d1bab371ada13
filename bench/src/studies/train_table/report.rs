//! What the trainings of a table come to: `results.json`.

use super::config::{ArmConfig, Expected, TableConfig};
use crate::error::ProgramError;
use crate::studies::about::About;
use crate::studies::estimate::Estimate;
use crate::studies::train_compare::report::Findings;
use crate::studies::trainings::Runs;
use crate::train::record::Record;
use crate::train::task_result::value;
use serde::Serialize;
use spillway_models::train::task::{Metric, TaskResult};
use std::collections::BTreeMap;

/// Everything that the page of a table shows: the content of `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// The head of the report: format, command, title, question and trainings.
    #[serde(flatten)]
    pub about: About,
    /// The arms, each a row of the table.
    pub arms: Vec<ArmReport>,
    /// Sentences made from the numbers.
    pub findings: Findings,
}

/// An arm: a row of the table, and what its trainings come to.
#[derive(Clone, Debug, Serialize)]
pub struct ArmReport {
    /// Name of the arm.
    pub name: String,
    /// What the arm changes of the training, by the path of the field.
    pub settings: BTreeMap<String, String>,
    /// Seeds of the trainings that are finished.
    pub seeds: Vec<u64>,
    /// Number of the model's weights; 0 in a table without trainings.
    pub parameters: u64,
    /// Steps of a training.
    pub steps: u64,
    /// Mean time of the steps of a training, in seconds.
    pub seconds: f64,
    /// The figure to be reproduced.
    pub published: Option<f64>,
    /// The task itself, and what else is asked.
    pub asked: Vec<Asked>,
}

/// One set of examples, in the course of an arm's trainings.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Name of the set of examples; empty for the task itself.
    pub name: String,
    /// How answers are judged.
    pub metric: Metric,
    /// What the best constant answer gets.
    pub chance: f64,
    /// Every evaluation that all trainings of the arm have, in the order of the steps.
    pub points: Vec<Point>,
}

/// One evaluation of each training of an arm, after the same step.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Training steps done before the evaluation.
    pub step: u64,
    /// The metric over seeds.
    pub value: Estimate,
    /// What each training's evaluation found, in the order of the seeds.
    pub results: Vec<TaskResult>,
}

impl Point {
    /// The mean with its 95 % interval over seeds; with that over examples where there is one seed.
    pub fn text(&self) -> String {
        let metric = self
            .results
            .first()
            .map_or(Metric::Accuracy, |result| result.metric);
        let interval = match (self.value.interval, self.results.as_slice()) {
            (Some(interval), _) => Some(interval),
            (None, [result]) => Some([result.low, result.high]),
            (None, _) => None,
        };
        let shown = |number: f64| match metric {
            // Student's interval knows nothing of the ends of the scale.
            Metric::Accuracy => value(metric, number.clamp(0.0, 1.0)),
            Metric::RelativeError => value(metric, number.max(0.0)),
        };
        let interval = interval.map(|[low, high]| format!(" ({} to {})", shown(low), shown(high)));
        value(metric, self.value.mean) + &interval.unwrap_or_default()
    }

    /// Whether every training is better than chance.
    fn is_better_than_chance(&self) -> bool {
        self.results.iter().all(TaskResult::is_better_than_chance)
    }
}

impl ArmReport {
    /// What was found after the last step.
    pub fn last(&self, asked: &str) -> Option<&Point> {
        let asked = self.asked.iter().find(|other| other.name == asked)?;
        asked.points.last()
    }
}

impl TableReport {
    /// Reads what the trainings have come to so far.
    ///
    /// # Errors
    /// As [`Runs::finished`].
    pub fn read(config: &TableConfig, runs: &Runs<'_>, command: String) -> Result<Self, ProgramError> {
        let mut records: Vec<Vec<(u64, Record)>> = config.arms.iter().map(|_| Vec::new()).collect();
        for job in runs.jobs {
            if let Some(record) = runs.finished(job)? {
                records[job.arm].push((job.seed, record));
            }
        }
        let all = records.iter().flatten().map(|(_, record)| record);
        let about = about(config, command).of(all, runs.jobs.len(), |record| {
            let evaluations = record.tasks.iter().map(|event| event.seconds);
            record.step_seconds() + evaluations.sum::<f64>()
        });
        let arms = config.arms.iter().zip(&records);
        let arms = arms.map(|(arm, records)| arm_report(arm, records)).collect();
        Ok(Self::found(config, about, arms))
    }

    /// A table of these arms, without a training.
    pub fn of(config: &TableConfig, arms: Vec<ArmReport>, command: String) -> Self {
        Self::found(config, about(config, command), arms)
    }

    fn found(config: &TableConfig, about: About, arms: Vec<ArmReport>) -> Self {
        let mut report = Self {
            about,
            arms,
            findings: Findings::default(),
        };
        report.findings = findings(&report, &config.expected);
        report
    }
}

fn about(config: &TableConfig, command: String) -> About {
    About::new("spillway-train-table", command, &config.title, &config.question)
}

fn arm_report(arm: &ArmConfig, records: &[(u64, Record)]) -> ArmReport {
    let first = records.first().map(|(_, record)| record);
    let seconds: f64 = records.iter().map(|(_, record)| record.step_seconds()).sum();
    let settings = arm
        .set
        .iter()
        .map(|(field, value)| (field.clone(), value.to_string()));
    let results = first.and_then(|record| Some(&record.tasks.last()?.report.results));
    let asked = |(place, last): (usize, &TaskResult)| Asked {
        name: last.name.clone(),
        metric: last.metric,
        chance: last.chance,
        points: points(records, place),
    };
    ArmReport {
        name: arm.name.clone(),
        settings: settings.collect(),
        seeds: records.iter().map(|(seed, _)| *seed).collect(),
        parameters: first.map_or(0, |record| record.start.parameters),
        steps: first.map_or(0, |record| record.start.steps),
        seconds: seconds / records.len().max(1) as f64,
        published: arm.published,
        asked: results.into_iter().flatten().enumerate().map(asked).collect(),
    }
}

/// The evaluations that all trainings have, on the examples of this place.
fn points(records: &[(u64, Record)], place: usize) -> Vec<Point> {
    let count = records.iter().map(|(_, record)| record.tasks.len()).min();
    let point = |index: usize| {
        let events = records.iter().map(|(_, record)| &record.tasks[index]);
        let results: Vec<TaskResult> = events
            .clone()
            .filter_map(|event| event.report.results.get(place).cloned())
            .collect();
        Point {
            step: events.map(|event| event.step).next().unwrap_or(0),
            value: Estimate::of(results.iter().map(|result| result.value).collect()),
            results,
        }
    };
    (0..count.unwrap_or(0)).map(point).collect()
}

/// What was expected and came, and what is no better than chance.
fn findings(report: &TableReport, expected: &[Expected]) -> Findings {
    let mut found = Findings::default();
    let [done, all] = report.about.trainings;
    if done < all {
        let sentence = format!("{done} of {all} trainings are finished: the table is not complete.");
        found.unsupported.push(sentence);
    }
    for expected in expected {
        let arm = report.arms.iter().find(|arm| arm.name == expected.arm);
        let Some(arm) = arm.filter(|arm| !arm.asked.is_empty()) else {
            continue;
        };
        let Some(point) = arm.last(&expected.asked) else {
            let sentence = format!("{} is not asked about {:?}.", arm.name, expected.asked);
            found.unsupported.push(sentence);
            continue;
        };
        let (sentence, holds) = judged(expected, point);
        match holds {
            true => found.supported.push(sentence),
            false => found.unsupported.push(sentence),
        }
    }
    for arm in &report.arms {
        if let Some(point) = arm.last("")
            && !point.is_better_than_chance()
        {
            let sentence = format!("{} is no better than chance: {}.", arm.name, point.text());
            found.unsupported.push(sentence);
        }
    }
    found
}

/// An expectation in a sentence, and whether the mean meets it.
fn judged(expected: &Expected, point: &Point) -> (String, bool) {
    let metric = point
        .results
        .first()
        .map_or(Metric::Accuracy, |result| result.metric);
    let mean = point.value.mean;
    let bounds = [("at least", expected.at_least), ("at most", expected.at_most)];
    let bounds = bounds
        .iter()
        .filter_map(|(words, bound)| Some(format!("{words} {}", value(metric, (*bound)?))));
    let asked = match expected.asked.as_str() {
        "" => String::new(),
        asked => format!(", {asked}"),
    };
    let sentence = format!(
        "{}{asked}: {}, expected {}.",
        expected.arm,
        point.text(),
        bounds.collect::<Vec<_>>().join(" and ")
    );
    let holds = expected.at_least.is_none_or(|bound| mean >= bound)
        && expected.at_most.is_none_or(|bound| mean <= bound);
    (sentence, holds)
}
