//! The configuration of a frontier: models, each in several sizes of its state, and what they are asked.

use crate::error::ProgramError;
use crate::studies::trainings::{self, Job, changed, expect_arms, seed_by_seed};
use serde::{Deserialize, Serialize};
use spillway_models::Tokenizer;
use spillway_models::train::data::DataConfig;
use spillway_models::train::{Batch, TrainConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Seed of the questions, which are the same for every model and no training's; and of those by which a learning rate is chosen.
const QUESTIONS: u64 = 0x6672_6f6e_7469_6572;
const CHOICE: u64 = 0x6c65_6172_6e69_6e67;

/// A frontier.
///
/// ```
/// use spillway::studies::frontier::config::FrontierConfig;
///
/// let frontier: FrontierConfig = toml::from_str(r#"
///     title = "Recall"
///     training = "training.toml"
///     seeds = [0, 1, 2]
///
///     [[models]]
///     name = "Mamba-2"
///     set = { "model.arch" = "mamba2", "model.layout" = "original" }
///     sizes = [
///         { "model.config.ssm_cfg.d_state" = 8 },
///         { "model.config.ssm_cfg.d_state" = 16 },
///     ]
///
///     [[asked]]
///     name = "8 pairs"
///     length = 64
///     data = { kind = "mqar", pairs = 8, vocab_size = 64 }
/// "#)?;
/// assert_eq!((frontier.models[0].sizes.len(), frontier.asked[0].sequences), (2, 256));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierConfig {
    /// Title of the study.
    pub title: String,
    /// What is asked, in a sentence or two.
    #[serde(default)]
    pub question: String,
    /// Configuration of a training on a synthetic task, from the folder of this file.
    pub training: PathBuf,
    /// What all models change of it: paths of fields, and what takes the place of their values.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Seeds of each model and size.
    pub seeds: Vec<u64>,
    /// Learning rates that each model is trained with in each size; the one that comes to more on other sequences is reported. Default: the
    /// training's.
    #[serde(default)]
    pub learning_rates: Vec<f64>,
    /// Accuracy from which on a training has solved what is asked.
    #[serde(default = "solved")]
    pub solved: f64,
    /// Mitigations under which the trained models are asked, beside none.
    #[serde(default)]
    pub mitigations: Vec<String>,
    /// The models that are trained, each in its sizes.
    pub models: Vec<FrontierModel>,
    /// What the models are asked; the pictures of speed and of solved trainings are of the first question.
    pub asked: Vec<Question>,
    /// How speed is measured.
    #[serde(default)]
    pub speed: SpeedConfig,
}

fn solved() -> f64 {
    0.9
}

/// A model in several sizes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierModel {
    /// Name of the model.
    pub name: String,
    /// Whether the others are held against it: it is drawn apart.
    #[serde(default)]
    pub baseline: bool,
    /// What the model changes of the training: paths of fields, and what takes the place of their values.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// What each size changes beside that. Default: one size.
    #[serde(default = "one_size")]
    pub sizes: Vec<BTreeMap<String, toml::Value>>,
    /// Seeds of the model, where they are not the study's.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
}

fn one_size() -> Vec<BTreeMap<String, toml::Value>> {
    vec![BTreeMap::new()]
}

/// Something that trained models are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Name of the question.
    pub name: String,
    /// Tokens of a sequence.
    pub length: usize,
    /// Number of sequences that are asked.
    #[serde(default = "sequences")]
    pub sequences: usize,
    /// The first tokens of a sequence, which models with an encoder read both ways. Default: as many as in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<usize>,
    /// Where the sequences come from.
    pub data: DataConfig,
}

fn sequences() -> usize {
    256
}

/// How speed is measured: with the weights of the first seed, one sequence at a time, when all trainings are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeedConfig {
    /// Tokens of a prompt; 0 measures nothing.
    pub prefill: usize,
    /// Tokens to decode; 0 measures nothing.
    pub decode: usize,
    /// Repetitions, of which the median counts.
    pub repeats: usize,
}

impl Default for SpeedConfig {
    fn default() -> Self {
        Self {
            prefill: 512,
            decode: 64,
            repeats: 3,
        }
    }
}

/// A model in one size, trained with one learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Place of the model.
    pub model: usize,
    /// Place of its size.
    pub size: usize,
    /// The learning rate, where it is not the training's own.
    pub learning_rate: Option<f64>,
    /// Name of the arm: the model, the number of its size, and the learning rate where it is not the training's own.
    pub name: String,
}

impl FrontierConfig {
    /// Reads a file, and the training that it names, as each model changes it.
    ///
    /// # Errors
    /// [`ProgramError::File`] for one that cannot be read, [`ProgramError::Content`] for one that is no frontier, naming the field, and for
    /// a model that cannot be trained.
    pub fn load(path: &Path) -> Result<(Self, Vec<Job>), ProgramError> {
        let text = spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", path))?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let found = error.to_string().trim().replace('\n', "; ");
            ProgramError::content(path, "the configuration of a frontier", found)
        })?;
        config.check(path)?;
        let jobs = config.jobs(path)?;
        Ok((config, jobs))
    }

    fn check(&self, path: &Path) -> Result<(), ProgramError> {
        let wrong = |expected: &str, found: String| Err(ProgramError::content(path, expected, found));
        let models = self.models.iter();
        expect_arms(
            path,
            "models",
            models.map(|model| (model.name.as_str(), self.seeds_of(model))),
        )?;
        if let Some(model) = self.models.iter().find(|model| model.sizes.is_empty()) {
            return wrong(
                "models.sizes with at least one size, or none",
                format!("an empty list for {}", model.name),
            );
        }
        if !(self.solved > 0.0 && self.solved <= 1.0) {
            return wrong("solved above 0 and at most 1", self.solved.to_string());
        }
        if let Some(rate) = self
            .learning_rates
            .iter()
            .find(|rate| !(rate.is_finite() && **rate > 0.0))
        {
            return wrong("learning_rates above 0", rate.to_string());
        }
        let mut rates = self.learning_rates.clone();
        rates.sort_by(f64::total_cmp);
        if rates.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("every one of learning_rates once", format!("{rates:?}"));
        }
        if self.asked.is_empty() {
            return wrong("at least one of [[asked]]", "none".into());
        }
        if self.speed.repeats == 0 {
            return wrong("speed.repeats of at least 1", "0".into());
        }
        for (place, asked) in self.asked.iter().enumerate() {
            if self.asked[..place].iter().any(|other| other.name == asked.name) {
                return wrong("every [[asked]] with a name of its own", asked.name.clone());
            }
            let batch = asked.batch(path, false)?;
            if !asks_something(&batch) {
                let found = format!("{}: targets that all weigh the same", asked.name);
                return wrong(
                    "asked.data of a synthetic task, whose answers have weights",
                    found,
                );
            }
        }
        Ok(())
    }

    /// The seeds of a model.
    pub fn seeds_of<'a>(&'a self, model: &'a FrontierModel) -> &'a [u64] {
        model.seeds.as_deref().unwrap_or(&self.seeds)
    }

    /// Every model in every size with every learning rate, in the order of [`Job::arm`].
    pub fn arms(&self) -> Vec<Arm> {
        let rates: Vec<Option<f64>> = match self.learning_rates.as_slice() {
            [] => vec![None],
            rates => rates.iter().copied().map(Some).collect(),
        };
        let mut arms = Vec::new();
        for (place, model) in self.models.iter().enumerate() {
            for size in 0..model.sizes.len() {
                for learning_rate in &rates {
                    let rate = learning_rate.map_or(String::new(), |rate| format!(", learning rate {rate}"));
                    arms.push(Arm {
                        model: place,
                        size,
                        learning_rate: *learning_rate,
                        name: format!("{}, size {}{rate}", model.name, size + 1),
                    });
                }
            }
        }
        arms
    }

    /// Makes every model and reads what is asked, so that what cannot be trained is told before the first training.
    ///
    /// # Errors
    /// As [`trainings::try_arms`].
    pub fn try_arms(&self, path: &Path, jobs: &[Job]) -> Result<(), ProgramError> {
        let arms = self.arms();
        trainings::try_arms(path, arms.iter().map(|arm| arm.name.as_str()), jobs)
    }

    fn jobs(&self, path: &Path) -> Result<Vec<Job>, ProgramError> {
        let arms = self.arms();
        let mut made = Vec::new();
        for arm in &arms {
            let model = &self.models[arm.model];
            let rate = arm
                .learning_rate
                .map(|rate| ("optimizer.learning_rate".to_string(), toml::Value::Float(rate)));
            let rate: BTreeMap<String, toml::Value> = rate.into_iter().collect();
            let changes = self.set.iter().chain(&model.set);
            let changes = changes.chain(&model.sizes[arm.size]).chain(&rate);
            let config: TrainConfig = changed(path, &self.training, &arm.name, changes)?;
            if config.data.is_none() {
                let expected = format!("a training on [data] in {}", self.training.display());
                return Err(ProgramError::content(path, expected, "one on a [task]"));
            }
            made.push((arm.name.as_str(), self.seeds_of(model), config));
        }
        Ok(seed_by_seed(made))
    }
}

impl Question {
    /// The sequences that are asked; or, for a choice between learning rates, others.
    ///
    /// # Errors
    /// [`ProgramError::Content`] of the file `path` for data that cannot be had.
    pub fn batch(&self, path: &Path, for_choice: bool) -> Result<Batch, ProgramError> {
        let seed = if for_choice { CHOICE } else { QUESTIONS };
        let base = path.parent().unwrap_or(Path::new(""));
        // Tasks need no tokenizer, and other data is refused for want of weights.
        let source = self
            .data
            .open(base, self.sequences, self.length, &Tokenizer::bytes(), seed);
        let batch = source.and_then(|mut source| source.next());
        batch.map_err(|error| {
            let expected = format!("asked.data of {} that can be had", self.name);
            ProgramError::content(path, expected, error.to_string())
        })
    }
}

/// Whether some targets weigh something, and others nothing.
fn asks_something(batch: &Batch) -> bool {
    let weights = batch.weights.as_deref().unwrap_or_default();
    weights.iter().any(|weight| *weight > 0.0) && weights.contains(&0.0)
}
