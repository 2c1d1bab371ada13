//! What the log of a training holds, and its summary.

use super::task_result;
use crate::error::ProgramError;
use crate::kit::format::{count, counted, duration};
use serde::Serialize;
use serde_json::Value;
use spillway_models::audio::ngram::NGram;
use spillway_models::evaluation::tally::mean_over;
use spillway_models::train::data::DataConfig;
use spillway_models::train::evaluation::EvaluationReport;
use spillway_models::train::log::{
    EvaluationEvent, Event, Seconds, StartEvent, StepEvent, TaskEvent, read_log,
};
use spillway_models::train::{TaskReport, TrainConfig, TrainError};
use std::path::Path;

/// Share of the steps over whose last the final training loss is a mean.
const LAST: f64 = 0.05;

/// What the log holds.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The log's event of the start: which model is trained, and for how many steps.
    pub start: StartEvent,
    /// The event of every training step, in order.
    pub steps: Vec<StepEvent>,
    /// The event of every evaluation of the loss, in order.
    pub evaluations: Vec<EvaluationEvent>,
    /// Every evaluation of a task.
    pub tasks: Vec<TaskEvent>,
    /// Whether all steps are done.
    pub finished: bool,
    /// Whether the training began with random weights.
    pub from_random: bool,
}

impl Record {
    /// Reads the log of a training with this configuration.
    ///
    /// # Errors
    /// [`ProgramError::Training`], naming the line that cannot be read.
    pub fn read(path: &Path, config: &TrainConfig) -> Result<Self, ProgramError> {
        let mut record = Self {
            from_random: config.model.checkpoint.is_none(),
            ..Self::default()
        };
        for event in read_log(path)? {
            match event {
                Event::Start(event) => record.start = event,
                Event::Step(event) => record.steps.push(event),
                Event::Evaluation(event) => record.evaluations.push(event),
                Event::Task(event) => record.tasks.push(event),
                Event::Snapshot(_) => {}
                Event::End(event) => record.finished = event.finished,
            }
        }
        Ok(record)
    }

    /// The evaluations but that of random weights, beside whose loss all others look alike.
    pub fn trained_evaluations(&self) -> impl Iterator<Item = &EvaluationEvent> {
        let of_random = |event: &EvaluationEvent| event.step == 0 && self.from_random;
        self.evaluations.iter().filter(move |event| !of_random(event))
    }

    /// Time of all steps, in seconds.
    pub fn step_seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds.sum()).sum()
    }

    /// Mean training loss over the last steps.
    fn last_loss(&self) -> Option<f64> {
        let last = ((self.steps.len() as f64 * LAST).ceil() as usize).min(self.steps.len());
        let steps = &self.steps[self.steps.len() - last..];
        let sum: f64 = steps.iter().map(|step| step.loss).sum();
        (last > 0).then(|| sum / last as f64)
    }
}

/// What a training has come to: the content of `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the file's format, `spillway-training`.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// The command that makes this training.
    pub command: String,
    /// Whether all steps are done.
    pub complete: bool,
    /// Architecture of the model, such as `mamba2`.
    pub architecture: String,
    /// Whose layout the checkpoint has: `Hugging Face`.
    pub layout: String,
    /// Number of weights that are trained.
    pub parameters: u64,
    /// Number of training steps done.
    pub steps: u64,
    /// Steps to be done in all.
    pub steps_in_all: u64,
    /// Number of tokens that the steps done have read.
    pub tokens: u64,
    /// Time of all steps, in seconds.
    pub seconds: f64,
    /// Seconds of each part of the steps.
    pub seconds_by_part: Seconds,
    /// Time of all evaluations, in seconds.
    pub evaluation_seconds: f64,
    /// Tokens over the time of all steps.
    pub tokens_per_second: f64,
    /// Mean training loss over the last twentieth of the steps, in nats per token; of a task, per answer, the mean square error where
    /// answers are real values.
    pub loss: Option<f64>,
    /// Steps whose gradients were clipped.
    pub clipped_steps: u64,
    /// The training's last evaluation.
    pub evaluation: Option<EvaluationReport>,
    /// The last evaluation of a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskReport>,
    /// What was found on sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sound: Option<SoundReport>,
    /// Steps done before the last evaluation of either kind.
    pub evaluated_at: Option<u64>,
    /// Configuration of the training.
    pub config: Value,
}

impl Summary {
    /// The summary of a log.
    pub fn of(record: &Record, config: &TrainConfig, command: String) -> Self {
        let mut seconds = Seconds::default();
        record.steps.iter().for_each(|step| seconds.add(&step.seconds));
        let tokens = record.steps.last().map_or(0, |step| step.tokens);
        let last = record.evaluations.last();
        let task = record.tasks.last();
        Self {
            format: "spillway-training",
            version: 1,
            program: env!("CARGO_PKG_VERSION"),
            command,
            complete: record.finished,
            architecture: record.start.architecture.clone(),
            layout: record.start.layout.clone(),
            parameters: record.start.parameters,
            steps: record.steps.len() as u64,
            steps_in_all: config.steps,
            tokens,
            seconds: seconds.sum(),
            seconds_by_part: seconds,
            evaluation_seconds: record
                .evaluations
                .iter()
                .map(|evaluation| evaluation.seconds)
                .chain(record.tasks.iter().map(|evaluation| evaluation.seconds))
                .sum(),
            tokens_per_second: tokens as f64 / seconds.sum().max(f64::MIN_POSITIVE),
            loss: record.last_loss(),
            clipped_steps: record.steps.iter().filter(|step| step.clipped).count() as u64,
            evaluation: last.map(|evaluation| evaluation.report.clone()),
            task: task.map(|evaluation| evaluation.report.clone()),
            sound: None,
            evaluated_at: last
                .map(|evaluation| evaluation.step)
                .or(task.map(|event| event.step)),
            config: config.to_json(),
        }
    }

    /// What there is to say, sentence by sentence.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![format!(
            "{} of {} steps, {} tokens in {} ({} tokens/s); training loss {} {} over the last twentieth.",
            count(self.steps),
            count(self.steps_in_all),
            count(self.tokens),
            duration(self.seconds),
            count(self.tokens_per_second.round() as u64),
            self.loss.map_or("–".into(), |loss| format!("{loss:.3}")),
            if self.config["task"].is_object() {
                "an answer"
            } else {
                "nats per token"
            },
        )];
        if let (Some(step), Some(report)) = (self.evaluated_at, &self.evaluation) {
            sentences.push(evaluation_sentence(step, report));
        }
        if let (Some(step), Some(report)) = (self.evaluated_at, &self.task) {
            sentences.push(task_result::sentence(step, report));
        }
        sentences.extend(self.sound.as_ref().and_then(SoundReport::sentence));
        sentences
    }
}

/// What was found on sound, in bits per sample.
#[derive(Clone, Debug, Serialize)]
pub struct SoundReport {
    /// The model's, inside the training length, on the streams of its last evaluation.
    pub model: Option<f64>,
    /// What n-grams of the training part foretell, on the whole held-out part.
    pub ngrams: Vec<NGram>,
}

impl SoundReport {
    /// The report of a training on sound; `None` of one on something else.
    ///
    /// # Errors
    /// [`ProgramError::Training`] when the sound cannot be read any more.
    pub fn of(record: &Record, config: &TrainConfig) -> Result<Option<Self>, ProgramError> {
        let Some(audio) = config.data.as_ref().and_then(DataConfig::audio) else {
            return Ok(None);
        };
        // Data of its own that an evaluation reads is not the part that is held out here.
        let ngrams = match &config.evaluation_data {
            Some(_) => Vec::new(),
            None => audio.baselines(config.base()).map_err(TrainError::from)?,
        };
        let last = record.evaluations.last();
        let loss = last.and_then(|evaluation| inside(&evaluation.report));
        Ok(Some(Self {
            model: loss.map(|nats| nats / std::f64::consts::LN_2),
            ngrams,
        }))
    }

    fn sentence(&self) -> Option<String> {
        let model = self.model.map(|bits| format!("{bits:.3} bits per sample"));
        let orders: Vec<&str> = ["one", "two", "three"]
            .into_iter()
            .take(self.ngrams.len())
            .collect();
        let bits = self.ngrams.iter().map(|ngram| format!("{:.3}", ngram.bits));
        let ngrams = (!orders.is_empty()).then(|| {
            format!(
                "counting {} codes gives {}",
                orders.join(", "),
                bits.collect::<Vec<_>>().join(", ")
            )
        });
        let parts: Vec<String> = model.into_iter().chain(ngrams).collect();
        (!parts.is_empty()).then(|| format!("On held-out sound: {}.", parts.join("; ")))
    }
}

/// Mean loss inside the training length, from which on the state is carried.
pub fn inside(report: &EvaluationReport) -> Option<f64> {
    mean_over(
        report
            .positions
            .iter()
            .filter(|bucket| bucket.end <= report.train_length),
    )
}

/// An evaluation in one line.
pub fn evaluation_sentence(step: u64, report: &EvaluationReport) -> String {
    let mut text = format!("Evaluated after {}:", counted(step, "step"));
    if let Some(loss) = inside(report) {
        text += &format!(
            " {loss:.3} nats per token up to {} tokens",
            count(report.train_length)
        );
    }
    if let Some(last) = report
        .positions
        .last()
        .filter(|bucket| bucket.start >= report.train_length)
    {
        text += &format!(
            ", {:.3} at {} to {}",
            last.mean,
            count(last.start),
            count(last.end)
        );
    }
    if let Some(collapse) = &report.collapse {
        let ratio = collapse.published.perplexity_ratio;
        text += &match collapse.perplexity.for_good {
            Some(onset) => format!("; collapses at {} (perplexity times {ratio:.1})", count(onset)),
            None => format!("; does not collapse (perplexity times {ratio:.2})"),
        };
    }
    if let Some(passkey) = &report.passkey {
        text += &match passkey.recall_length {
            Some(length) => format!("; finds passkeys up to {} tokens", count(length)),
            None => "; finds no passkeys".into(),
        };
    }
    text + "."
}

/// Name of the folder of a training.
pub fn name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    full.file_name().map_or_else(
        || full.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
