//! The configuration of a table: arms, each a change of one training, and seeds.

use super::delay::DelayConfig;
use crate::error::ProgramError;
use serde::Deserialize;
use spillway_models::train::{TrainConfig, TrainError, Trainer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// A table.
///
/// ```
/// use spillway::studies::train_table::config::TableConfig;
///
/// let table: TableConfig = toml::from_str(r#"
///     title = "Sequential digits"
///     training = "../tasks/digits.toml"
///     seeds = [0, 1, 2]
///
///     [[arms]]
///     name = "S4D-Lin"
///
///     [[arms]]
///     name = "S4D-Real"
///     set = { "model.config.layer.init" = "diag-real" }
///     published = 0.831
///
///     [[expected]]
///     arm = "S4D-Real"
///     at_most = 0.86
/// "#)?;
/// assert_eq!(table.arms[1].set.len(), 1);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Title.
    pub title: String,
    /// What is asked, in a sentence or two.
    #[serde(default)]
    pub question: String,
    /// Configuration of a training on a task, from the folder of this file; a table has this or a `delay`.
    #[serde(default)]
    pub training: Option<PathBuf>,
    /// A signal that is to be remembered, with nothing trained but C, and that by least squares. An arm then sets `init` alone.
    #[serde(default)]
    pub delay: Option<DelayConfig>,
    /// What all arms change of it: paths of fields, such as `model.config.d_model`, and what takes the place of their values.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Seeds of each arm.
    pub seeds: Vec<u64>,
    /// The rows.
    pub arms: Vec<ArmConfig>,
    /// What the table is expected to show.
    #[serde(default)]
    pub expected: Vec<Expected>,
}

/// A row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// What it is called.
    pub name: String,
    /// What it changes beside what all change.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Its seeds, if they are others.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
    /// The figure that is to be reproduced, an accuracy as a share.
    #[serde(default)]
    pub published: Option<f64>,
}

/// A bound on the mean over seeds after the last step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Name of the arm.
    pub arm: String,
    /// Name of what else is asked. Default: the task itself.
    #[serde(default)]
    pub asked: String,
    /// The lower bound; of an accuracy as a share.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// The upper bound.
    #[serde(default)]
    pub at_most: Option<f64>,
}

/// One training of a table.
#[derive(Clone, Debug)]
pub struct Job {
    /// Place of its arm.
    pub arm: usize,
    /// Seed.
    pub seed: u64,
    /// Name of its folder.
    pub name: String,
    /// Its configuration.
    pub config: TrainConfig,
}

impl TableConfig {
    /// Reads a file, and the training that it names, as each arm changes it.
    ///
    /// # Errors
    /// [`ProgramError::File`] for one that cannot be read, [`ProgramError::Content`] for one that is no table, naming the field, and for an
    /// arm that is no training.
    pub fn load(path: &Path) -> Result<(Self, Vec<Job>), ProgramError> {
        let text = spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", path))?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| wrong(path, "the configuration of a table", one_line(&error.to_string())))?;
        config.check(path)?;
        let jobs = config.jobs(path)?;
        Ok((config, jobs))
    }

    fn check(&self, path: &Path) -> Result<(), ProgramError> {
        if self.arms.is_empty() {
            return Err(wrong(path, "at least one of [[arms]]", "none"));
        }
        if self.training.is_some() == self.delay.is_some() {
            let found = if self.delay.is_some() { "both" } else { "neither" };
            return Err(wrong(path, "one of training and [delay]", found));
        }
        let mut names = BTreeSet::new();
        for arm in &self.arms {
            if folder_name(&arm.name).is_empty() {
                let expected = "arms.name with letters or digits in it";
                return Err(wrong(path, expected, format!("{:?}", arm.name)));
            }
            if !names.insert(folder_name(&arm.name)) {
                let expected = "every arm with a name of its own, in letters and digits";
                return Err(wrong(path, expected, format!("two of {:?}", arm.name)));
            }
            let mut seeds = self.seeds_of(arm).to_vec();
            seeds.sort_unstable();
            if seeds.is_empty() || seeds.windows(2).any(|pair| pair[0] == pair[1]) {
                let expected = format!("seeds of {}, at least one and each once", arm.name);
                return Err(wrong(path, expected, format!("{seeds:?}")));
            }
        }
        for expected in &self.expected {
            if !self.arms.iter().any(|arm| arm.name == expected.arm) {
                let known: Vec<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
                let known = format!("expected.arm one of {}", known.join(", "));
                return Err(wrong(path, known, &expected.arm));
            }
        }
        Ok(())
    }

    /// Makes the model and reads the data of every arm, so that what cannot be trained is told before the first training.
    ///
    /// # Errors
    /// [`ProgramError::Content`], naming the arm.
    pub fn try_arms(&self, path: &Path, jobs: &[Job]) -> Result<(), ProgramError> {
        for (place, arm) in self.arms.iter().enumerate() {
            if let Some(job) = jobs.iter().find(|job| job.arm == place) {
                Trainer::new(job.config.clone()).map_err(|error| not_trained(path, arm, &error))?;
            }
        }
        Ok(())
    }

    /// The seeds of an arm.
    pub fn seeds_of<'a>(&'a self, arm: &'a ArmConfig) -> &'a [u64] {
        arm.seeds.as_deref().unwrap_or(&self.seeds)
    }

    /// The trainings, seed by seed, so that a table that is stopped early has something in every row.
    fn jobs(&self, path: &Path) -> Result<Vec<Job>, ProgramError> {
        let Some(training) = &self.training else {
            return Ok(Vec::new());
        };
        let training = path.parent().unwrap_or(Path::new("")).join(training);
        let mut jobs = Vec::new();
        for (place, arm) in self.arms.iter().enumerate() {
            let changes: Vec<(String, toml::Value)> = self
                .set
                .iter()
                .chain(&arm.set)
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect();
            let config = TrainConfig::load_changed(&training, &changes)
                .map_err(|error| not_trained(path, arm, &error))?;
            if config.task.is_none() {
                let expected = format!("a training on a [task] in {}", training.display());
                return Err(wrong(path, expected, "one on data"));
            }
            for (round, seed) in self.seeds_of(arm).iter().enumerate() {
                let job = Job {
                    arm: place,
                    seed: *seed,
                    name: format!("{}-s{seed}", folder_name(&arm.name)),
                    config: TrainConfig {
                        seed: *seed,
                        ..config.clone()
                    },
                };
                jobs.push((round, job));
            }
        }
        jobs.sort_by_key(|(round, _)| *round);
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }
}

/// A name in small letters, digits and hyphens.
fn folder_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

fn not_trained(path: &Path, arm: &ArmConfig, error: &TrainError) -> ProgramError {
    let expected = "arms that change a training into one that can begin";
    wrong(path, expected, format!("{}: {error}", arm.name))
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}

fn wrong(path: &Path, expected: impl Display, found: impl Display) -> ProgramError {
    ProgramError::content(path, expected.to_string(), found.to_string())
}
