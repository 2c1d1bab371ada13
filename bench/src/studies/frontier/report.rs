//! What the trainings of a frontier come to: `results.json`.

use super::bounds::{Lists, guess};
use super::config::{Arm, FrontierConfig, Question, SpeedConfig};
use super::measure::{Answers, Asking, Speed, Under, measured_speed};
use crate::error::ProgramError;
use crate::studies::about::About;
use crate::studies::estimate::Estimate;
use crate::studies::train_compare::report::Findings;
use crate::studies::trainings::{Job, Runs};
use crate::train::record::Record;
use crate::trial::NONE;
use serde::Serialize;
use spillway_models::evaluation::answers::Answered;
use spillway_models::evaluation::wilson;
use std::collections::BTreeMap;

/// Everything that the page of a frontier shows: the content of `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct FrontierReport {
    /// The head of the report: format, command, title, question and trainings.
    #[serde(flatten)]
    pub about: About,
    /// Accuracy from which on a training has solved what is asked.
    pub solved: f64,
    /// How speed is measured.
    pub speed: SpeedConfig,
    /// Threads that it is measured with.
    pub threads: usize,
    /// The models' names, and whether the others are held against them.
    pub models: Vec<(String, bool)>,
    /// The questions that the models are asked, with what guessing gets.
    pub asked: Vec<AskedReport>,
    /// Every model in every size, alone and under every mitigation.
    pub points: Vec<Point>,
    /// Sentences made from the numbers.
    pub findings: Findings,
}

/// Something that is asked, and what is known of it before anything is trained.
#[derive(Clone, Debug, Serialize)]
pub struct AskedReport {
    /// What is asked, as configured.
    #[serde(flatten)]
    pub question: Question,
    /// Share of the right answers by guessing among what was told.
    pub guess: Option<f64>,
    /// The least bytes of a memory, for a question about two lists of fixed sizes.
    pub bound: Option<Bound>,
}

/// Bytes that no memory can do without that reads two lists once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// |A|, the list that is read first.
    pub first: usize,
    /// |B|, the list that is read second.
    pub second: usize,
    /// Least bytes of a memory that reads the lists as they come, A first.
    pub causal_bytes: f64,
    /// Least bytes of a memory that reads the lists in the order that suits it.
    pub better_order_bytes: f64,
}

/// A model in one size, alone or under a mitigation.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Place of the model among the models.
    pub model: usize,
    /// Place of the size among its sizes.
    pub size: usize,
    /// What the size changes, by the path of the field.
    pub settings: BTreeMap<String, String>,
    /// The learning rate that was chosen, where there was a choice.
    pub learning_rate: Option<f64>,
    /// Accuracy by learning rate on the sequences that the choice is by.
    pub choice: Vec<(f64, Option<f64>)>,
    /// The mitigation's text form.
    pub mitigation: String,
    /// Why it cannot work with the model.
    pub refused: Option<String>,
    /// Seeds of the trainings that are finished.
    pub seeds: Vec<u64>,
    /// Number of the model's weights.
    pub parameters: u64,
    /// Bytes of one sequence's state after the longest that is asked.
    pub state_bytes: u64,
    /// Mean time of a training's steps, in seconds.
    pub seconds: f64,
    /// Tokens of a prompt per second; of the model alone.
    pub prefill_tokens_per_second: Option<f64>,
    /// Decoded tokens per second; of the model alone.
    pub decode_tokens_per_second: Option<f64>,
    /// Outcome of each question, in the order of the configuration; empty where the mitigation is refused.
    pub answers: Vec<Outcome>,
}

/// The answers of several trainings to one question.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Share of right answers, over the seeds.
    pub accuracy: Estimate,
    /// Accuracy less that of the same trainings without the mitigation, seed by seed; absent without one.
    pub change: Option<Estimate>,
    /// Trainings that have solved it.
    pub solved: u64,
    /// The Wilson 95 % interval of their share.
    pub solved_interval: [f64; 2],
    /// What was counted, in the order of the seeds.
    pub counted: Vec<Answered>,
}

/// A finished training: its seed, its log, and what its model answers.
struct Trained {
    seed: u64,
    record: Record,
    answers: Answers,
}

impl FrontierReport {
    /// Reads what the trainings have come to so far.
    ///
    /// # Errors
    /// As [`Runs::finished`] and [`Asking::read`].
    pub fn read(
        config: &FrontierConfig,
        runs: &Runs<'_>,
        asking: &Asking<'_>,
        (command, threads): (String, usize),
    ) -> Result<Self, ProgramError> {
        let arms = config.arms();
        let mut trained: Vec<Vec<Trained>> = arms.iter().map(|_| Vec::new()).collect();
        let mut speeds: Vec<Option<Speed>> = vec![None; arms.len()];
        for job in runs.jobs {
            let folder = runs.folder(job);
            let Some(record) = runs.finished(job)? else {
                continue;
            };
            let Some(answers) = asking.read(&folder)? else {
                continue;
            };
            if is_timed(config, &arms, job) {
                speeds[job.arm] = measured_speed(&folder, config.speed, threads)?;
            }
            trained[job.arm].push(Trained {
                seed: job.seed,
                record,
                answers,
            });
        }
        let about = About::new("spillway-frontier", command, &config.title, &config.question);
        let all = trained.iter().flatten().map(|trained| &trained.record);
        Ok(Self {
            about: about.of(all, runs.jobs.len(), Record::step_seconds),
            solved: config.solved,
            speed: config.speed,
            threads,
            models: config
                .models
                .iter()
                .map(|model| (model.name.clone(), model.baseline))
                .collect(),
            asked: config.asked.iter().map(asked_report).collect(),
            points: points(config, &arms, &trained, &speeds),
            findings: Findings::default(),
        })
    }

    /// The points of a model without a mitigation, the smallest state first.
    pub fn alone(&self, model: usize) -> Vec<&Point> {
        self.curve(model, NONE)
    }

    /// The points of a model under a mitigation, the smallest state of the model first.
    pub fn curve(&self, model: usize, mitigation: &str) -> Vec<&Point> {
        let points = self.points.iter();
        let mut points: Vec<&Point> = points
            .filter(|point| point.model == model && point.mitigation == mitigation)
            .filter(|point| !point.answers.is_empty())
            .collect();
        points.sort_by_key(|point| (point.state_bytes, point.size));
        points
    }

    /// The mitigations beside none.
    pub fn mitigations(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for point in self.points.iter().filter(|point| point.mitigation != NONE) {
            if !found.contains(&point.mitigation.as_str()) {
                found.push(&point.mitigation);
            }
        }
        found
    }
}

/// Whether the speed of a model in a size is that of this training: the first seed, with the first learning rate.
pub fn is_timed(config: &FrontierConfig, arms: &[Arm], job: &Job) -> bool {
    let arm = &arms[job.arm];
    let seeds = config.seeds_of(&config.models[arm.model]);
    arm.learning_rate == config.learning_rates.first().copied() && seeds.first() == Some(&job.seed)
}

fn asked_report(question: &Question) -> AskedReport {
    let lists = Lists::of(&question.data);
    AskedReport {
        question: question.clone(),
        guess: guess(&question.data),
        bound: lists.map(|lists| Bound {
            first: lists.first,
            second: lists.second,
            causal_bytes: lists.causal_bytes(),
            better_order_bytes: lists.better_order_bytes(),
        }),
    }
}

fn points(
    config: &FrontierConfig,
    arms: &[Arm],
    trained: &[Vec<Trained>],
    speeds: &[Option<Speed>],
) -> Vec<Point> {
    let mut points = Vec::new();
    for (place, model) in config.models.iter().enumerate() {
        for size in 0..model.sizes.len() {
            let of_size: Vec<usize> = (0..arms.len())
                .filter(|arm| arms[*arm].model == place && arms[*arm].size == size)
                .collect();
            let speed = of_size.iter().find_map(|arm| speeds[*arm].as_ref());
            let Some(best) = best(&of_size, trained) else {
                continue;
            };
            let choice = of_size
                .iter()
                .filter_map(|arm| Some((arms[*arm].learning_rate?, chosen_by(&trained[*arm]))));
            let choice: Vec<_> = choice.collect();
            let settings = model.sizes[size].iter();
            let settings: BTreeMap<String, String> = settings
                .map(|(field, value)| (field.clone(), value.to_string()))
                .collect();
            let of_best = &trained[best];
            let count = of_best
                .iter()
                .map(|trained| trained.answers.under.len())
                .min()
                .unwrap_or(0);
            for under in 0..count {
                let alone = under == 0;
                let steps: f64 = of_best.iter().map(|trained| trained.record.step_seconds()).sum();
                let first = &of_best[0].answers;
                points.push(Point {
                    model: place,
                    size,
                    settings: settings.clone(),
                    learning_rate: arms[best].learning_rate,
                    choice: if alone { choice.clone() } else { Vec::new() },
                    mitigation: first.under[under].mitigation.clone(),
                    refused: first.under[under].refused.clone(),
                    seeds: of_best.iter().map(|trained| trained.seed).collect(),
                    parameters: first.parameters,
                    state_bytes: first.under[under].state_bytes,
                    seconds: steps / of_best.len() as f64,
                    prefill_tokens_per_second: speed.filter(|_| alone).and_then(|speed| speed.prefill),
                    decode_tokens_per_second: speed.filter(|_| alone).and_then(|speed| speed.decode),
                    answers: outcomes(config, of_best, under),
                });
            }
        }
    }
    points
}

/// The learning rate with most finished trainings, and of those the one whose models come to most on the sequences that the choice is by.
fn best(of_size: &[usize], trained: &[Vec<Trained>]) -> Option<usize> {
    let begun = of_size.iter().copied().filter(|arm| !trained[*arm].is_empty());
    let rank = |arm: &usize| {
        let found = chosen_by(&trained[*arm]).unwrap_or(0.0);
        (trained[*arm].len(), found)
    };
    // Of equals the first.
    begun.reduce(|best, arm| {
        let (of_best, of_arm) = (rank(&best), rank(&arm));
        match of_arm.0.cmp(&of_best.0).then(of_arm.1.total_cmp(&of_best.1)) {
            std::cmp::Ordering::Greater => arm,
            _ => best,
        }
    })
}

fn chosen_by(trained: &[Trained]) -> Option<f64> {
    let accuracies = trained
        .iter()
        .map(|trained| Some(trained.answers.choice?.accuracy()));
    let sum: f64 = accuracies.collect::<Option<Vec<f64>>>()?.iter().sum();
    (!trained.is_empty()).then(|| sum / trained.len() as f64)
}

fn outcomes(config: &FrontierConfig, trained: &[Trained], under: usize) -> Vec<Outcome> {
    let of = |trained: &Trained, under: usize, asked: usize| -> Option<Answered> {
        let under: &Under = trained.answers.under.get(under)?;
        under.answered.get(asked).copied()
    };
    let outcome = |asked: usize| {
        let counted: Vec<Answered> = trained
            .iter()
            .map(|trained| of(trained, under, asked))
            .collect::<Option<_>>()?;
        let alone: Vec<Answered> = trained
            .iter()
            .map(|trained| of(trained, 0, asked))
            .collect::<Option<_>>()?;
        let accuracies: Vec<f64> = counted.iter().map(Answered::accuracy).collect();
        let change = counted.iter().zip(&alone);
        let change = change.map(|(with, without)| with.accuracy() - without.accuracy());
        let solved = accuracies.iter().filter(|value| **value >= config.solved).count() as u64;
        let (low, high) = wilson::interval(solved, accuracies.len() as u64);
        Some(Outcome {
            change: (under > 0).then(|| Estimate::of(change.collect())),
            accuracy: Estimate::of(accuracies),
            solved,
            solved_interval: [low, high],
            counted,
        })
    };
    (0..config.asked.len()).filter_map(outcome).collect()
}
