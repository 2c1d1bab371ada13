//! The configuration of a sweep: a TOML file, from which every training's own configuration follows.
//!
//! `[training]` is that of `spillway train`, without what the sweep decides (seed, sequences, length, model, data); a task's
//! `training` overrides single fields of it. Relative paths start from the configuration's folder.

use super::analysis::Resampling;
use super::initial::{Initialisation, model_config};
use super::report::TaskSetting;
use super::result::StateSize;
use crate::error::ProgramError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spillway_models::train::TrainConfig;
use spillway_models::train::data::DataConfig;
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

/// A task: what is trained, and how it is evaluated.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name of the task, of small letters, digits and hyphens.
    pub name: String,
    /// Data that the models are trained on.
    pub data: DataConfig,
    /// Data that the models are evaluated on. Default: the held-out part of `data`; sequences of another seed where those are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_data: Option<DataConfig>,
    /// Ids of the model.
    #[serde(default = "bytes")]
    pub vocab_size: usize,
    /// How decays and step sizes begin.
    #[serde(default)]
    pub initialisation: Initialisation,
    /// Training lengths, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<Vec<u64>>,
    /// Seeds, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// State values of a channel, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_state: Option<Vec<usize>>,
    /// Fields of the training that differ.
    #[serde(default)]
    pub training: toml::Table,
    /// How loss against position is measured; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<ForgettingConfig>,
    /// Passkeys, where the model was trained on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<RecallConfig>,
}

fn bytes() -> usize {
    256
}

impl Task {
    /// Texts in their order that the losses are measured on; none where sequences are drawn instead.
    pub fn held_out(&self) -> Option<DataConfig> {
        self.evaluation_data.clone().or_else(|| self.data.held_out())
    }
}

fn is_text(data: &DataConfig) -> bool {
    matches!(
        data,
        DataConfig::Text(_) | DataConfig::Tokens(_) | DataConfig::Mix(_)
    )
}

/// How losses are measured.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingConfig {
    /// Streams of held-out data.
    pub streams: usize,
    /// Tokens of each, but at least four training lengths.
    pub tokens: u64,
}

/// How passkeys are asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecallConfig {
    /// Lengths of the contexts in tokens.
    pub lengths: Vec<u64>,
    /// Depths of the passkey, spread evenly.
    pub depths: usize,
    /// Passkeys at each depth of each length.
    pub samples: usize,
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
            self.train_config(path, &plan, None)?;
        }
        Ok(())
    }

    fn check_task(&self, path: &Path, task: &Task) -> Result<(), ProgramError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if task.name.is_empty() || !task.name.chars().all(plain) {
            let expected = "tasks.name of small letters, digits and hyphens";
            return Err(wrong(path, expected, format!("{:?}", task.name)));
        }
        for length in task.lengths.as_ref().unwrap_or(&self.lengths) {
            if *length == 0 || !self.tokens_per_step.is_multiple_of(*length) || self.tokens_per_step == 0 {
                let expected = format!("lengths that divide tokens_per_step = {}", self.tokens_per_step);
                return Err(wrong(path, &expected, length));
            }
        }
        match (&task.forgetting, &task.recall, &task.data) {
            (None, None, _) => Err(wrong(
                path,
                "tasks.forgetting or tasks.recall",
                format!("neither in task {}", task.name),
            )),
            (_, Some(_), data) if !matches!(data, DataConfig::PasskeyLite(_)) => {
                let found = format!("other data in task {}", task.name);
                Err(wrong(
                    path,
                    "tasks.recall beside data of kind passkey-lite",
                    found,
                ))
            }
            (Some(forgetting), ..) if forgetting.streams == 0 => {
                Err(wrong(path, "tasks.forgetting.streams of at least 1", 0))
            }
            (_, Some(recall), _)
                if recall.lengths.is_empty() || recall.depths == 0 || recall.samples == 0 =>
            {
                Err(wrong(
                    path,
                    "tasks.recall with lengths, depths and samples",
                    format!("{recall:?}"),
                ))
            }
            (Some(_), _, data) if is_text(data) && task.held_out().is_none() => {
                let found = format!("neither in task {}", task.name);
                Err(wrong(
                    path,
                    "tasks.evaluation_data, or data with a held_out part above 0",
                    found,
                ))
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

    /// The configuration of one training; `initial` is the folder of its initial weights, where they are not random ones of the
    /// layout.
    ///
    /// # Errors
    /// [`ProgramError::Content`] naming the field.
    pub fn train_config(
        &self,
        path: &Path,
        plan: &Plan,
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
            None => json!({ "arch": "mamba2", "config": model_config(&plan.state, task.vocab_size) }),
        };
        let decided = json!({
            "seed": plan.seed,
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
        })
    }

    /// The tasks in words.
    pub fn task_settings(&self) -> Vec<TaskSetting> {
        let words = |task: &Task| TaskSetting {
            name: task.name.clone(),
            data: data_words(task),
            initialisation: task.initialisation.words(),
            standard: task.initialisation.is_standard(),
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

fn data_words(task: &Task) -> String {
    let files = |data: &DataConfig| {
        let json = serde_json::to_value(data).unwrap_or(Value::Null);
        let paths = json["paths"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let names = paths.map(|path| path.rsplit('/').next().unwrap_or(path).to_string());
        let kind = json["kind"].as_str().unwrap_or("data").to_string();
        (
            kind,
            names.collect::<Vec<_>>().join(", "),
            json["held_out"].as_f64().unwrap_or(0.0),
        )
    };
    let (kind, names, held_out) = files(&task.data);
    match (&task.evaluation_data, names.is_empty()) {
        (Some(evaluation), _) => format!("{kind} of {names}, evaluated on {}", files(evaluation).1),
        (None, false) => format!(
            "{kind} of {names}, of which the last {:.0} % are held out for the evaluation",
            100.0 * held_out
        ),
        (None, true) => format!("the synthetic task {kind}, evaluated on sequences of another seed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configurations_can_be_used_and_name_every_training_once() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/capacity");
        for (file, fewest) in [("small.toml", 12), ("standard.toml", 200), ("h100.toml", 100)] {
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
