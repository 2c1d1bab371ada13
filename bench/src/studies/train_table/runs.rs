//! The trainings of a table: folders of `spillway train` under `runs/`, each gone on with where it was left.

use super::config::Job;
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::duration;
use crate::progress::Progress;
use crate::stop::Stop;
use crate::studies::side_by_side::side_by_side;
use crate::train::record::Record;
use crate::train::task::sentence;
use spillway_models::train::run::{CONFIG, LOG, SNAPSHOTS};
use spillway_models::train::{Event, Observer, Outcome, Run, SnapshotChoice, TrainConfig, TrainError};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Folder of the trainings.
pub const RUNS: &str = "runs";

/// The trainings of a table in its folder.
#[derive(Debug)]
pub struct Runs<'a> {
    /// What is trained, in this order.
    pub jobs: &'a [Job],
    /// The output folder.
    pub out: &'a Path,
}

impl Runs<'_> {
    fn folder(&self, job: &Job) -> PathBuf {
        self.out.join(RUNS).join(&job.name)
    }

    /// Whether some training has begun.
    pub fn is_begun(&self) -> bool {
        self.jobs.iter().any(|job| self.folder(job).exists())
    }

    /// The log of a training that is finished.
    ///
    /// # Errors
    /// [`ProgramError::Training`] for a training under another configuration, or a log that cannot be read.
    pub fn finished(&self, job: &Job) -> Result<Option<Record>, ProgramError> {
        let folder = self.folder(job);
        if !folder.join(CONFIG).is_file() {
            return Ok(None);
        }
        let differences = TrainConfig::load(&folder.join(CONFIG))?.differences(&job.config);
        if !differences.is_empty() {
            return Err(TrainError::Differs { folder, differences }.into());
        }
        let record = Record::read(&folder.join(LOG), &job.config)?;
        Ok(record.finished.then_some(record))
    }

    /// Trains whatever is not finished, as many at a time as there are threads; `true` when all is, `false` after a stop. `each` is
    /// told of every training that finishes.
    ///
    /// # Errors
    /// The first failure of a training, or of `each`; the others are stopped, and can be resumed.
    pub fn train(
        &self,
        context: &Context,
        stop: &Stop,
        each: impl Fn() -> Result<(), ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let mut queue = Vec::new();
        for job in self.jobs {
            match self.finished(job)? {
                Some(_) => self.tidy(job)?,
                None => queue.push(job),
            }
        }
        let tokens = |job: &&Job| job.config.steps * job.config.tokens_per_step();
        let all: u64 = queue.iter().map(tokens).sum();
        let bar = context.progress(all, "tokens");
        bar.enable_steady_tick(Duration::from_secs(1));
        let begin = Instant::now();
        let done = Mutex::new((0, 0));
        let complete = side_by_side(&queue, context.threads(), stop, |job| {
            let mut watching = Watching {
                stop,
                bar: &bar,
                seen: 0,
            };
            let Some(said) = self.train_one(job, &mut watching)? else {
                return Ok(false);
            };
            // Held while the pages are written: two trainings that finish together write one after the other.
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0 += 1;
            done.1 += tokens(job);
            each()?;
            let left = begin.elapsed().as_secs_f64() * (all - done.1) as f64 / done.1.max(1) as f64;
            let text = format!(
                "{} of {}: {}: {said} About {} left.",
                done.0,
                queue.len(),
                job.name,
                duration(left)
            );
            bar.suspend(|| context.remark(text));
            Ok(true)
        });
        bar.finish_and_clear();
        complete
    }

    /// What the last evaluation found; `None` if the training was stopped.
    fn train_one(&self, job: &Job, watching: &mut Watching<'_>) -> Result<Option<String>, ProgramError> {
        let folder = self.folder(job);
        let failed =
            |error: TrainError| ProgramError::Failed(format!("{}: {}", job.name, ProgramError::from(error)));
        let run = match folder.join(CONFIG).is_file() {
            true => Run::resume(job.config.clone(), &folder, SnapshotChoice::Latest),
            false => Run::create(job.config.clone(), &folder),
        };
        let mut run = run.map_err(failed)?;
        watching.step_to(run.trainer().steps_done() * job.config.tokens_per_step());
        let outcome = run.go_on(watching).map_err(failed)?;
        drop(run);
        if outcome == Outcome::Stopped {
            return Ok(None);
        }
        self.tidy(job)?;
        let record = Record::read(&folder.join(LOG), &job.config)?;
        let last = record.tasks.last();
        Ok(Some(last.map_or_else(String::new, |event| {
            sentence(event.step, &event.report)
        })))
    }

    /// Removes what only an unfinished training needs.
    fn tidy(&self, job: &Job) -> Result<(), ProgramError> {
        let path = self.folder(job).join(SNAPSHOTS);
        match path.exists() {
            true => fs::remove_dir_all(&path).map_err(ProgramError::file("remove", &path)),
            false => Ok(()),
        }
    }
}

struct Watching<'a> {
    stop: &'a Stop,
    bar: &'a Progress,
    /// Tokens that the bar knows of.
    seen: u64,
}

impl Watching<'_> {
    fn step_to(&mut self, tokens: u64) {
        self.bar.inc(tokens.saturating_sub(self.seen));
        self.seen = tokens;
    }
}

impl Observer for Watching<'_> {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        if let Event::Step(step) = event {
            self.step_to(step.tokens);
            self.stop.count(1);
        }
        self.stop.flow()
    }
}
