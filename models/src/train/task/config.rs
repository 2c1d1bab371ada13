//! The table `[task]` of a training's configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tasks::{Answer, Shape, TaskData, When};
use crate::train::error::TrainError;

/// A task, in the place of data whose next token is foretold.
///
/// ```
/// use spillway_models::train::task::{Readout, TaskConfig};
///
/// let config: TaskConfig = toml::from_str(r#"
///     data = { kind = "digits", order = "random" }
///     readout = "last"
///     evaluation = { every = 100, examples = 360 }
/// "#)?;
/// assert_eq!(config.readout, Some(Readout::Last));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The task: what is read, and what is asked.
    pub data: TaskData,
    /// What the one answer of a sequence is read from. Default: the last step where the task is to remember, else the mean over all
    /// steps. A task that is answered at every step has no such choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readout: Option<Readout>,
    /// What answers are given by. The model's own head answers with tokens, so that it is trained for what it is made for: to fill in
    /// hidden tokens where a model reads both ways.
    #[serde(default, skip_serializing_if = "TaskHead::is_fresh")]
    pub head: TaskHead,
    /// When and on what the model is evaluated.
    #[serde(default)]
    pub evaluation: TaskEvaluationConfig,
}

/// What answers are given by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskHead {
    /// A projection of the training's own, `task.head`.
    #[default]
    Fresh,
    /// The model's head, whose first tokens are the classes.
    Model,
}

impl TaskHead {
    fn is_fresh(&self) -> bool {
        *self == Self::Fresh
    }
}

/// What the one answer of a sequence is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readout {
    /// The mean over all steps before the padding.
    Mean,
    /// The last step before the padding.
    Last,
}

/// When and on what a model is evaluated.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskEvaluationConfig {
    /// Steps from one evaluation to the next. Default: only before the first step and after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Examples, none of which is trained on; all that are held out, if there are fewer.
    pub examples: u64,
    /// What else the same model is asked, without having been trained on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherData>,
}

impl Default for TaskEvaluationConfig {
    fn default() -> Self {
        Self {
            every: None,
            examples: 1000,
            others: Vec::new(),
        }
    }
}

/// Another task of the same shape that a model is evaluated on: another length, another noise, another sampling rate.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OtherData {
    /// What the other task is called in reports.
    pub name: String,
    /// The other task: what is read, and what is asked.
    pub data: TaskData,
    /// Steps of a sequence. Default: the training's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// What is added to every value of the parameters whose names end in these parts, for this evaluation alone. For steps Δ that are
    /// stored as logarithms, ln r turns Δ into rΔ: the change of sampling rate that belongs to samples which are r times as far apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, f64>,
}

impl TaskConfig {
    /// What can be told without opening the task.
    pub(in crate::train) fn check(&self) -> Result<(), TrainError> {
        if self.evaluation.every == Some(0) {
            return Err(TrainError::field("task.evaluation.every", "at least 1", 0));
        }
        if self.evaluation.examples == 0 {
            return Err(TrainError::field("task.evaluation.examples", "at least 1", 0));
        }
        if let Some(other) = self
            .evaluation
            .others
            .iter()
            .find(|other| other.length == Some(0))
        {
            let field = format!("task.evaluation.others.{}.length", other.name);
            return Err(TrainError::field(field, "at least 1", 0));
        }
        Ok(())
    }

    /// Refuses the model's head for answers that are not among its `vocab_size` tokens.
    pub(super) fn expect_head(&self, shape: Shape, vocab_size: usize) -> Result<(), TrainError> {
        let found = match (self.head, shape.answer) {
            (TaskHead::Fresh, _) => return Ok(()),
            (TaskHead::Model, Answer::Class(classes)) if classes <= vocab_size => return Ok(()),
            (TaskHead::Model, Answer::Class(classes)) => format!("{classes} classes"),
            (TaskHead::Model, Answer::Values(width)) => format!("{width} values"),
        };
        let expected =
            format!("a task with at most {vocab_size} classes, the model's tokens, for head = \"model\"");
        Err(TrainError::field("task.head", expected, found))
    }

    /// What the answers of a task of this shape are read from; `None` for every step.
    pub(super) fn readout(&self, shape: Shape) -> Result<Option<Readout>, TrainError> {
        match (self.readout, shape.when) {
            (Some(_), When::AtEveryStep) => {
                let expected = "none for a task that is answered at every step";
                Err(TrainError::field("task.readout", expected, "one"))
            }
            (None, When::AtEveryStep) => Ok(None),
            (Some(readout), _) => Ok(Some(readout)),
            (None, When::AtTheEnd) => Ok(Some(Readout::Mean)),
            (None, When::AtTheLastStep) => Ok(Some(Readout::Last)),
        }
    }
}
