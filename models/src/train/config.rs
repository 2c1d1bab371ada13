//! What to train, on what, and how: a TOML file.
//!
//! ```
//! use spillway_models::train::TrainConfig;
//!
//! let config = TrainConfig::parse("example.toml".as_ref(), r#"
//!     steps = 100
//!     sequences = 8
//!     length = 64
//!
//!     [model]
//!     arch = "mamba2"
//!     size = "tiny"
//!
//!     [data]
//!     kind = "text"
//!     paths = ["book.txt"]
//!
//!     [optimizer]
//!     learning_rate = 3e-3
//! "#)?;
//! assert_eq!(config.tokens_per_step(), 512);
//! # Ok::<(), spillway_models::train::TrainError>(())
//! ```
//!
//! A field that is not known is refused, and so is one that is left out without having a default.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::carry::CarryConfig;
use super::data::DataConfig;
use super::encoder::EncoderConfig;
use super::error::{Difference, TrainError};
use super::evaluation::EvaluationConfig;
use super::forward::Precision;
use super::model_config::ModelConfig;
use super::optimizer::{OptimizerConfig, OptimizerError};
use super::parallel_config::ParallelConfig;
use super::task::TaskConfig;
use crate::error::ModelError;
use crate::input;

/// The longest configuration that is read.
const MAX_BYTES: u64 = 4 << 20;
/// Tokens of a training, at which no count of them overflows yet.
const MOST_TOKENS: u64 = 1 << 63;

/// Configuration of a whole training.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of everything that is drawn: initial weights, order of the data, initial states and resets. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Sequences in a batch.
    pub sequences: usize,
    /// Tokens of a sequence: the training length.
    pub length: usize,
    /// Batches whose gradients are added up for one step; as one batch that many times as large, in the memory of one.
    /// Default 1.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Type of matrices and embeddings in the forward and backward pass: `"f32"` (default) or `"bf16"`. The weights that the
    /// optimiser keeps are f32 in either case.
    #[serde(default)]
    pub precision: Precision,
    /// Where the model is trained: `"cpu"` (default), `"wgpu"` or `"cuda"`.
    #[serde(default)]
    pub device: DeviceName,
    /// Threads on the CPU. Default: every available core. They do not change the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Steps between snapshots, from which a training that was stopped or killed goes on. Default 100.
    #[serde(default = "hundred")]
    pub snapshot_every: u64,
    /// Share of the channels of every layer's output that is zeroed for a sequence, other ones for each sequence and batch; what stays is
    /// divided by 1 less that. Evaluations have none. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Folder that relative paths start from. Default: the configuration's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// The model that the training begins with.
    pub model: ModelConfig,
    /// Data that the model is trained on, token by token. Every training has this or a `task`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
    /// What else it is trained on: classes, answers at every step, real values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskConfig>,
    /// Data that losses are evaluated on. Default: the held-out part of `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_data: Option<DataConfig>,
    /// How weights follow from gradients.
    pub optimizer: OptimizerConfig,
    /// What becomes of states between the segments of a batch, and from batch to batch. Default: each sequence begins with
    /// zeros and is one segment.
    #[serde(default)]
    pub carry: CarryConfig,
    /// The part of every sequence that an encoder reads, for a model that has one. Default: none, and every token is foretold from those
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderConfig>,
    /// What the ranks of a training under `mpirun` share. Default: the sequences of every batch.
    #[serde(default, skip_serializing_if = "ParallelConfig::is_default")]
    pub parallel: ParallelConfig,
    /// When and how the model is evaluated during training. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
}

/// Kind of device that a training runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceName {
    /// The main processor (CPU).
    #[default]
    Cpu,
    /// A graphics processor through Vulkan, Metal or DirectX.
    Wgpu,
    /// An NVIDIA graphics processor.
    Cuda,
}

fn one() -> usize {
    1
}

fn hundred() -> u64 {
    100
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Fields that may differ between the two halves of a training: none of them changes a bit of the result.
const MAY_DIFFER: [&str; 3] = ["threads", "snapshot_every", "base"];

impl TrainConfig {
    /// Reads a file. Relative paths in it start from its folder, or from `base` where that is given, itself relative to the
    /// folder.
    ///
    /// # Errors
    /// [`TrainError::File`], [`TrainError::Syntax`] for a text that is not a configuration, [`TrainError::Field`] for a value
    /// that cannot be used; each names the file.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let text = input::read_text(path, MAX_BYTES).map_err(TrainError::file("read", path))?;
        Self::parse(path, &text)?.based_at(path)
    }

    /// With the folder that relative paths in the file `path` start from.
    fn based_at(mut self, path: &Path) -> Result<Self, TrainError> {
        // A name alone has an empty parent, which is the current folder.
        let folder = Path::new(".").join(path.parent().unwrap_or(Path::new("")));
        let base = folder.join(self.base.take().unwrap_or_default());
        self.base = Some(std::path::absolute(&base).map_err(TrainError::file("find", &base))?);
        Ok(self)
    }

    /// As [`TrainConfig::load`] with values in the places of those of the file, each under the path of its field, such as
    /// `model.config.d_model`; a field that is not there is added.
    ///
    /// # Errors
    /// As [`TrainConfig::load`]; [`TrainError::Field`] for a path through something that is no table.
    pub fn load_changed(path: &Path, changes: &[(String, toml::Value)]) -> Result<Self, TrainError> {
        let text = input::read_text(path, MAX_BYTES).map_err(TrainError::file("read", path))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|error| syntax(path, &text, error))?;
        for (field, value) in changes {
            set(&mut table, field, value.clone()).map_err(|error| error.in_file(path))?;
        }
        let config: Self = table.try_into().map_err(|error| syntax(path, "", error))?;
        config.check().map_err(|error| error.in_file(path))?;
        config.based_at(path)
    }

    /// As [`TrainConfig::load`] from a text; `path` is for messages, and relative paths stay as they are.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, TrainError> {
        let config: Self = toml::from_str(text).map_err(|error| syntax(path, text, error))?;
        config.check().map_err(|error| error.in_file(path))?;
        Ok(config)
    }

    /// The configuration as TOML, every default written out.
    ///
    /// # Errors
    /// [`TrainError::Field`] for a number that TOML does not have.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(self)
            .map_err(|error| TrainError::field("configuration", "what TOML can hold", error))
    }

    /// The configuration as TOML without what may differ between the halves of a training that was interrupted.
    pub(super) fn identity(&self) -> Result<String, TrainError> {
        let identity = Self {
            threads: None,
            base: None,
            snapshot_every: hundred(),
            ..self.clone()
        };
        identity.to_toml()
    }

    /// Tokens that a step reads; fewer than 2^63 in all steps together, of a configuration that was checked.
    pub fn tokens_per_step(&self) -> u64 {
        let rows = (self.sequences as u64).saturating_mul(self.length as u64);
        rows.saturating_mul(self.accumulation as u64)
    }

    /// The folder that relative paths start from.
    pub fn base(&self) -> &Path {
        self.base.as_deref().unwrap_or(Path::new(""))
    }

    /// The device, without autodiff.
    ///
    /// # Errors
    /// [`TrainError::Field`] where the program was built without this kind of device.
    pub fn device(&self) -> Result<Device, TrainError> {
        match self.device {
            DeviceName::Cpu => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            DeviceName::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::default())),
            #[cfg(feature = "cuda")]
            DeviceName::Cuda => Ok(Device::cuda(0)),
            #[allow(unreachable_patterns, reason = "every device may be built in")]
            other => {
                let expected = "a device that the program was built with (cargo features wgpu and cuda)";
                Err(TrainError::field(
                    "device",
                    expected,
                    format!("{other:?}").to_lowercase(),
                ))
            }
        }
    }

    /// Every field in which `asked` differs from `self`, the configuration of the run to be resumed, and that decides the
    /// result.
    pub fn differences(&self, asked: &Self) -> Vec<Difference> {
        let (mut saved, mut now) = (Vec::new(), Vec::new());
        flatten("", &self.to_json(), &mut saved);
        flatten("", &asked.to_json(), &mut now);
        let find = |list: &[(String, String)], field: &str| {
            let found = list.iter().find(|(name, _)| name == field);
            found.map_or("none".to_string(), |(_, value)| value.clone())
        };
        let mut fields: Vec<&String> = saved.iter().chain(&now).map(|(name, _)| name).collect();
        fields.sort();
        fields.dedup();
        let differ = fields.into_iter().map(|field| Difference {
            field: field.clone(),
            saved: find(&saved, field),
            asked: find(&now, field),
        });
        differ
            .filter(|difference| difference.saved != difference.asked)
            .filter(|difference| !MAY_DIFFER.contains(&difference.field.as_str()))
            .collect()
    }

    /// The configuration as JSON.
    pub fn to_json(&self) -> Value {
        // No map in it has keys that are not strings, which is all that could fail.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    fn check(&self) -> Result<(), TrainError> {
        let counts = [
            ("steps", self.steps),
            ("sequences", self.sequences as u64),
            ("length", self.length as u64),
            ("accumulation", self.accumulation as u64),
            ("snapshot_every", self.snapshot_every),
            ("threads", self.threads.map_or(1, |threads| threads as u64)),
        ];
        if let Some((field, found)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(TrainError::field(field, "at least 1", found));
        }
        let all = self.steps.checked_mul(self.tokens_per_step());
        if all.is_none_or(|tokens| tokens >= MOST_TOKENS) {
            let [steps, sequences, length, accumulation, ..] = counts.map(|(_, count)| count);
            let found = format!("{steps} · {sequences} · {length} · {accumulation}");
            let expected = "steps · sequences · length · accumulation below 2^63 tokens";
            return Err(TrainError::field("steps", expected, found));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(TrainError::field("dropout", "from 0 to below 1", self.dropout));
        }
        self.check_task()?;
        self.check_encoder()?;
        self.check_parallel()?;
        if self.evaluation_data.is_some() && self.evaluation.is_none() {
            let expected = "a table [evaluation] that says how often evaluation_data is read";
            return Err(TrainError::field("evaluation", expected, "none"));
        }
        self.optimizer.validate(self.steps).map_err(|error| match error {
            OptimizerError::Option {
                option,
                expected,
                found,
            } => TrainError::field(format!("optimizer.{option}"), expected, found),
            other => other.into(),
        })?;
        let evaluation = self
            .evaluation
            .as_ref()
            .map_or(Ok(()), EvaluationConfig::validate);
        self.carry
            .validate()
            .and(evaluation)
            .map_err(|error| match error {
                ModelError::Option {
                    option,
                    expected,
                    found,
                } => TrainError::field(option, expected, found),
                other => other.into(),
            })?;
        self.model.check()
    }

    /// Whether an encoder can read the sequences that there are.
    fn check_encoder(&self) -> Result<(), TrainError> {
        let Some(encoder) = &self.encoder else {
            return Ok(());
        };
        if self.task.is_some() {
            return Err(TrainError::field("encoder", "none beside a table [task]", "one"));
        }
        if self.carry.carry {
            let expected = "false: an encoder reads the beginning of a text";
            return Err(TrainError::field("carry.carry", expected, true));
        }
        encoder.check(self.length, self.carry.segment)
    }

    /// Whether sequences can be cut where that is asked for.
    fn check_parallel(&self) -> Result<(), TrainError> {
        self.parallel.check()?;
        let reasons = [
            (
                self.task.is_some(),
                "false beside a table [task], whose examples are read whole",
            ),
            (
                self.encoder.is_some(),
                "false beside a table [encoder], which reads the beginning of a sequence both ways",
            ),
            (
                self.carry != CarryConfig::default(),
                "false beside a table [carry]: every sequence begins with zeros, and gradients go through all of it",
            ),
        ];
        let reason = reasons.into_iter().find(|(is_there, _)| *is_there);
        match reason.filter(|_| self.parallel.sequence) {
            Some((_, expected)) => Err(TrainError::field("parallel.sequence", expected, true)),
            None => Ok(()),
        }
    }

    /// Whether there is one of `data` and `task`, and nothing beside a task that is only for data.
    fn check_task(&self) -> Result<(), TrainError> {
        let Some(task) = &self.task else {
            return match &self.data {
                Some(_) => Ok(()),
                None => {
                    let expected = "a table [data] whose next token is foretold, or a table [task]";
                    Err(TrainError::field("data", expected, "neither"))
                }
            };
        };
        let beside = [
            ("data", self.data.is_some()),
            ("evaluation_data", self.evaluation_data.is_some()),
            ("evaluation", self.evaluation.is_some()),
            ("carry", self.carry != CarryConfig::default()),
        ];
        if let Some((field, _)) = beside.into_iter().find(|(_, is_there)| *is_there) {
            let expected = "none beside a table [task], which has its own task.data and task.evaluation";
            return Err(TrainError::field(field, expected, "one"));
        }
        task.check()
    }
}

/// Puts a value under the path of its field, through tables that are made where they are missing.
fn set(table: &mut toml::Table, field: &str, value: toml::Value) -> Result<(), TrainError> {
    let mut parts: Vec<&str> = field.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut inner = table;
    for part in parts {
        let entry = inner
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner = match entry {
            toml::Value::Table(table) => table,
            other => {
                let found = format!("{other} under {part}");
                return Err(TrainError::field(field, "a path through tables", found));
            }
        };
    }
    inner.insert(last.to_string(), value);
    Ok(())
}

/// Every value that is no object, under its path.
fn flatten(path: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, value, into);
            }
        }
        Value::Null => {}
        value => into.push((path.to_string(), value.to_string())),
    }
}

/// Names of types as Rust has them, and what they mean to who writes a configuration.
const TYPES: [(&str, &str); 8] = [
    ("expected u64", "expected a whole number from 0"),
    ("expected usize", "expected a whole number from 0"),
    ("expected u32", "expected a whole number from 0"),
    ("expected i64", "expected a whole number"),
    ("expected f64", "expected a number"),
    ("expected f32", "expected a number"),
    ("expected a boolean", "expected true or false"),
    ("expected path string", "expected a path in quotes"),
];

/// The library's message on one line, with the line and the field that it is about.
fn syntax(path: &Path, text: &str, mut error: toml::de::Error) -> TrainError {
    let line = error.span().map(|span| {
        let before = text.as_bytes().iter().take(span.start);
        format!("line {}: ", 1 + before.filter(|byte| **byte == b'\n').count())
    });
    // Without the text at hand the error tells the path of the field instead of quoting the line.
    error.set_input(None);
    let message = error.to_string();
    let mut reason = error.message().trim().replace('\n', "; ");
    for (rust, words) in TYPES {
        reason = reason.replace(rust, words);
    }
    let field = message.trim_end().rsplit_once("\nin `").map(|(_, field)| {
        let field = field.trim_end_matches('`');
        format!("{field}: ")
    });
    TrainError::Syntax {
        path: path.to_path_buf(),
        place: line.unwrap_or_default() + &field.unwrap_or_default(),
        reason,
    }
}
