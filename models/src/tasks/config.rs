//! What a configuration can name as a task.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Adding, ContinuousMqar, Copying, Delay, Digits, DigitsWithGap, Forecasting, ListOps, MaskedTokens,
    MissingSamples, Pathfinder, Reconstruction, SelectiveCopying, Task, TaskError, TextClasses,
};

/// A task by its `kind`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskData {
    /// A signal, and what it was some steps ago.
    Delay(Delay),
    /// The last stretch of a signal, from the last state.
    Reconstruction(Reconstruction),
    /// Tokens, a pause, and the same tokens again.
    Copying(Copying),
    /// Tokens at random places, and the same tokens again.
    SelectiveCopying(SelectiveCopying),
    /// Keys and values that are vectors.
    ContinuousMqar(ContinuousMqar),
    /// The sum of two marked values.
    Adding(Adding),
    /// Images of digits, pixel by pixel.
    Digits(Digits),
    /// Images of digits, a long stretch of noise, and only then the question.
    DigitsWithGap(DigitsWithGap),
    /// The value of a nested expression.
    #[serde(rename = "listops")]
    ListOps(ListOps),
    /// Whether two discs lie on one dashed curve.
    Pathfinder(Pathfinder),
    /// Which class a text is of.
    Text(TextClasses),
    /// Bytes of a text that are hidden.
    MaskedTokens(MaskedTokens),
    /// What a signal will be.
    Forecasting(Forecasting),
    /// A signal with gaps, to be filled.
    MissingSamples(MissingSamples),
}

impl TaskData {
    /// The task, ready to give examples of `length` steps; relative paths start from `base`.
    ///
    /// # Errors
    /// [`TaskError`]: a file that cannot be read, an option that is out of range, a length that the task does not have.
    pub fn open(&self, base: &Path, length: usize) -> Result<Box<dyn Task>, TaskError> {
        let task: Box<dyn Task> = match self {
            Self::Delay(task) => Box::new(task.clone()),
            Self::Reconstruction(task) => Box::new(task.clone()),
            Self::Copying(task) => Box::new(task.clone()),
            Self::SelectiveCopying(task) => Box::new(task.clone()),
            Self::ContinuousMqar(task) => Box::new(task.open()?),
            Self::Adding(task) => Box::new(*task),
            Self::Digits(task) => Box::new(task.open(base)?),
            Self::DigitsWithGap(task) => Box::new(task.open(base)?),
            Self::ListOps(task) => Box::new(task.clone()),
            Self::Pathfinder(task) => Box::new(task.clone()),
            Self::Text(task) => Box::new(task.open(base)?),
            Self::MaskedTokens(task) => Box::new(task.open(base)?),
            Self::Forecasting(task) => Box::new(task.clone()),
            Self::MissingSamples(task) => Box::new(task.clone()),
        };
        task.check(length)?;
        Ok(task)
    }
}
