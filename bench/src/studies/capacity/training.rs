//! One training of the sweep, in a folder of its own.
//!
//! | file | what it holds |
//! |---|---|
//! | `initial/` | the initial weights, while it is trained |
//! | `first/`, `widened/` | the training before its state is widened, and what is trained on; where the task asks for that, while it is trained |
//! | `train/` | the training's own folder, while it is trained: what it goes on from after an interruption |
//! | `checkpoint/` | the trained model, where the sweep keeps models |
//! | `result.json` | the result, once it is done |

use super::config::{Leg, Plan, SweepConfig};
use super::expansion::widen;
use super::measure;
use super::result::{RunResult, RunSeconds, VERSION};
use crate::error::ProgramError;
use crate::output::write_json;
use serde_json::Value;
use spillway_models::train::{Event, Observer, Outcome, Run, SnapshotChoice, read_log};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the result in a training's folder.
pub const RESULT: &str = "result.json";
/// Folder of the last leg of a training, and of the one before where there are two.
const TRAIN: &str = "train";
const FIRST: &str = "first";
/// Entries of the training curve.
const CURVE: usize = 40;

/// Where everything of a training is.
#[derive(Clone, Debug)]
pub struct TrainingFiles<'a> {
    /// Configuration of the sweep.
    pub config: &'a SweepConfig,
    /// File of the sweep's configuration, from whose folder relative paths start.
    pub path: &'a Path,
    /// Folder of this training.
    pub folder: PathBuf,
}

/// Hears of each step, and says whether to go on.
pub trait Watch {
    /// A step is done; `true` stops the training after a snapshot.
    fn step(&mut self) -> bool;
}

impl TrainingFiles<'_> {
    /// The result, if this training is done.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a file that is no result, or one of other settings.
    pub fn finished(&self, plan: &Plan) -> Result<Option<RunResult>, ProgramError> {
        let path = self.folder.join(RESULT);
        if !path.exists() {
            return Ok(None);
        }
        let text = spillway_models::input::read_text(&path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", &path))?;
        let wrong = |expected: String, found: String| ProgramError::content(&path, expected, found);
        let result: RunResult = serde_json::from_str(&text)
            .map_err(|error| wrong("the result of a training".into(), error.to_string()))?;
        let settings = self.config.settings(plan);
        if let Some((field, saved, asked)) = difference("", &result.settings, &settings) {
            return Err(wrong(
                format!("{field} {asked} as the configuration has it"),
                saved,
            ));
        }
        Ok(Some(result))
    }

    /// Whether there is a result, or something to go on from.
    pub fn is_begun(&self) -> bool {
        let begun = |name: &str| self.folder.join(name).exists();
        [RESULT, FIRST, TRAIN].into_iter().any(begun)
    }

    /// Trains and evaluates; `None` if `watch` stopped it.
    ///
    /// # Errors
    /// [`ProgramError`]: data or a model that cannot be used, a loss that is not finite, a file that cannot be written.
    pub fn train(&self, plan: &Plan, watch: &mut dyn Watch) -> Result<Option<RunResult>, ProgramError> {
        fs::create_dir_all(&self.folder).map_err(ProgramError::file("create", &self.folder))?;
        let task = self.config.task(plan);
        let failed = |error: spillway_models::train::TrainError| failed(plan, &error);
        let begin = Instant::now();
        let legs = self.config.legs(plan);
        let mut trained = Vec::new();
        for (index, leg) in legs.iter().enumerate() {
            let is_last = index + 1 == legs.len();
            let name = if is_last { TRAIN } else { FIRST };
            let initial = match index.checked_sub(1).map(|before| &legs[before]) {
                None => self.initial(plan, leg)?,
                Some(before) => self.widened(plan, (before, leg))?,
            };
            match self.leg((plan, leg), (name, &initial), watch)? {
                Some(run) => trained.push(run),
                None => return Ok(None),
            }
        }
        let Some(run) = trained.last() else {
            return Err(ProgramError::Internal(format!("{} has no legs", plan.name)));
        };
        let training = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let model = run.trainer().model().map_err(failed)?;
        let base = run.trainer().config().base().to_path_buf();
        let length = plan.train_length;
        let forgetting = task
            .forgetting
            .map(|config| measure::forgetting(&model, task, &base, config, length));
        let recall = task.recall.as_ref().map(|config| measure::recall(&model, config));
        let pairs = measure::pairs(&model, task, length)?;
        let mut losses = Vec::new();
        for run in &trained {
            losses.extend(losses_of(&run.folder().join(spillway_models::train::run::LOG))?);
        }
        let steps: u64 = trained.iter().map(|run| run.trainer().steps_done()).sum();
        let last = &losses[losses.len() - (losses.len() / 10).max(1).min(losses.len())..];
        let result = RunResult {
            version: VERSION,
            task: task.name.clone(),
            state: plan.state,
            elements: plan.state.elements(),
            train_length: length,
            seed: plan.seed,
            parameters: model.info().parameters,
            steps,
            tokens: steps * run.trainer().config().tokens_per_step(),
            train_loss: mean(last),
            train_curve: curve(&losses),
            forgetting: forgetting.transpose()?,
            recall: recall.transpose()?,
            pairs,
            seconds: RunSeconds {
                training,
                evaluation: begin.elapsed().as_secs_f64(),
            },
            settings: self.config.settings(plan),
        };
        write_json(&self.folder.join(RESULT), &result)?;
        drop(trained);
        self.tidy()?;
        Ok(Some(result))
    }

    /// The folder of the initial weights, written if it is not there.
    fn initial(&self, plan: &Plan, leg: &Leg) -> Result<PathBuf, ProgramError> {
        let task = self.config.task(plan);
        let initial = self.absolute("initial")?;
        let sizes = (&leg.state, plan.train_length);
        task.initialisation
            .write(sizes, task.vocab_size, leg.seed, &initial)?;
        Ok(initial)
    }

    /// The folder of the model that the leg `before` trained with the state of `after`, written if it is not there.
    fn widened(&self, plan: &Plan, (before, after): (&Leg, &Leg)) -> Result<PathBuf, ProgramError> {
        let narrow = self
            .folder
            .join(FIRST)
            .join(spillway_models::train::run::CHECKPOINT);
        let widened = self.absolute("widened")?;
        let vocab_size = self.config.task(plan).vocab_size;
        widen(
            &narrow,
            (&before.state, &after.state),
            vocab_size,
            after.seed,
            &widened,
        )?;
        Ok(widened)
    }

    fn absolute(&self, name: &str) -> Result<PathBuf, ProgramError> {
        std::path::absolute(self.folder.join(name)).map_err(ProgramError::file("find", &self.folder))
    }

    /// Trains one leg in the folder `name`, or goes on with it; `None` if `watch` stopped it.
    fn leg(
        &self,
        (plan, leg): (&Plan, &Leg),
        (name, initial): (&str, &Path),
        watch: &mut dyn Watch,
    ) -> Result<Option<Run>, ProgramError> {
        let failed = |error: spillway_models::train::TrainError| failed(plan, &error);
        let config = self.config.train_config(self.path, plan, leg, Some(initial))?;
        let folder = self.folder.join(name);
        let mut run = match folder.exists() {
            true => Run::resume(config, &folder, SnapshotChoice::Latest).map_err(failed)?,
            false => Run::create(config, &folder).map_err(failed)?,
        };
        let outcome = run.go_on(&mut Stepping(watch)).map_err(failed)?;
        Ok((outcome != Outcome::Stopped).then_some(run))
    }

    /// Removes what only an unfinished training needs.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn tidy(&self) -> Result<(), ProgramError> {
        let (trained, kept) = (
            self.folder
                .join(TRAIN)
                .join(spillway_models::train::run::CHECKPOINT),
            self.folder.join("checkpoint"),
        );
        if self.config.keep_checkpoints && trained.exists() && !kept.exists() {
            fs::rename(&trained, &kept).map_err(ProgramError::file("rename", &trained))?;
        }
        for name in ["initial", FIRST, "widened", TRAIN] {
            let path = self.folder.join(name);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(ProgramError::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn failed(plan: &Plan, error: &spillway_models::train::TrainError) -> ProgramError {
    ProgramError::Failed(format!("{}: {error}", plan.name))
}

struct Stepping<'a>(&'a mut dyn Watch);

impl Observer for Stepping<'_> {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(_) if self.0.step() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The loss of every step, from the training's log.
fn losses_of(path: &Path) -> Result<Vec<f64>, ProgramError> {
    let events = read_log(path).map_err(|error| ProgramError::Failed(error.to_string()))?;
    let losses = events.into_iter().filter_map(|event| match event {
        Event::Step(step) => Some(step.loss),
        _ => None,
    });
    Ok(losses.collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn curve(losses: &[f64]) -> Vec<(u64, f64)> {
    let width = losses.len().div_ceil(CURVE).max(1);
    let entries = losses.chunks(width).enumerate();
    entries
        .map(|(index, chunk)| ((index * width + chunk.len()) as u64, mean(chunk)))
        .collect()
}

/// The first field in which two settings differ, with both values.
fn difference(path: &str, saved: &Value, asked: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(left), Value::Object(right)) = (saved, asked) {
        let mut fields: Vec<&String> = left.keys().chain(right.keys()).collect();
        fields.sort();
        fields.dedup();
        return fields.into_iter().find_map(|field| {
            let path = if path.is_empty() {
                field.clone()
            } else {
                format!("{path}.{field}")
            };
            difference(&path, &saved[field.as_str()], &asked[field.as_str()])
        });
    }
    // Numbers that JSON writes and reads are compared as it has them.
    let same = saved == asked || saved.as_f64().is_some() && saved.as_f64() == asked.as_f64();
    (!same).then(|| (path.to_string(), saved.to_string(), asked.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_names_the_field() {
        let saved = json!({"training": {"steps": 10, "optimizer": {"learning_rate": 0.001}}});
        let mut asked = saved.clone();
        assert_eq!(difference("", &saved, &asked), None);
        asked["training"]["optimizer"]["learning_rate"] = json!(0.003);
        let found = difference("", &saved, &asked).expect("they differ");
        assert_eq!(
            found,
            (
                "training.optimizer.learning_rate".into(),
                "0.001".into(),
                "0.003".into()
            )
        );
    }

    #[test]
    fn curves_keep_the_last_step() {
        let losses: Vec<f64> = (0..101).map(f64::from).collect();
        let curve = curve(&losses);
        assert!(curve.len() <= CURVE && curve.last().is_some_and(|entry| entry.0 == 101));
        assert_eq!(curve[0], (3, 1.0));
    }
}
