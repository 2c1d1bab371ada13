//! All trainings of a sweep: as many at a time as there are threads on all ranks, one thread each, so that a result is the same bits whatever runs
//! beside it.

use super::config::{Plan, SweepConfig};
use super::report::{CapacityReport, Record, Setting};
use super::result::RunResult;
use super::training::{RESULT, TrainingFiles, Watch};
use super::{figures, findings, page, pairs};
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::duration;
use crate::kit::provenance::{machine, today};
use crate::output::{OutputFolder, write_json};
use crate::progress::Progress;
use crate::ranks::share_out::Team;
use crate::stop::Stop;
use crate::studies::results::write_figures;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Folder of the trainings.
pub const RUNS: &str = "runs";
const RECORD: &str = "sweep.json";

/// A sweep and where it is.
#[derive(Debug)]
pub struct Sweep<'a> {
    /// Configuration of the sweep: what is trained and evaluated.
    pub config: &'a SweepConfig,
    /// File of the sweep's configuration.
    pub path: &'a Path,
    /// Content of that file.
    pub text: &'a str,
    /// Path of the sweep's output folder.
    pub out: &'a Path,
    /// The command that makes it.
    pub command: String,
}

/// `sweep.json`: what is known of the trainings beside their results.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    record: Record,
}

/// What the workers share.
struct Shared<'a> {
    sweep: &'a Sweep<'a>,
    context: &'a Context,
    stop: &'a Stop,
    bar: Progress,
    /// Number of trainings that are to be done.
    count: usize,
    done: Mutex<Done>,
}

struct Done {
    record: Record,
    before: f64,
    begin: Instant,
    finished: usize,
    work: f64,
    all_work: f64,
}

impl Sweep<'_> {
    fn files(&self, plan: &Plan) -> TrainingFiles<'_> {
        TrainingFiles {
            config: self.config,
            path: self.path,
            folder: self.out.join(RUNS).join(&plan.name),
        }
    }

    /// Every result there is, in the order of the plan.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for one of other settings.
    pub fn results(&self) -> Result<Vec<RunResult>, ProgramError> {
        let plans = self.config.plans();
        let found = plans.iter().map(|plan| self.files(plan).finished(plan));
        Ok(found
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Trains whatever is not done yet; `true` when all is done, `false` after a stop. On a rank other than 0 it does what rank 0 hands out.
    ///
    /// # Errors
    /// The first failure of a training; the others are stopped, and can be resumed.
    pub fn train(&self, context: &Context, stop: &Stop) -> Result<bool, ProgramError> {
        let plans = self.config.plans();
        let queue = match context.leads() {
            true => self.queue(&plans)?,
            false => Vec::new(),
        };
        let queued = || queue.iter().map(|place| &plans[*place]);
        let threads = context.threads() * context.ranks().map_or(1, |ranks| ranks.size());
        let workers = threads.clamp(1, queue.len().max(1));
        let mut record = self.record()?.unwrap_or_else(|| Record {
            machine: machine(),
            date: today(),
            ..Record::default()
        });
        record.workers = record.workers.max(workers);
        let all_work = queued().map(|plan| self.work(plan)).sum::<f64>();
        let bar = context.progress(queued().map(|plan| self.tokens(plan)).sum(), "tokens");
        bar.enable_steady_tick(Duration::from_secs(1));
        let shared = Shared {
            sweep: self,
            context,
            stop,
            bar,
            done: Mutex::new(Done {
                before: record.seconds,
                record,
                begin: Instant::now(),
                finished: 0,
                work: 0.0,
                all_work,
            }),
            count: queue.len(),
        };
        let team = Team {
            context,
            threads: 1,
            stop,
            bar: &shared.bar,
        };
        let finish = |plan: &Plan, said: Said| {
            shared.finish(plan, &said);
            Ok(())
        };
        let complete = team.share_out(&plans, &queue, |plan| shared.work_on(plan), finish);
        shared.bar.finish_and_clear();
        let mut done = shared.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.record.seconds = done.before + done.begin.elapsed().as_secs_f64();
        if shared.count > 0 {
            self.save(&done.record)?;
        }
        complete
    }

    /// The places of what is not done.
    fn queue(&self, plans: &[Plan]) -> Result<Vec<usize>, ProgramError> {
        let mut queue = Vec::new();
        for (place, plan) in plans.iter().enumerate() {
            match self.files(plan).finished(plan)? {
                Some(_) => self.files(plan).tidy()?,
                None => queue.push(place),
            }
        }
        Ok(queue)
    }

    fn tokens(&self, plan: &Plan) -> u64 {
        let legs = self.config.legs(plan);
        let tokens = legs.iter().map(|leg| {
            let config = self.config.train_config(self.path, plan, leg, None);
            // The configuration was checked when it was read.
            config.map_or(0, |config| config.steps * config.tokens_per_step())
        });
        tokens.sum()
    }

    /// How long a training takes beside others, roughly: by token what grows with the width and what grows with the state.
    fn work(&self, plan: &Plan) -> f64 {
        let (state, width) = (&plan.state, plan.state.model_dim as f64);
        let weights = 6.0 * width + 4.0 * state.d_state as f64;
        self.tokens(plan) as f64 * (state.layers as f64 * width * weights + 256.0 * width)
    }

    /// Whether some training has come so far that it can be gone on with.
    pub fn is_begun(&self) -> bool {
        let plans = self.config.plans();
        plans.iter().any(|plan| self.files(plan).is_begun())
    }

    /// Removes what trainings have left that have not begun.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn clear(&self) -> Result<(), ProgramError> {
        let runs = self.out.join(RUNS);
        if runs.exists() {
            fs::remove_dir_all(&runs).map_err(ProgramError::file("remove", &runs))?;
        }
        let record = self.out.join(RECORD);
        if record.exists() {
            fs::remove_file(&record).map_err(ProgramError::file("remove", &record))?;
        }
        Ok(())
    }

    fn record(&self) -> Result<Option<Record>, ProgramError> {
        let path = self.out.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let text = spillway_models::input::read_text(&path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", &path))?;
        let saved: Saved = serde_json::from_str(&text)
            .map_err(|error| ProgramError::content(&path, "the record of a sweep", error.to_string()))?;
        Ok(Some(saved.record))
    }

    fn save(&self, record: &Record) -> Result<(), ProgramError> {
        let record = record.clone();
        write_json(&self.out.join(RECORD), &Saved { record })
    }

    /// Draws and writes everything from the results there are.
    ///
    /// # Errors
    /// [`ProgramError`] for a file that cannot be written.
    pub fn write(&self, folder: &mut OutputFolder) -> Result<CapacityReport, ProgramError> {
        let setting = Setting {
            name: self.config.name.clone(),
            command: self.command.clone(),
            configuration: self.text.into(),
            planned: self.config.plans().len(),
            tasks: self.config.task_settings(),
            collapse_ratio: self.config.collapse_ratio,
            resampling: self.config.bootstrap,
            record: self.record()?,
        };
        let report = findings::report(setting, self.results()?);
        let pictures = figures::pictures(&report);
        write_figures(folder, pictures.iter().map(|picture| &picture.1))?;
        folder.write_json("results.json", &report)?;
        folder.write("results.csv", |file| page::write_csv(&report.runs, file))?;
        if !report.pairs.is_empty() {
            folder.write("pairs.csv", |file| pairs::page::write_csv(&report.runs, file))?;
        }
        let mut write = |name: &str, text: String| folder.write(name, |file| file.write_all(text.as_bytes()));
        write("report.html", page::page(&report, &pictures))?;
        write("RESULTS.md", page::markdown(&report, &pictures))?;
        Ok(report)
    }
}

/// What is said of a training that is done.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    outcome: String,
    seconds: f64,
}

impl Shared<'_> {
    /// Trains; `None` if that was stopped.
    fn work_on(&self, plan: &Plan) -> Result<Option<Said>, ProgramError> {
        let mut watch = Watching {
            stop: self.stop,
            bar: &self.bar,
            tokens: self.sweep.config.tokens_per_step,
        };
        let result = self.sweep.files(plan).train(plan, &mut watch)?;
        Ok(result.map(|result| Said {
            seconds: result.seconds.training + result.seconds.evaluation,
            outcome: outcome(&result),
        }))
    }

    fn finish(&self, plan: &Plan, said: &Said) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.finished += 1;
        done.work += self.sweep.work(plan);
        let elapsed = done.begin.elapsed().as_secs_f64();
        done.record.seconds = done.before + elapsed;
        if let Some(load) = load() {
            done.record.load_sum += load;
            done.record.load_samples += 1;
        }
        // The record is for the page only: a failure to write it is met again, and reported, at the end.
        let _ = self.sweep.save(&done.record);
        let left = elapsed * (done.all_work - done.work).max(0.0) / done.work.max(f64::MIN_POSITIVE);
        let text = format!(
            "{} of {}: {}: {}, {:.0} s; about {} left",
            done.finished,
            self.count,
            plan.name,
            said.outcome,
            said.seconds,
            duration(left),
        );
        self.bar.suspend(|| self.context.remark(text));
    }
}

fn outcome(result: &RunResult) -> String {
    let mut parts = vec![format!("loss {:.3}", result.train_loss)];
    if let Some(forgetting) = &result.forgetting {
        parts.push(format!(
            "beyond T {:.2} x loss, {:.2} x perplexity",
            forgetting.loss_ratio(),
            forgetting.perplexity_ratio()
        ));
    }
    if let Some(recall) = &result.recall {
        parts.push(match recall.recalled() {
            Some(length) => format!("passkeys found up to {length} tokens"),
            None => "passkeys not found".into(),
        });
    }
    if let Some(pairs) = &result.pairs {
        let trained = pairs
            .cells
            .iter()
            .filter(|cell| cell.length == result.train_length);
        let shares = trained.map(|cell| format!("{} {:.0} %", cell.pairs, 100.0 * cell.accuracy()));
        let shares: Vec<String> = shares.collect();
        parts.push(format!(
            "pairs answered at the training length: {}",
            shares.join(", ")
        ));
    }
    parts.join(", ")
}

struct Watching<'a> {
    stop: &'a Stop,
    bar: &'a Progress,
    tokens: u64,
}

impl Watch for Watching<'_> {
    fn step(&mut self) -> bool {
        self.bar.inc(self.tokens);
        self.stop.count(1);
        self.stop.is_asked()
    }
}

/// The machine's load over the last minute.
fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The results in a folder whose settings are not looked at: whether there are any.
pub fn has_results(out: &Path) -> bool {
    let runs = fs::read_dir(out.join(RUNS));
    let entries = runs.into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join(RESULT))
        .any(|path: PathBuf| path.exists())
}
