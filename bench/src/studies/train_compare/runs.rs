//! Run folders, read, put together into arms, and held to be comparable.
//!
//! An arm is one training with several seeds: its configurations differ in `seed` alone.

use crate::error::ProgramError;
use crate::train::record::Record;
use serde_json::Value;
use spillway_models::evaluation::tally::BucketLoss;
use spillway_models::train::TrainConfig;
use spillway_models::train::run::{CHECKPOINT, CONFIG, LOG};
use std::collections::BTreeSet;
use std::path::Path;

/// A finished training, as read from its run folder.
#[derive(Clone, Debug)]
pub struct Training {
    /// Name of its folder.
    pub name: String,
    /// The command that made it.
    pub command: String,
    /// Configuration of the training.
    pub config: TrainConfig,
    /// Log of the training.
    pub record: Record,
    /// The tokenizer's file; none for bytes.
    tokenizer: Option<Vec<u8>>,
}

/// Trainings that differ in their seeds alone, in the order of these.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What the names of the folders have in common.
    pub name: String,
    /// The arm's trainings, one for each seed; at least one.
    pub trainings: Vec<Training>,
}

impl Training {
    /// Reads the run folder `folder`.
    ///
    /// # Errors
    /// [`ProgramError::Training`] for a folder that is none, [`ProgramError::Content`] for a training that is not finished, or was
    /// not evaluated.
    pub fn read(folder: &Path) -> Result<Self, ProgramError> {
        let not_a_run = |expected| {
            ProgramError::usage(
                "RUN",
                format!("the folder of a training, with {expected} in it"),
                folder.display().to_string(),
            )
        };
        let path = folder.join(CONFIG);
        if !path.is_file() {
            return Err(not_a_run(CONFIG));
        }
        let config = TrainConfig::load(&path)?;
        let path = folder.join(LOG);
        if !path.is_file() {
            return Err(not_a_run(LOG));
        }
        let record = Record::read(&path, &config)?;
        let content = |expected: &str, found: String| ProgramError::content(folder, expected, found);
        if !record.finished {
            let expected = "a finished training (spillway train --resume goes on with it)";
            let found = format!("{} of {} steps", record.steps.len(), config.steps);
            return Err(content(expected, found));
        }
        if record
            .evaluations
            .iter()
            .all(|event| event.report.positions.is_empty())
        {
            let expected = "evaluations of the loss in its log (tables [evaluation] and [evaluation_data] of the configuration)";
            return Err(content(expected, "none".into()));
        }
        Ok(Self {
            name: crate::train::record::name(folder),
            command: command(folder),
            tokenizer: tokenizer(&folder.join(CHECKPOINT))?,
            config,
            record,
        })
    }

    /// The losses after the last step.
    pub fn last(&self) -> &[BucketLoss] {
        self.record
            .evaluations
            .last()
            .map_or(&[], |event| &event.report.positions)
    }

    /// The folder's name without the seed at its end: `short-3`, `short-s3` and `short_seed-3` are all `short`.
    fn arm(&self) -> &str {
        let rest = self.name.strip_suffix(&self.config.seed.to_string());
        let bare = rest.and_then(|rest| {
            let marked = ["seed-", "seed", "s"]
                .iter()
                .find_map(|word| rest.strip_suffix(word));
            marked.unwrap_or(rest).strip_suffix(['-', '_'])
        });
        bare.filter(|bare| !bare.is_empty()).unwrap_or(&self.name)
    }

    /// What the losses are measured on, without the folders that it lies in.
    fn evaluated_on(&self) -> Value {
        let data = self.config.evaluation_data.as_ref().or(self.config.data.as_ref());
        // Nothing in it has keys that are not strings, which is all that could fail.
        let mut value = serde_json::to_value(data).unwrap_or(Value::Null);
        names_only(&mut value);
        value
    }
}

/// Paths as the names of their files: the same text may lie elsewhere.
fn names_only(value: &mut Value) {
    let name = |value: &mut Value| {
        if let Some(name) = value.as_str().and_then(|path| Path::new(path).file_name()) {
            *value = Value::String(name.to_string_lossy().into_owned());
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("path", value) => name(value),
                    ("paths", Value::Array(paths)) => paths.iter_mut().for_each(name),
                    (_, value) => names_only(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(names_only),
        _ => {}
    }
}

/// What `summary.json` says; nothing where there is none yet.
fn command(folder: &Path) -> String {
    let summary =
        spillway_models::input::read(&folder.join("summary.json"), spillway_models::input::MAX_SETTINGS)
            .unwrap_or_default();
    let summary: Value = serde_json::from_slice(&summary).unwrap_or(Value::Null);
    summary["command"].as_str().unwrap_or_default().into()
}

fn tokenizer(checkpoint: &Path) -> Result<Option<Vec<u8>>, ProgramError> {
    let path = spillway_models::tokenizer::find(checkpoint)?;
    path.map(|path| {
        spillway_models::input::read(&path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", &path))
    })
    .transpose()
}

/// Puts trainings together that differ in their seeds alone. Arms are in the order of their first trainings.
///
/// # Errors
/// [`ProgramError::Usage`] for one seed twice, two arms of one name, and trainings that cannot be compared.
pub fn arms(trainings: Vec<Training>) -> Result<Vec<Arm>, ProgramError> {
    if let Some((first, rest)) = trainings.split_first() {
        rest.iter().try_for_each(|training| comparable(first, training))?;
    }
    let mut arms: Vec<Arm> = Vec::new();
    for training in trainings {
        match arms
            .iter_mut()
            .find(|arm| same_but_seed(&arm.trainings[0].config, &training.config))
        {
            Some(arm) => arm.trainings.push(training),
            None => arms.push(Arm {
                name: training.arm().into(),
                trainings: vec![training],
            }),
        }
    }
    for arm in &mut arms {
        arm.trainings.sort_by_key(|training| training.config.seed);
        if let Some(pair) = arm
            .trainings
            .windows(2)
            .find(|pair| pair[0].config.seed == pair[1].config.seed)
        {
            let found = format!(
                "{} and {}, both with seed {}",
                pair[0].name, pair[1].name, pair[0].config.seed
            );
            return Err(ProgramError::usage("RUN", "each training once", found));
        }
    }
    for (index, arm) in arms.iter().enumerate() {
        if let Some(before) = arms[..index].iter().find(|before| before.name == arm.name) {
            let (a, b) = (&before.trainings[0].config, &arm.trainings[0].config);
            let differences = a.differences(&TrainConfig {
                seed: a.seed,
                ..b.clone()
            });
            let field = differences
                .first()
                .map_or("", |difference| difference.field.as_str());
            let expected = "one name for one configuration, followed by the seed";
            let found = format!("two configurations called {} that differ in {field}", arm.name);
            return Err(ProgramError::usage("RUN", expected, found));
        }
    }
    Ok(arms)
}

fn same_but_seed(a: &TrainConfig, b: &TrainConfig) -> bool {
    let b = TrainConfig {
        seed: a.seed,
        ..b.clone()
    };
    a.differences(&b).is_empty()
}

/// Whether losses of the two mean the same.
fn comparable(first: &Training, other: &Training) -> Result<(), ProgramError> {
    let refuse = |expected: &str, found: String| {
        let found = format!("{found} in {}", other.name);
        Err(ProgramError::usage(
            "RUN",
            format!("{expected} as in {}", first.name),
            found,
        ))
    };
    let (a, b) = (&first.record.start, &other.record.start);
    // The log of an earlier version tells no size.
    if a.vocab_size != b.vocab_size && a.vocab_size > 0 && b.vocab_size > 0 {
        return refuse(
            &format!("a vocabulary of {}", a.vocab_size),
            b.vocab_size.to_string(),
        );
    }
    if first.tokenizer != other.tokenizer {
        return refuse("the same tokenizer", "another one".into());
    }
    let (on, other_on) = (first.evaluated_on(), other.evaluated_on());
    if on != other_on {
        return refuse(&format!("evaluations on {on}"), other_on.to_string());
    }
    Ok(())
}

/// Ranges of positions that every training's buckets can be put together to, none across a training length.
///
/// # Errors
/// [`ProgramError::Usage`] where no range lies beyond every training length, or ranges hold other numbers of tokens.
pub fn common_ranges(arms: &[Arm]) -> Result<Vec<(u64, u64)>, ProgramError> {
    let trainings = || arms.iter().flat_map(|arm| &arm.trainings);
    let edges = |training: &Training| -> BTreeSet<u64> {
        training
            .last()
            .iter()
            .flat_map(|bucket| [bucket.start, bucket.end])
            .collect()
    };
    let common = trainings().map(edges).reduce(|a, b| &a & &b).unwrap_or_default();
    let common: Vec<u64> = common.into_iter().collect();
    let ranges: Vec<(u64, u64)> = common.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let longest = trainings()
        .map(|training| training.config.length as u64)
        .max()
        .unwrap_or(0);
    if ranges.last().is_none_or(|range| range.0 < longest) {
        let expected = format!(
            "evaluations of all trainings at the same positions beyond {longest}, the longest training length"
        );
        return Err(ProgramError::usage(
            "RUN",
            expected,
            "none; evaluation.length is in training lengths",
        ));
    }
    let tokens = |training: &Training, range: (u64, u64)| -> u64 {
        within(training.last(), range).map(|bucket| bucket.tokens).sum()
    };
    let first = &arms[0].trainings[0];
    for training in trainings() {
        for &range in &ranges {
            let (expected, found) = (tokens(first, range), tokens(training, range));
            if expected != found {
                let expected = format!(
                    "{expected} tokens at positions {} to {} as in {}",
                    range.0, range.1, first.name
                );
                return Err(ProgramError::usage(
                    "RUN",
                    expected,
                    format!("{found} in {}", training.name),
                ));
            }
        }
    }
    Ok(ranges)
}

/// The buckets in a range.
pub fn within(buckets: &[BucketLoss], (start, end): (u64, u64)) -> impl Iterator<Item = &BucketLoss> {
    buckets
        .iter()
        .filter(move |bucket| start <= bucket.start && bucket.end <= end)
}
