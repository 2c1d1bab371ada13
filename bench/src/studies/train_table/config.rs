//! The configuration of a table: arms, each a change of one training, and seeds.

use crate::error::ProgramError;
use crate::studies::trainings::{self, Job, changed, expect_arms, seed_by_seed};
use serde::Deserialize;
use std::collections::BTreeMap;
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
    /// Title of the study.
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
    /// The arms, each a row of the table.
    pub arms: Vec<ArmConfig>,
    /// What the table is expected to show.
    #[serde(default)]
    pub expected: Vec<Expected>,
}

/// An arm: a row of the table, and what it changes of the training.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// Name of the arm.
    pub name: String,
    /// What the arm changes of the training, beside what all arms change.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Seeds of the arm, where they are not the table's.
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
    /// The upper bound; of an accuracy as a share.
    #[serde(default)]
    pub at_most: Option<f64>,
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
        if self.training.is_some() == self.delay.is_some() {
            let found = if self.delay.is_some() { "both" } else { "neither" };
            return Err(wrong(path, "one of training and [delay]", found));
        }
        let arms = self.arms.iter();
        expect_arms(
            path,
            "arms",
            arms.map(|arm| (arm.name.as_str(), self.seeds_of(arm))),
        )?;
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
        trainings::try_arms(path, self.arms.iter().map(|arm| arm.name.as_str()), jobs)
    }

    /// The seeds of an arm.
    pub fn seeds_of<'a>(&'a self, arm: &'a ArmConfig) -> &'a [u64] {
        arm.seeds.as_deref().unwrap_or(&self.seeds)
    }

    fn jobs(&self, path: &Path) -> Result<Vec<Job>, ProgramError> {
        let Some(training) = &self.training else {
            return Ok(Vec::new());
        };
        let mut arms = Vec::new();
        for arm in &self.arms {
            let config = changed(path, training, &arm.name, self.set.iter().chain(&arm.set))?;
            if config.task.is_none() {
                let expected = format!("a training on a [task] in {}", training.display());
                return Err(wrong(path, expected, "one on data"));
            }
            arms.push((arm.name.as_str(), self.seeds_of(arm), config));
        }
        Ok(seed_by_seed(arms))
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}

fn wrong(path: &Path, expected: impl Display, found: impl Display) -> ProgramError {
    ProgramError::content(path, expected.to_string(), found.to_string())
}

/// A signal, and the delays that it is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayConfig {
    /// Samples of the signal.
    pub length: usize,
    /// Cycles per sample up to which it has noise.
    pub limit: f64,
    /// The delays that are asked for, each a column of the table.
    pub cases: Vec<DelayCase>,
}

/// A delay to remember, and the state that has to: its size N and step Δ.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayCase {
    /// Samples between what is heard and when it is asked for.
    pub lag: usize,
    /// N.
    pub states: usize,
    /// Δ.
    pub step: f64,
}

impl DelayCase {
    /// How the delay is called in the table.
    pub fn name(&self) -> String {
        format!("lag {}, N {}, Δ 2^{:.0}", self.lag, self.states, self.step.log2())
    }
}
