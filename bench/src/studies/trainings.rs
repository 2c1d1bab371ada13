//! The trainings of a study: folders of `spillway train` under `runs/`, seed by seed, each gone on with where it was left.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::{counted, duration};
use crate::progress::Progress;
use crate::ranks::share_out::Team;
use crate::stop::Stop;
use crate::train::record::Record;
use crate::train::task_result::sentence;
use spillway_models::train::run::{CONFIG, LOG, SNAPSHOTS};
use spillway_models::train::{
    Event, Observer, Outcome, Run, SnapshotChoice, TrainConfig, TrainError, Trainer,
};
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Folder of the trainings.
pub const RUNS: &str = "runs";
/// The files that a study of trainings writes.
pub const OWN: &[&str] = &[
    "results.json",
    "results.csv",
    "RESULTS.md",
    "report.html",
    "figures/*.svg",
    "runs/",
];

/// One training of a study.
#[derive(Clone, Debug)]
pub struct Job {
    /// Place of its arm.
    pub arm: usize,
    /// Seed of the training.
    pub seed: u64,
    /// Name of its folder.
    pub name: String,
    /// Configuration of the training, its seed included.
    pub config: TrainConfig,
}

/// The trainings of arms, each a name, its seeds and what they train: every arm's first seed before any second one, so that a study that is
/// stopped early has something of every arm.
pub fn seed_by_seed<'a>(arms: impl IntoIterator<Item = (&'a str, &'a [u64], TrainConfig)>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (arm, (name, seeds, config)) in arms.into_iter().enumerate() {
        for (round, seed) in seeds.iter().enumerate() {
            let job = Job {
                arm,
                seed: *seed,
                name: format!("{}-s{seed}", folder_name(name)),
                config: TrainConfig {
                    seed: *seed,
                    ..config.clone()
                },
            };
            jobs.push((round, job));
        }
    }
    jobs.sort_by_key(|(round, _)| *round);
    jobs.into_iter().map(|(_, job)| job).collect()
}

/// A name in small letters, digits and hyphens.
pub fn folder_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

/// Refuses a study without arms, two arms of one name, and seeds that are none or come twice. `arms` are names and seeds.
///
/// # Errors
/// [`ProgramError::Content`] of the file `path`, in which the arms are a list called `list`.
pub fn expect_arms<'a>(
    path: &Path,
    list: &str,
    arms: impl IntoIterator<Item = (&'a str, &'a [u64])>,
) -> Result<(), ProgramError> {
    let wrong = |expected: String, found: String| Err(ProgramError::content(path, expected, found));
    let mut names = BTreeSet::new();
    for (name, seeds) in arms {
        if folder_name(name).is_empty() {
            return wrong(
                format!("{list}.name with letters or digits in it"),
                format!("{name:?}"),
            );
        }
        if !names.insert(folder_name(name)) {
            let expected = "every arm with a name of its own, in letters and digits";
            return wrong(expected.into(), format!("two of {name:?}"));
        }
        let mut seeds = seeds.to_vec();
        seeds.sort_unstable();
        if seeds.is_empty() || seeds.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong(
                format!("seeds of {name}, at least one and each once"),
                format!("{seeds:?}"),
            );
        }
    }
    match names.is_empty() {
        true => wrong(format!("at least one of [[{list}]]"), "none".into()),
        false => Ok(()),
    }
}

/// The training in `training`, with what `changes` put in the place of its fields; the last of two changes of one field counts.
///
/// # Errors
/// [`ProgramError::Content`] of the study's file `path`, naming the arm, for what is no training.
pub fn changed<'a>(
    path: &Path,
    training: &Path,
    arm: &str,
    changes: impl IntoIterator<Item = (&'a String, &'a toml::Value)>,
) -> Result<TrainConfig, ProgramError> {
    let training = path.parent().unwrap_or(Path::new("")).join(training);
    let changes = changes.into_iter();
    let changes: Vec<(String, toml::Value)> = changes
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    TrainConfig::load_changed(&training, &changes).map_err(|error| not_trained(path, arm, &error))
}

/// Makes the model and reads the data of every arm, so that what cannot be trained is told before the first training.
///
/// # Errors
/// [`ProgramError::Content`] of the study's file `path`, naming the arm.
pub fn try_arms<'a>(
    path: &Path,
    names: impl IntoIterator<Item = &'a str>,
    jobs: &[Job],
) -> Result<(), ProgramError> {
    for (place, name) in names.into_iter().enumerate() {
        if let Some(job) = jobs.iter().find(|job| job.arm == place) {
            Trainer::new(job.config.clone()).map_err(|error| not_trained(path, name, &error))?;
        }
    }
    Ok(())
}

fn not_trained(path: &Path, arm: &str, error: &TrainError) -> ProgramError {
    let expected = "arms that change a training into one that can begin";
    ProgramError::content(path, expected, format!("{arm}: {error}"))
}

/// What the ranks of a study must have in common.
///
/// # Errors
/// [`ProgramError::Training`] for a configuration that TOML cannot hold.
pub fn identity(jobs: &[Job]) -> Result<String, ProgramError> {
    let mut identity = String::new();
    for job in jobs {
        identity += &format!("{}\n{}\n", job.name, job.config.to_toml()?);
    }
    Ok(identity)
}

/// What a study does with its trainings.
pub trait Study: Sync {
    /// Whether a training that is finished needs no [`Study::measure`] any more.
    ///
    /// # Errors
    /// For what was measured and cannot be read.
    fn is_measured(&self, _job: &Job, _folder: &Path) -> Result<bool, ProgramError> {
        Ok(true)
    }

    /// Measures what a finished training has left in `folder`, beside other trainings under way.
    ///
    /// # Errors
    /// Whatever stops it.
    fn measure(&self, _job: &Job, _folder: &Path) -> Result<(), ProgramError> {
        Ok(())
    }

    /// Writes what there is after each training, one at a time.
    ///
    /// # Errors
    /// Those of writing.
    fn write(&self) -> Result<(), ProgramError>;
}

/// The trainings of a study in its folder.
#[derive(Debug)]
pub struct Runs<'a> {
    /// What is trained, in this order.
    pub jobs: &'a [Job],
    /// Path of the study's output folder.
    pub out: &'a Path,
}

impl Runs<'_> {
    /// The folder of a training.
    pub fn folder(&self, job: &Job) -> PathBuf {
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

    /// Trains whatever is not finished and measures it, as many at a time as there are threads on all ranks; `true` when all is done, `false`
    /// after a stop. On a rank other than 0 it does what rank 0 hands out.
    ///
    /// # Errors
    /// The first failure of a training, or of `study`; the others are stopped, and can be resumed.
    pub fn train(&self, context: &Context, stop: &Stop, study: &dyn Study) -> Result<bool, ProgramError> {
        let queue = match context.leads() {
            true => self.queue(study)?,
            false => Vec::new(),
        };
        let tokens = |job: &Job| job.config.steps * job.config.tokens_per_step();
        let all: u64 = queue.iter().map(|place| tokens(&self.jobs[*place])).sum();
        let bar = context.progress(all, "tokens");
        bar.enable_steady_tick(Duration::from_secs(1));
        let begin = Instant::now();
        let done = Mutex::new((0, 0));
        let team = Team {
            context,
            threads: 1,
            stop,
            bar: &bar,
        };
        let work = |job: &Job| {
            let mut watching = Watching {
                stop,
                bar: &bar,
                seen: 0,
            };
            let Some(said) = self.train_one(job, &mut watching)? else {
                return Ok(None);
            };
            study.measure(job, &self.folder(job))?;
            Ok(Some(said))
        };
        let complete = team.share_out(self.jobs, &queue, work, |job, said: String| {
            // Held while the pages are written: two trainings that finish together write one after the other.
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0 += 1;
            done.1 += tokens(job);
            study.write()?;
            let left = begin.elapsed().as_secs_f64() * (all - done.1) as f64 / done.1.max(1) as f64;
            let text = format!(
                "{} of {}: {}: {said} About {} left.",
                done.0,
                queue.len(),
                job.name,
                duration(left)
            );
            bar.suspend(|| context.remark(text));
            Ok(())
        });
        bar.finish_and_clear();
        complete
    }

    /// The places of what is not finished, or not measured.
    fn queue(&self, study: &dyn Study) -> Result<Vec<usize>, ProgramError> {
        let mut queue = Vec::new();
        for (place, job) in self.jobs.iter().enumerate() {
            match self.finished(job)? {
                Some(_) if study.is_measured(job, &self.folder(job))? => self.tidy(job)?,
                _ => queue.push(place),
            }
        }
        Ok(queue)
    }

    /// What the last evaluation found; `None` if the training was stopped.
    fn train_one(&self, job: &Job, watching: &mut Watching<'_>) -> Result<Option<String>, ProgramError> {
        let folder = self.folder(job);
        if let Some(record) = self.finished(job)? {
            // It was stopped between its last step and what is measured.
            self.tidy(job)?;
            watching.step_to(job.config.steps * job.config.tokens_per_step());
            return Ok(Some(said(&record)));
        }
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
        Ok(Some(said(&Record::read(&folder.join(LOG), &job.config)?)))
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

/// What the last evaluation found; of a training on data, its last loss.
fn said(record: &Record) -> String {
    let last = record.steps.last();
    let loss = last.map(|step| format!("loss {:.3} after {}.", step.loss, counted(step.step, "step")));
    let task = record.tasks.last();
    let task = task.map(|event| sentence(event.step, &event.report));
    task.or(loss).unwrap_or_default()
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
