//! What several trainings give when they are held against each other: `results.json`.

use super::arm::{ArmReport, Bucket, Measure, Point, Setting, TrainingReport};
use super::factorial::Factorial;
use super::runs::{self, Arm, Training};
use crate::studies::estimate::Estimate;
use crate::train::record::inside;
use serde::Serialize;
use spillway_models::evaluation::tally::{BucketLoss, mean_over};
use spillway_models::train::ScheduleConfig;
use spillway_models::train::evaluation::EvaluationReport;
use std::collections::BTreeSet;

/// Everything that the page of a comparison shows: the content of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparisonReport {
    /// Name of the file's format, `spillway-train-compare`.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// The command that made the report.
    pub command: String,
    /// Architecture of the first training.
    pub architecture: String,
    /// Number of the model's weights.
    pub parameters: u64,
    /// Time of all steps and evaluations together, in seconds.
    pub seconds: f64,
    /// When the first and the last training began, in seconds since 1970.
    pub started: [u64; 2],
    /// Ranges of positions in which losses are compared: the same tokens in each training.
    pub ranges: Vec<(u64, u64)>,
    /// The arms, that to which the others are compared first.
    pub arms: Vec<ArmReport>,
    /// Each arm less each that comes before it.
    pub differences: Vec<Difference>,
    /// Effects of two settings and of both together, where the arms are the four combinations of them.
    pub factorial: Option<Factorial>,
    /// Sentences made from the numbers.
    pub findings: Findings,
}

/// a − b over the seeds that both have.
pub fn paired(a: &[(u64, f64)], b: &[(u64, f64)]) -> Estimate {
    let pairs = a.iter().filter_map(|(seed, value)| {
        let other = b.iter().find(|(other, _)| other == seed)?;
        Some(value - other.1)
    });
    Estimate::of(pairs.collect())
}

/// What is to be said, in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// What the numbers support.
    pub supported: Vec<String>,
    /// What the numbers do not support.
    pub unsupported: Vec<String>,
}

/// One arm less another after the last step, seed by seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The measure that is compared.
    pub measure: Measure,
    /// Name of the one arm, from which the other is subtracted.
    pub arm: String,
    /// The other, which is subtracted.
    pub from: String,
    /// Difference in the measure over the seeds that both arms have.
    pub difference: Estimate,
}

impl ComparisonReport {
    /// Compares arms, the first of which is the reference, in [`common_ranges`](runs::common_ranges); the
    /// sentences are left to [`findings`](super::findings).
    pub fn new(arms: &[Arm], ranges: Vec<(u64, u64)>, command: String) -> Self {
        let fields = differing(arms);
        let reports: Vec<ArmReport> = arms
            .iter()
            .map(|arm| arm_report(arm, &arms[0], &fields, &ranges))
            .collect();
        let trainings = || arms.iter().flat_map(|arm| &arm.trainings);
        let started = |training: &Training| training.record.start.started;
        let first = &arms[0].trainings[0].record.start;
        Self {
            format: "spillway-train-compare",
            version: 1,
            program: env!("CARGO_PKG_VERSION"),
            command,
            architecture: first.architecture.clone(),
            parameters: first.parameters,
            seconds: trainings().map(seconds).sum(),
            started: [
                trainings().map(started).min().unwrap_or(0),
                trainings().map(started).max().unwrap_or(0),
            ],
            ranges,
            differences: differences(&reports),
            factorial: Factorial::of(&reports),
            arms: reports,
            findings: Findings::default(),
        }
    }

    /// Whether each training read as many tokens.
    pub fn equal_tokens(&self) -> bool {
        self.arms
            .windows(2)
            .all(|pair| pair[0].tokens() == pair[1].tokens())
    }

    /// How far the losses of trainings of one seed lie apart before the first step, at most, in any range; `None` where arms share no
    /// seed, or were not evaluated then.
    pub fn apart_at_start(&self) -> Option<f64> {
        let start = |arm: &ArmReport, seed: u64| -> Option<Vec<f64>> {
            let index = arm.seeds.iter().position(|other| *other == seed)?;
            let point = arm.points.first().filter(|point| point.step == 0)?;
            Some(point.losses.iter().map(|loss| loss.values[index]).collect())
        };
        let (first, others) = self.arms.split_first()?;
        let mut apart = None;
        for arm in others {
            for &seed in arm.seeds.iter().filter(|seed| first.seeds.contains(seed)) {
                let (a, b) = (start(first, seed)?, start(arm, seed)?);
                let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                apart = Some(f64::max(apart.unwrap_or(0.0), largest));
            }
        }
        apart
    }
}

fn seconds(training: &Training) -> f64 {
    let steps = training.record.step_seconds();
    steps
        + training
            .record
            .evaluations
            .iter()
            .map(|event| event.seconds)
            .sum::<f64>()
}

/// Settings whose value is not the same in all arms.
fn differing(arms: &[Arm]) -> Vec<String> {
    let first = &arms[0].trainings[0].config;
    let others = arms[1..]
        .iter()
        .flat_map(|arm| first.differences(&arm.trainings[0].config));
    let fields: BTreeSet<String> = others
        .map(|difference| difference.field)
        .filter(|field| field != "seed")
        .collect();
    fields.into_iter().collect()
}

fn settings(arm: &Arm, first: &Arm, fields: &[String]) -> Vec<Setting> {
    let here = first.trainings[0].config.differences(&arm.trainings[0].config);
    let config = first.trainings[0].config.to_json();
    let value = |field: &String| match here.iter().find(|difference| difference.field == *field) {
        Some(difference) => difference.asked.clone(),
        None => {
            let value = config.pointer(&format!("/{}", field.replace('.', "/")));
            value
                .filter(|value| !value.is_null())
                .map_or("none".into(), ToString::to_string)
        }
    };
    fields
        .iter()
        .map(|field| Setting {
            value: value(field),
            field: field.clone(),
        })
        .collect()
}

fn arm_report(arm: &Arm, first: &Arm, fields: &[String], ranges: &[(u64, u64)]) -> ArmReport {
    let of_first = &arm.trainings[0];
    let steps = of_first.record.evaluations.iter().map(|event| event.step);
    ArmReport {
        name: arm.name.clone(),
        settings: settings(arm, first, fields),
        train_length: of_first.config.length as u64,
        from_random: of_first.record.from_random,
        constant_rate: matches!(
            of_first.config.optimizer.schedule,
            ScheduleConfig::Constant { .. }
        ),
        seeds: arm
            .trainings
            .iter()
            .map(|training| training.config.seed)
            .collect(),
        curve: curve(arm),
        points: steps.filter_map(|step| point(arm, step, ranges)).collect(),
        trainings: arm
            .trainings
            .iter()
            .map(|training| TrainingReport {
                name: training.name.clone(),
                seed: training.config.seed,
                command: training.command.clone(),
                seconds: seconds(training),
            })
            .collect(),
    }
}

/// Losses after the last step, bucket by bucket.
fn curve(arm: &Arm) -> Vec<Bucket> {
    let reports: Vec<&EvaluationReport> = arm
        .trainings
        .iter()
        .filter_map(|training| training.record.evaluations.last())
        .map(|event| &event.report)
        .collect();
    let Some(first) = reports.first() else {
        return Vec::new();
    };
    let bucket = |bucket: &BucketLoss| {
        let range = (bucket.start, bucket.end);
        Bucket {
            start: bucket.start,
            end: bucket.end,
            loss: Estimate::of(
                reports
                    .iter()
                    .map(|report| loss(&report.positions, range))
                    .collect(),
            ),
            excess: excess(&reports, range),
        }
    };
    first.positions.iter().map(bucket).collect()
}

/// Mean loss in a range; not a number where nothing of it was evaluated.
fn loss(buckets: &[BucketLoss], range: (u64, u64)) -> f64 {
    mean_over(runs::within(buckets, range)).unwrap_or(f64::NAN)
}

/// What the carried state costs over an emptied one in a range.
fn excess(reports: &[&EvaluationReport], range: (u64, u64)) -> Option<Estimate> {
    let each = reports
        .iter()
        .map(|report| Some(loss(&report.positions, range) - loss(report.restarted.as_ref()?, range)));
    Some(Estimate::of(each.collect::<Option<Vec<f64>>>()?))
}

/// The arm's evaluation after `step` steps, if each training had one.
fn point(arm: &Arm, step: u64, ranges: &[(u64, u64)]) -> Option<Point> {
    let event = |training: &'_ Training| {
        training
            .record
            .evaluations
            .iter()
            .position(|event| event.step == step)
    };
    let found = arm
        .trainings
        .iter()
        .map(|training| Some(&training.record.evaluations[event(training)?].report));
    let reports: Vec<&EvaluationReport> = found.collect::<Option<_>>()?;
    let estimate = |value: &dyn Fn(&EvaluationReport) -> f64| {
        Estimate::of(reports.iter().map(|report| value(report)).collect())
    };
    let ratio = |report: &EvaluationReport| {
        report
            .collapse
            .map_or(f64::NAN, |collapse| collapse.published.perplexity_ratio)
    };
    Some(Point {
        step,
        tokens: step * arm.trainings[0].config.tokens_per_step(),
        losses: ranges
            .iter()
            .map(|range| estimate(&|report| loss(&report.positions, *range)))
            .collect(),
        inside: estimate(&|report| inside(report).unwrap_or(f64::NAN)),
        excess: ranges.last().and_then(|range| excess(&reports, *range)),
        perplexity_ratio: estimate(&ratio),
        collapsed: reports
            .iter()
            .filter(|report| report.collapse.is_some_and(|collapse| collapse.in_perplexity()))
            .count(),
    })
}

fn differences(arms: &[ArmReport]) -> Vec<Difference> {
    let mut all = Vec::new();
    for measure in Measure::ALL {
        for (index, arm) in arms.iter().enumerate() {
            for from in &arms[..index] {
                if let (Some(a), Some(b)) = (arm.at_end(measure), from.at_end(measure)) {
                    all.push(Difference {
                        measure,
                        arm: arm.name.clone(),
                        from: from.name.clone(),
                        difference: paired(&a, &b),
                    });
                }
            }
        }
    }
    all
}
