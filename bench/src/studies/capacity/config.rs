//! The configuration of a sweep: a TOML file, from which every training's own configuration follows.
//!
//! `[training]` is that of `spillway train`, without what the sweep decides (seed, sequences, length, model, data); a task's
//! `training` overrides single fields of it. Relative paths start from the configuration's folder.

use super::analysis::Resampling;
use super::expansion::Expansion;
use super::initial::model_config;
use super::pairs::PairsSetting;
use super::report::TaskSetting;
use super::result::StateSize;
use super::task::Task;
use crate::error::ProgramError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spillway_models::train::TrainConfig;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Configuration of a whole sweep.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Name of the sweep, for titles.
    pub name: String,
    /// Seeds: of the initial weights and the order of the data.
    pub seeds: Vec<u64>,
    /// Training lengths in tokens.
    pub lengths: Vec<u64>,
    /// Tokens of a step, the same at every length: a multiple of each.
    pub tokens_per_step: u64,
    /// Sizes of the models: every combination.
    pub states: States,
    /// A model has collapsed if its largest loss, or perplexity, beyond the training length is over this many times the largest inside.
    #[serde(default = "two")]
    pub collapse_ratio: f64,
    /// Number of resamples of the bootstrap, and their seed.
    #[serde(default)]
    pub bootstrap: Resampling,
    /// Whether the trained models stay.
    #[serde(default)]
    pub keep_checkpoints: bool,
    /// Fields that all trainings share, as a training's configuration has them.
    pub training: toml::Table,
    /// What is trained and how it is evaluated.
    pub tasks: Vec<Task>,
}

fn two() -> f64 {
    2.0
}

/// Sizes of the models.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct States {
    /// State values of a channel.
    pub d_state: Vec<usize>,
    /// Numbers of blocks that the models have.
    pub layers: Vec<usize>,
    /// Widths of the residual stream.
    pub model_dim: Vec<usize>,
    /// Channels of a head.
    #[serde(default = "thirty_two")]
    pub head_dim: usize,
}

fn thirty_two() -> usize {
    32
}

/// Changes the seed of a training for its second leg, which reads other sequences than the first.
const SECOND_LEG: u64 = 1 << 40;

/// One stretch of a training, with an optimiser and a schedule of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Sizes of the model.
    pub state: StateSize,
    /// Seed of the order of the data; of the first leg, of the initial weights as well.
    pub seed: u64,
    /// Steps, where they are not the training's.
    pub steps: Option<u64>,
}

/// One training of the sweep, as the configuration asks for it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of its folder.
    pub name: String,
    /// Index of the task.
    pub task: usize,
    /// Sizes of the model.
    pub state: StateSize,
    /// Training length T in tokens.
    pub train_length: u64,
    /// Seed of the initial weights and the order of the data.
    pub seed: u64,
}

impl SweepConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ProgramError::File`] for one that cannot be read, [`ProgramError::Content`] for one that is no sweep, naming the field.
    pub fn load(path: &Path) -> Result<(Self, String), ProgramError> {
        let text = spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", path))?;
        let config: Self =
            toml::from_str(&text).map_err(|error| wrong(path, "the configuration of a sweep", error))?;
        config.check(path)?;
        Ok((config, text))
    }

    fn check(&self, path: &Path) -> Result<(), ProgramError> {
        let empty = [
            ("seeds", self.seeds.is_empty()),
            ("lengths", self.lengths.is_empty()),
            ("tasks", self.tasks.is_empty()),
            ("states.d_state", self.states.d_state.is_empty()),
            ("states.layers", self.states.layers.is_empty()),
            ("states.model_dim", self.states.model_dim.is_empty()),
        ];
        if let Some((field, _)) = empty.iter().find(|(_, empty)| *empty) {
            return Err(wrong(path, &format!("{field} with at least one entry"), "none"));
        }
        if !self.collapse_ratio.is_finite() || self.collapse_ratio <= 1.0 {
            return Err(wrong(path, "collapse_ratio above 1", self.collapse_ratio));
        }
        let mut names = BTreeSet::new();
        for task in &self.tasks {
            self.check_task(path, task)?;
            if !names.insert(&task.name) {
                return Err(wrong(
                    path,
                    "every task with a name of its own",
                    format!("two of {}", task.name),
                ));
            }
        }
        for plan in self.plans() {
            // Whatever is wrong with the training is said before the first one begins.
            for leg in self.legs(&plan) {
                self.train_config(path, &plan, &leg, None)?;
            }
        }
        Ok(())
    }

    fn check_task(&self, path: &Path, task: &Task) -> Result<(), ProgramError> {
        if let Some((expected, found)) = task.fault() {
            return Err(wrong(path, &expected, found));
        }
        for length in task.lengths.as_ref().unwrap_or(&self.lengths) {
            if *length == 0 || !self.tokens_per_step.is_multiple_of(*length) || self.tokens_per_step == 0 {
                let expected = format!("lengths that divide tokens_per_step = {}", self.tokens_per_step);
                return Err(wrong(path, &expected, length));
            }
        }
        let smallest = self.sizes(task).iter().map(|state| state.d_state).min();
        let from = task.expansion.and_then(|expansion| expansion.from);
        if let (Some(from), Some(smallest)) = (from, smallest)
            && from > smallest
        {
            let expected = format!("tasks.expansion.from of at most the task's smallest d_state, {smallest}");
            return Err(wrong(path, &expected, from));
        }
        let asks_pairs = |name: &String| {
            let other = self.tasks.iter().find(|other| other.name == *name);
            other.is_some_and(|other| other.name != task.name && other.pairs.is_some())
        };
        match &task.against {
            Some(name) if task.pairs.is_none() || !asks_pairs(name) => {
                let expected = "tasks.against between two tasks that ask for pairs";
                Err(wrong(path, expected, format!("{} against {name}", task.name)))
            }
            _ => Ok(()),
        }
    }

    /// Every training, the first seed of all of them first.
    pub fn plans(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            for seed in task.seeds.as_ref().unwrap_or(&self.seeds) {
                for state in self.sizes(task) {
                    for length in task.lengths.as_ref().unwrap_or(&self.lengths) {
                        plans.push(Plan {
                            name: format!(
                                "{}-d{}-l{}-n{}-t{length}-s{seed}",
                                task.name, state.model_dim, state.layers, state.d_state
                            ),
                            task: index,
                            state,
                            train_length: *length,
                            seed: *seed,
                        });
                    }
                }
            }
        }
        let rank = |plan: &Plan| {
            let seeds = self.tasks[plan.task].seeds.as_ref().unwrap_or(&self.seeds);
            seeds.iter().position(|seed| *seed == plan.seed)
        };
        plans.sort_by_key(rank);
        plans
    }

    fn sizes(&self, task: &Task) -> Vec<StateSize> {
        let states = &self.states;
        let mut sizes = Vec::new();
        for &model_dim in &states.model_dim {
            for &layers in &states.layers {
                for &d_state in task.d_state.as_ref().unwrap_or(&states.d_state) {
                    sizes.push(StateSize {
                        model_dim,
                        layers,
                        head_dim: states.head_dim,
                        d_state,
                    });
                }
            }
        }
        sizes
    }

    /// The task of a training.
    pub fn task(&self, plan: &Plan) -> &Task {
        &self.tasks[plan.task]
    }

    /// The legs of a training, one after the other: two where the state is widened on the way.
    pub fn legs(&self, plan: &Plan) -> Vec<Leg> {
        let whole = Leg {
            state: plan.state,
            seed: plan.seed,
            steps: None,
        };
        let task = self.task(plan);
        let steps = merged(&self.training, &task.training);
        let steps = steps.get("steps").and_then(toml::Value::as_integer);
        // Without a number of steps there is no training, which is said when its configuration is read.
        match (task.expansion, steps.and_then(|steps| u64::try_from(steps).ok())) {
            (Some(expansion), Some(steps)) => {
                let before = expansion.steps_before(steps);
                let narrow = Leg {
                    state: StateSize {
                        d_state: expansion.from.unwrap_or(plan.state.d_state),
                        ..plan.state
                    },
                    steps: Some(before),
                    ..whole
                };
                let wide = Leg {
                    seed: plan.seed ^ SECOND_LEG,
                    steps: Some(steps.saturating_sub(before)),
                    ..whole
                };
                vec![narrow, wide]
            }
            _ => vec![whole],
        }
    }

    /// The configuration of one leg of a training; `initial` is the folder of its initial weights, where they are not random ones of the
    /// layout.
    ///
    /// # Errors
    /// [`ProgramError::Content`] naming the field.
    pub fn train_config(
        &self,
        path: &Path,
        plan: &Plan,
        leg: &Leg,
        initial: Option<&Path>,
    ) -> Result<TrainConfig, ProgramError> {
        let task = self.task(plan);
        let mut table = merged(&self.training, &task.training);
        for field in ["seed", "sequences", "length", "model", "data", "base"] {
            if table.contains_key(field) {
                return Err(wrong(path, "[training] without what the sweep decides", field));
            }
        }
        let model = match initial {
            Some(folder) => json!({ "checkpoint": folder }),
            None => json!({ "arch": "mamba2", "config": model_config(&leg.state, task.vocab_size) }),
        };
        let decided = json!({
            "seed": leg.seed,
            "steps": leg.steps,
            "sequences": self.tokens_per_step / plan.train_length,
            "length": plan.train_length,
            "base": folder(path),
            "model": model,
            "data": task.data,
        });
        let decided =
            toml::Table::try_from(without_null(decided)).map_err(|error| wrong(path, "a training", error))?;
        table.extend(decided);
        let text = toml::to_string(&table).map_err(|error| wrong(path, "a training", error))?;
        // Lines of the generated text would mean nothing to who wrote the configuration, so the training's name stands for it.
        let name = path.join(&plan.name);
        TrainConfig::parse(&name, &text).map_err(|error| ProgramError::Failed(error.to_string()))
    }

    /// Everything that decides the numbers of a training, as JSON.
    pub fn settings(&self, plan: &Plan) -> Value {
        let task = self.task(plan);
        json!({
            "program": env!("CARGO_PKG_VERSION"),
            "state": plan.state,
            "train_length": plan.train_length,
            "seed": plan.seed,
            "tokens_per_step": self.tokens_per_step,
            "training": merged(&self.training, &task.training),
            "data": task.data,
            "evaluation_data": task.evaluation_data,
            "vocab_size": task.vocab_size,
            "initialisation": task.initialisation,
            "forgetting": task.forgetting,
            "recall": task.recall,
            "expansion": task.expansion,
            "pairs": task.pairs,
        })
    }

    /// The tasks in words.
    pub fn task_settings(&self) -> Vec<TaskSetting> {
        let words = |task: &Task| TaskSetting {
            name: task.name.clone(),
            data: task.data_words(),
            initialisation: task.initialisation.words(),
            standard: task.initialisation.is_standard(),
            expansion: task.expansion.map(Expansion::words),
            pairs: PairsSetting::of(task),
        };
        self.tasks.iter().map(words).collect()
    }
}

fn wrong(path: &Path, expected: &str, found: impl ToString) -> ProgramError {
    let found = found.to_string();
    ProgramError::content(
        path,
        expected,
        found.split_whitespace().collect::<Vec<_>>().join(" "),
    )
}

/// The folder of a file, absolute where that can be found out.
fn folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// `base` with the fields of `over`; tables inside are merged as well.
fn merged(base: &toml::Table, over: &toml::Table) -> toml::Table {
    let mut merged = base.clone();
    for (name, value) in over {
        let value = match (merged.get(name), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => {
                toml::Value::Table(self::merged(base, over))
            }
            _ => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

/// TOML has no null: fields without a value are left out.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_null(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_null).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configurations_can_be_used_and_name_every_training_once() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/capacity");
        for (file, fewest) in [
            ("small.toml", 12),
            ("standard.toml", 200),
            ("h100.toml", 100),
            ("pairs.toml", 48),
            ("pairs-night.toml", 165),
        ] {
            let (config, _) = SweepConfig::load(&folder.join(file)).expect("a configuration");
            let plans = config.plans();
            assert!(plans.len() >= fewest, "{file}: {}", plans.len());
            let mut names: Vec<&String> = plans.iter().map(|plan| &plan.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), plans.len(), "{file}");
            // All trainings of the first seed come first: a sweep that is stopped early has whole curves.
            let first = plans.iter().take_while(|plan| plan.seed == 0).count();
            assert!(plans[first..].iter().all(|plan| plan.seed != 0), "{file}");
        }
    }

    #[test]
    fn tables_of_a_task_override_single_fields() {
        let table = |text: &str| text.parse::<toml::Table>().expect("TOML");
        let base = table("steps = 10\n[optimizer]\nlearning_rate = 1.0\nclip_norm = 2.0");
        let over = table("steps = 20\n[optimizer]\nclip_norm = 3.0");
        let expected = table("steps = 20\n[optimizer]\nlearning_rate = 1.0\nclip_norm = 3.0");
        assert_eq!(merged(&base, &over), expected);
    }
}
