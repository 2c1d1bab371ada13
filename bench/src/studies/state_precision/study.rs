//! What of a study of precision is finished, what is missing, and the folder that keeps it.

use super::StatePrecisionArgs;
use super::config::{Law, PrecisionConfig};
use super::measure::{Measured, measure};
use super::models::config::{ModelRun, SubjectConfig};
use super::models::measure::{ModelMeasured, measure as measure_model};
use super::models::subject::Subject;
use super::page;
use super::report::PrecisionReport;
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use crate::progress::Progress;
use crate::ranks::share_out::Team;
use crate::stop::Stop;
use crate::studies::results::Pages;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spillway_mitigations::state_dtype::StateDtype;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The folder of the runs.
pub(super) const RUNS: &str = "runs";

/// What is kept of a run, and what it was run under.
#[derive(Serialize, Deserialize)]
struct Kept<M> {
    config: PrecisionConfig,
    measured: M,
}

/// What is measured at a time.
#[derive(Clone, Copy)]
pub(super) enum Job<'a> {
    /// A law with a seed.
    Law { place: usize, law: &'a Law, seed: u64 },
    /// A model under a mitigation.
    Model {
        place: usize,
        model: &'a SubjectConfig,
        number: usize,
        run: &'a ModelRun,
    },
}

impl Job<'_> {
    fn file(&self) -> String {
        match self {
            Self::Law { place, seed, .. } => format!("{RUNS}/{}-{seed}.json", place + 1),
            Self::Model { place, number, .. } => format!("{RUNS}/model-{}-{}.json", place + 1, number + 1),
        }
    }

    fn tokens(&self, config: &PrecisionConfig) -> u64 {
        match self {
            Self::Law { .. } => config.tokens,
            Self::Model { model, .. } => config.tokens_of(model),
        }
    }
}

/// What a job gave.
#[derive(Serialize, Deserialize)]
enum Found {
    Law(Measured),
    Model(ModelMeasured),
}

/// What is asked, and what is measured of it so far: for every law its seeds, for every model its runs.
pub(super) struct Study<'a> {
    config: &'a PrecisionConfig,
    dtypes: Vec<StateDtype>,
    measured: Vec<Vec<(u64, Measured)>>,
    models: Vec<Vec<Option<ModelMeasured>>>,
    /// What the paths of the models are from.
    folder: PathBuf,
    command: String,
}

impl<'a> Study<'a> {
    /// With the runs that the folder holds, if it is to be gone on with.
    pub(super) fn read(
        config: &'a PrecisionConfig,
        dtypes: Vec<StateDtype>,
        folder: &OutputFolder,
        args: &StatePrecisionArgs,
    ) -> Result<Self, ProgramError> {
        let named = args.config.as_ref().map(|path| format!("{} ", path.display()));
        let mut study = Self {
            config,
            dtypes,
            measured: vec![Vec::new(); config.laws.len()],
            models: config
                .models
                .iter()
                .map(|model| vec![None; model.runs.len()])
                .collect(),
            folder: folder_of(args),
            command: format!(
                "spillway state-precision {}--out {}",
                named.unwrap_or_default(),
                folder.path().display()
            ),
        };
        for job in jobs(config).iter().filter(|_| folder.is_begun()) {
            let path = folder.file(&job.file());
            let found = match job {
                Job::Law { .. } => kept(&path, config)?.map(Found::Law),
                Job::Model { .. } => kept(&path, config)?.map(Found::Model),
            };
            if let Some(found) = found {
                study.take(job, found);
            }
        }
        Ok(study)
    }

    /// Checks that every model with a missing run loads and can read under its mitigations.
    pub(super) fn check_models(&self) -> Result<(), ProgramError> {
        for (place, model) in self.config.models.iter().enumerate() {
            if self.models[place].iter().all(Option::is_some) {
                continue;
            }
            let subject = Subject::load(model, &self.folder, self.config.seeds[0])?;
            for run in &model.runs {
                subject.chains(run, &self.dtypes)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, job: &Job, found: Found) {
        match (job, found) {
            (Job::Law { place, seed, .. }, Found::Law(found)) => self.measured[*place].push((*seed, found)),
            (Job::Model { place, number, .. }, Found::Model(found)) => {
                self.models[*place][*number] = Some(found);
            }
            (Job::Law { .. }, Found::Model(_)) | (Job::Model { .. }, Found::Law(_)) => {}
        }
    }

    fn is_missing(&self, job: &Job) -> bool {
        match job {
            Job::Law { place, seed, .. } => !self.measured[*place].iter().any(|(found, _)| found == seed),
            Job::Model { place, number, .. } => self.models[*place][*number].is_none(),
        }
    }

    /// Writes the pages from what there is.
    pub(super) fn write(
        &self,
        folder: &mut OutputFolder,
        context: &Context,
    ) -> Result<PrecisionReport, ProgramError> {
        let mut measured = self.measured.clone();
        measured
            .iter_mut()
            .for_each(|runs| runs.sort_by_key(|(seed, _)| *seed));
        let (keys, values) = (self.config.key_dim, self.config.value_dim);
        let bits = |dtype: &StateDtype| dtype.storage.bits(keys, values) as f64 / (keys * values) as f64;
        let names: Vec<(String, f64)> = self
            .dtypes
            .iter()
            .map(|dtype| (dtype.to_string(), bits(dtype)))
            .collect();
        let report = PrecisionReport::of(self.config, &names, &measured, &self.models, self.command.clone());
        let pictures = page::pictures(&report);
        let made = Provenance {
            command: report.command.clone(),
            ..Provenance::here(context.threads())
        };
        let pages = Pages {
            report: &report,
            csv: page::write_csv,
            markdown: page::markdown(&report, &pictures),
            page: page::page(&report, &pictures, &made),
            pictures: &pictures,
        };
        pages.write(folder)?;
        Ok(report)
    }
}

/// What a file keeps of a run, if it is there.
fn kept<M: DeserializeOwned>(path: &Path, config: &PrecisionConfig) -> Result<Option<M>, ProgramError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(ProgramError::file("read", path))?,
    };
    let kept: Kept<M> = serde_json::from_str(&text)
        .map_err(|error| ProgramError::content(path, "a run of this study", error.to_string()))?;
    match kept.config == *config {
        true => Ok(Some(kept.measured)),
        false => Err(ProgramError::usage(
            "--resume",
            "the configuration that the study in the folder was begun with",
            "another: name a new folder, or give --force",
        )),
    }
}

/// Every law with every seed, seed by seed, and then every model with its runs.
fn jobs(config: &PrecisionConfig) -> Vec<Job<'_>> {
    let laws = || config.laws.iter().enumerate();
    let of_laws = config.seeds.iter().flat_map(|seed| {
        laws().map(move |(place, law)| Job::Law {
            place,
            law,
            seed: *seed,
        })
    });
    let models = config.models.iter().enumerate();
    let of_models = models.flat_map(|(place, model)| {
        let runs = model.runs.iter().enumerate();
        runs.map(move |(number, run)| Job::Model {
            place,
            model,
            number,
            run,
        })
    });
    of_laws.chain(of_models).collect()
}

/// What the paths of a configuration are from.
fn folder_of(args: &StatePrecisionArgs) -> PathBuf {
    let parent = args.config.as_ref().and_then(|path| path.parent());
    parent.map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Measures jobs, on whatever rank.
struct Worker<'a> {
    config: &'a PrecisionConfig,
    dtypes: Vec<StateDtype>,
    folder: PathBuf,
    stop: &'a Stop,
    bar: &'a Progress,
}

impl Worker<'_> {
    /// Measures what a job asks for; `None` after a stop.
    fn measure(&self, job: &Job<'_>) -> Result<Option<Found>, ProgramError> {
        let seen = |tokens| self.bar.inc(tokens);
        Ok(match job {
            Job::Law { law, seed, .. } => {
                measure(self.config, &self.dtypes, (law, *seed), self.stop, seen)?.map(Found::Law)
            }
            Job::Model { model, run, .. } => {
                let subject = Subject::load(model, &self.folder, self.config.seeds[0])?;
                let positions = PrecisionConfig::positions(job.tokens(self.config));
                measure_model(&subject, (run, &self.dtypes), positions, self.stop, seen)?.map(Found::Model)
            }
        })
    }
}

/// Runs whatever is not there, as many at a time as there are threads on all ranks; whether all is there.
pub(super) fn go_on(
    config: &PrecisionConfig,
    study: &Mutex<Study<'_>>,
    folder: &Mutex<OutputFolder>,
    stop: &Stop,
    context: &Context,
) -> Result<bool, ProgramError> {
    let jobs = jobs(config);
    let (queue, dtypes, from) = {
        let study = study.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = (0..jobs.len()).filter(|place| study.is_missing(&jobs[*place]));
        (
            missing.collect::<Vec<usize>>(),
            study.dtypes.clone(),
            study.folder.clone(),
        )
    };
    let all: u64 = jobs.iter().map(|job| job.tokens(config)).sum();
    let missing: u64 = queue.iter().map(|place| jobs[*place].tokens(config)).sum();
    let bar = context.progress_from(all - missing, all, "tokens");
    let worker = Worker {
        config,
        dtypes,
        folder: from,
        stop,
        bar: &bar,
    };
    let team = Team {
        context,
        threads: 1,
        stop,
        bar: &bar,
    };
    team.share_out(
        &jobs,
        &queue,
        |job| worker.measure(job),
        |job, found| {
            let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            keep(config, job, &found, &mut folder)?;
            let mut study = study.lock().unwrap_or_else(PoisonError::into_inner);
            study.take(job, found);
            study.write(&mut folder, context)?;
            folder.keep();
            Ok(())
        },
    )
}

/// On a rank other than 0: does what rank 0 hands out.
pub(super) fn help(
    args: &StatePrecisionArgs,
    config: &PrecisionConfig,
    dtypes: Vec<StateDtype>,
    stop: &Stop,
    context: &Context,
) -> Result<(), ProgramError> {
    let bar = context.progress(0, "tokens");
    let worker = Worker {
        config,
        dtypes,
        folder: folder_of(args),
        stop,
        bar: &bar,
    };
    let team = Team {
        context,
        threads: 1,
        stop,
        bar: &bar,
    };
    team.share_out(&jobs(config), &[], |job| worker.measure(job), |_, _| Ok(()))
        .map(drop)
}

fn keep(
    config: &PrecisionConfig,
    job: &Job,
    found: &Found,
    folder: &mut OutputFolder,
) -> Result<(), ProgramError> {
    let config = config.clone();
    match found {
        Found::Law(measured) => folder.write_json(&job.file(), &Kept { config, measured }),
        Found::Model(measured) => folder.write_json(&job.file(), &Kept { config, measured }),
    }
}
