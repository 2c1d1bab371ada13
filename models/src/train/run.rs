//! A training on disk: a folder from which it goes on to the same bits after any interruption.
//!
//! | | what it holds |
//! |---|---|
//! | `config.toml` | the configuration, every default written out |
//! | `log.jsonl` | a line for each step and each evaluation |
//! | `snapshots/` | everything that the next step depends on, and the snapshot before |
//! | `checkpoint/` | the model in its published layout, as of the last evaluation or the end; a task's encoder and head in `task.safetensors` |
//!
//! Every file is whole or absent at every moment. The folder appears with a snapshot of step 0 in it. A snapshot of step s is
//! written when everything due at s is done and logged; resuming from it cuts off what the log has beyond s.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::config::TrainConfig;
use super::data::DataConfig;
use super::error::TrainError;
use super::evaluator::Evaluator;
use super::log::{EndEvent, EvaluationEvent, Event, Log, StartEvent, TaskEvent};
pub use super::model_config::TASK;
use super::snapshot::{SnapshotChoice, Snapshots, config_hash};
use super::trainer::Trainer;
use crate::checkpoint::WriteDtype;
use crate::output::{self, FolderLock};
use crate::output::{NewFile, NewFolder};
use crate::parallel::{Communicator, or_fail};
use crate::tokenizer;

/// Name of the configuration in a run folder.
pub const CONFIG: &str = "config.toml";
/// Name of the log in a run folder.
pub const LOG: &str = "log.jsonl";
/// Name of the folder of snapshots in a run folder.
pub const SNAPSHOTS: &str = "snapshots";
/// Name of the published model in a run folder.
pub const CHECKPOINT: &str = "checkpoint";

/// Hears what happens in a run, and may stop it.
pub trait Observer {
    /// An event that has been logged; [`ControlFlow::Break`] stops the run after the step under way, with a snapshot.
    fn event(&mut self, event: &Event) -> ControlFlow<()>;

    /// The model begins to be evaluated after `step` steps.
    fn evaluating(&mut self, _step: u64) {}
}

/// Hears nothing, stops nothing.
impl Observer for () {
    fn event(&mut self, _: &Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was stopped, and can be resumed.
    Stopped,
}

/// A training and its folder.
pub struct Run {
    trainer: Trainer,
    evaluator: Option<Evaluator>,
    folder: PathBuf,
    log: Log,
    snapshots: Snapshots,
    /// Whether step 0 is still to be evaluated.
    unevaluated: bool,
    begin: Instant,
    /// Held as long as the run is open; the system gives it back whatever becomes of the process.
    _lock: FolderLock,
}

impl Run {
    /// Begins a training in the folder `folder`, which is new or empty.
    ///
    /// # Errors
    /// [`TrainError::Exists`], or whatever is wrong with the configuration and what it names; there is then no folder.
    pub fn create(config: TrainConfig, folder: &Path) -> Result<Self, TrainError> {
        Self::create_on(None, config, folder)
    }

    /// As [`Run::create`] on rank 0 of several; the others [`follow`].
    ///
    /// # Errors
    /// As there, and as [`Trainer::on`].
    pub fn create_on(ranks: Ranks, config: TrainConfig, folder: &Path) -> Result<Self, TrainError> {
        if !output::is_free(folder) {
            return Err(TrainError::Exists(folder.to_path_buf()));
        }
        Self::begin(ranks, config, folder, || {
            NewFolder::create(folder).map_err(TrainError::from)
        })
    }

    /// As [`Run::create`] in a folder that may hold something: a training in it is replaced, with the files `beside` it that belong
    /// to it, and all others stay.
    ///
    /// # Errors
    /// As there, but for [`TrainError::Exists`]; [`TrainError::Busy`] when another process trains there.
    pub fn create_over(config: TrainConfig, folder: &Path, beside: &[&str]) -> Result<Self, TrainError> {
        Self::create_over_on(None, config, folder, beside)
    }

    /// As [`Run::create_over`] on rank 0 of several; the others [`follow`].
    ///
    /// # Errors
    /// As there, and as [`Trainer::on`].
    pub fn create_over_on(
        ranks: Ranks,
        config: TrainConfig,
        folder: &Path,
        beside: &[&str],
    ) -> Result<Self, TrainError> {
        Self::begin(ranks, config, folder, || {
            let new = NewFolder::replace(folder)?;
            // First that by which the training is known.
            for name in [CONFIG, LOG, SNAPSHOTS, CHECKPOINT].iter().chain(beside) {
                let path = folder.join(name);
                let removed = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                match removed {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(TrainError::file("remove", &path)(error));
                    }
                    _ => {}
                }
            }
            Ok(new)
        })
    }

    fn begin(
        ranks: Ranks,
        config: TrainConfig,
        folder: &Path,
        new: impl FnOnce() -> Result<NewFolder, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut trainer = trainer(ranks, config)?;
        let evaluator = Evaluator::open(trainer.config(), trainer.tokenizer())?;
        let new = new()?;
        let path = new.temporary_path();
        let config = trainer.config().to_toml()?;
        fs::write(path.join(CONFIG), config).map_err(TrainError::file("write", folder))?;
        let mut log = Log::create(&path.join(LOG))?;
        log.append(&Event::Start(start(&trainer)?))?;
        log.sync()?;
        trainer.save(&Snapshots::open(&path.join(SNAPSHOTS))?)?;
        new.commit()?;
        trainer.share_snapshot(None)?;
        Self::open(trainer, evaluator, folder, FolderLock::acquire(folder)?)
    }

    /// Goes on with the training in `folder`, from one of its snapshots.
    ///
    /// # Errors
    /// [`TrainError::NotARun`], [`TrainError::Busy`], [`TrainError::Differs`] for another configuration,
    /// [`TrainError::Snapshot`] for a broken snapshot.
    pub fn resume(config: TrainConfig, folder: &Path, from: SnapshotChoice) -> Result<Self, TrainError> {
        Self::resume_on(None, config, folder, from)
    }

    /// As [`Run::resume`] on rank 0 of several, however many there were before; the others [`follow`].
    ///
    /// # Errors
    /// As there, and as [`Trainer::on`].
    pub fn resume_on(
        ranks: Ranks,
        config: TrainConfig,
        folder: &Path,
        from: SnapshotChoice,
    ) -> Result<Self, TrainError> {
        let path = folder.join(CONFIG);
        if !path.is_file() {
            return Err(TrainError::NotARun {
                folder: folder.to_path_buf(),
                expected: CONFIG,
            });
        }
        let lock = FolderLock::acquire(folder)?;
        let differences = TrainConfig::load(&path)?.differences(&config);
        if !differences.is_empty() {
            return Err(TrainError::Differs {
                folder: folder.to_path_buf(),
                differences,
            });
        }
        let mut trainer = trainer(ranks, config)?;
        let evaluator = Evaluator::open(trainer.config(), trainer.tokenizer())?;
        let snapshots = Snapshots::open(&folder.join(SNAPSHOTS))?;
        let (snapshot, path) = snapshots.read(from, &trainer.config().identity()?)?;
        trainer.restore(&snapshot, &path)?;
        trainer.share_snapshot(Some(&snapshot))?;
        Self::open(trainer, evaluator, folder, lock)
    }

    fn open(
        trainer: Trainer,
        evaluator: Option<Evaluator>,
        folder: &Path,
        lock: FolderLock,
    ) -> Result<Self, TrainError> {
        // What a process that was killed has left half-written.
        output::sweep(folder);
        output::sweep(&folder.join(CHECKPOINT));
        let (log, events) = Log::resume(&folder.join(LOG), trainer.steps_done())?;
        let is_one = |event: &Event| matches!(event, Event::Evaluation(_) | Event::Task(_));
        let evaluated = events.iter().any(is_one);
        Ok(Self {
            unevaluated: trainer.steps_done() == 0 && !evaluated,
            trainer,
            evaluator,
            folder: folder.to_path_buf(),
            log,
            snapshots: Snapshots::open(&folder.join(SNAPSHOTS))?,
            begin: Instant::now(),
            _lock: lock,
        })
    }

    /// The training under way.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Trains until all steps are done or `observer` stops it.
    ///
    /// # Errors
    /// [`TrainError`]; the last snapshot is then still there.
    pub fn go_on(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let (steps, every) = (self.trainer.config().steps, self.trainer.config().snapshot_every);
        let config = self.trainer.config();
        let of_task = config.task.as_ref().and_then(|task| task.evaluation.every);
        let evaluated_every = config
            .evaluation
            .as_ref()
            .map(|evaluation| evaluation.every)
            .or(of_task);
        let mut stopped = self.unevaluated && self.evaluate(observer)?;
        while self.trainer.steps_done() < steps && !stopped {
            let event = Event::Step(self.trainer.step()?);
            stopped |= self.report(event, observer)?;
            let (step, last) = (self.trainer.steps_done(), self.trainer.steps_done() == steps);
            if last || evaluated_every.is_some_and(|every| step.is_multiple_of(every)) {
                stopped |= self.evaluate(observer)?;
                self.save_checkpoint()?;
            }
            if last || stopped || step.is_multiple_of(every) {
                // What the snapshot stands for must not be lost when it is there.
                self.log.sync()?;
                self.trainer.save(&self.snapshots)?;
            }
        }
        self.trainer.end()?;
        if self.trainer.steps_done() < steps {
            return Ok(Outcome::Stopped);
        }
        self.log.append(&Event::End(EndEvent {
            step: steps,
            finished: true,
            seconds: self.begin.elapsed().as_secs_f64(),
        }))?;
        self.log.sync()?;
        Ok(Outcome::Finished)
    }

    /// Logs an event and tells it; whether to stop.
    fn report(&mut self, event: Event, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        self.log.append(&event)?;
        Ok(observer.event(&event).is_break())
    }

    /// Evaluates the model as it is now, where an evaluation is asked for; whether to stop.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        let step = self.trainer.steps_done();
        self.unevaluated = false;
        if self.trainer.config().task.is_some() {
            return self.evaluate_task(observer);
        }
        let Some(evaluator) = &self.evaluator else {
            return Ok(false);
        };
        let begin = Instant::now();
        observer.evaluating(step);
        let report = evaluator.evaluate(&self.trainer.model()?)?;
        let seconds = begin.elapsed().as_secs_f64();
        let event = EvaluationEvent {
            step,
            seconds,
            report,
        };
        self.report(Event::Evaluation(event), observer)
    }

    fn evaluate_task(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        let (step, begin) = (self.trainer.steps_done(), Instant::now());
        observer.evaluating(step);
        let Some(report) = self.trainer.evaluate_task()? else {
            return Ok(false);
        };
        let seconds = begin.elapsed().as_secs_f64();
        let event = TaskEvent {
            step,
            seconds,
            report,
        };
        self.report(Event::Task(event), observer)
    }

    /// Writes the model in its published layout, with its tokenizer, and beside it what a task has added.
    fn save_checkpoint(&self) -> Result<(), TrainError> {
        let (config, folder) = (self.trainer.config(), self.folder.join(CHECKPOINT));
        let length = Some(config.length as u64);
        self.trainer
            .parameters()
            .save_over(&folder, WriteDtype::F32, length)?;
        self.trainer.parameters().save_added(&folder.join(TASK))?;
        if let Some(audio) = config.data.as_ref().and_then(DataConfig::audio) {
            let written = audio.format().write(&folder);
            written.map_err(|error| TrainError::data("data", error.into()))?;
        }
        if let Some(from) = config.model.tokenizer_file(config.base())? {
            let mut to = NewFile::create(&folder.join(tokenizer::name_in_folder(&from)))?;
            File::open(&from)
                .and_then(|mut file| io::copy(&mut file, to.writer()))
                .map_err(TrainError::file("copy", &from))?;
            to.commit()?;
        }
        Ok(())
    }
}

/// The ranks of a training, where there are several.
pub type Ranks = Option<Arc<dyn Communicator>>;

fn trainer(ranks: Ranks, config: TrainConfig) -> Result<Trainer, TrainError> {
    match ranks {
        None => Trainer::new(config),
        Some(ranks) => Trainer::new_on(ranks, config),
    }
}

/// Trains on a rank other than 0, as long as rank 0 trains in a [`Run`] of the same configuration.
///
/// # Errors
/// As [`Trainer::follow`].
pub fn follow(ranks: Arc<dyn Communicator>, config: TrainConfig) -> Result<(), TrainError> {
    let follow = || {
        let mut trainer = Trainer::new_on(Arc::clone(&ranks), config)?;
        trainer.share_snapshot(None)?;
        trainer.follow()
    };
    or_fail(ranks.as_ref(), follow())
}

/// The first line of the log.
fn start(trainer: &Trainer) -> Result<StartEvent, TrainError> {
    let (parameters, config) = (trainer.parameters(), trainer.config());
    let sizes = parameters
        .list()
        .iter()
        .map(|parameter| parameter.value.dims()[0] as u64);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(StartEvent {
        steps: config.steps,
        architecture: parameters.layout().architecture.into(),
        layout: parameters.layout().name.into(),
        parameters: sizes.sum(),
        vocab_size: trainer.tokenizer().vocab_size() as u64,
        tokenizer: trainer.tokenizer().name().into(),
        tokens_per_step: config.tokens_per_step(),
        config_hash: config_hash(&config.identity()?),
        version: env!("CARGO_PKG_VERSION").into(),
        started: now.map_or(0, |now| now.as_secs()),
    })
}
