//! `spillway state-precision`: how precise must a state be?
//!
//! Weighted sums with given decays and delta rules read random tokens, their states stored after every token in types of fewer bits, and are
//! compared with the definition in f64: the error of the state and of the read-out as the position grows, beside what independent roundings
//! would come to. No model takes part; `--state-dtype` of the other commands asks the same of models.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | laws, types, sizes and positions |
//! | [`theory`] | what independent roundings would come to |
//! | [`mod@measure`] | one law under every type, against its f64 truth |
//! | [`report`] | errors over seeds, and up to where a type is safe |
//! | [`page`] | tables, pictures and the files |

pub mod config;
pub mod measure;
pub mod page;
pub mod report;
pub mod theory;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use crate::progress::Progress;
use crate::stop::Stop;
use crate::studies::results::{Pages, expect_complete};
use crate::studies::side_by_side::side_by_side;
use clap::Args;
use config::{Law, PrecisionConfig};
use measure::{Measured, measure};
use report::PrecisionReport;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spillway_mitigations::state_dtype::StateDtype;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The folder of the runs, and everything that is the command's own.
const RUNS: &str = "runs";
const OWN: &[&str] = &[
    "report.html",
    "RESULTS.md",
    "results.json",
    "results.csv",
    "figures/",
    "runs/",
];

/// Options of `spillway state-precision`.
#[derive(Debug, Args)]
#[command(after_help = "\
Weighted sums and delta rules read random tokens with their states stored in types of fewer bits, beside the truth in f64. No model is
needed; spillway generate, diagnose and compare ask the same of a model with --state-dtype.

Writes report.html (errors against position, beside the theory), RESULTS.md, results.json, results.csv and figures/ after each run, and what
each law gave with each seed under runs/. Ctrl-C keeps the finished runs; --resume goes on from there, after a kill as well.

Examples:
  spillway state-precision --out state-precision
  spillway state-precision bench/configs/state-precision/standard.toml --out state-precision --resume")]
pub struct StatePrecisionArgs {
    /// Laws, types of the state, tokens and seeds [default: ten laws under eleven types, a million tokens]
    #[arg(value_name = "CONFIG.toml")]
    pub config: Option<PathBuf>,
    /// Folder to write to, new or empty [default: spillway-state-precision; spillway-state-precision-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a study in it is replaced, and all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Go on with the study in the output folder: finished runs are kept
    #[arg(long)]
    pub resume: bool,
    /// Stop after about this many tokens of all runs together, as Ctrl-C would [default: read everything]
    #[arg(long, value_name = "TOKENS", value_parser = crate::values::parse_tokens)]
    pub stop_after: Option<u64>,
}

/// What is kept of a run, and what it was run under.
#[derive(Serialize, Deserialize)]
struct Kept {
    config: PrecisionConfig,
    measured: Measured,
}

/// A law with a seed.
struct Job<'a> {
    place: usize,
    law: &'a Law,
    seed: u64,
}

impl Job<'_> {
    fn file(&self) -> String {
        format!("{RUNS}/{}-{}.json", self.place + 1, self.seed)
    }
}

/// Runs `spillway state-precision`.
///
/// # Errors
/// [`ProgramError`] for a configuration that cannot be used, files that cannot be read or written, and an interruption, after which the study
/// can be resumed.
pub fn run(args: &StatePrecisionArgs, context: &Context) -> Result<(), ProgramError> {
    let config = PrecisionConfig::load(args.config.as_deref())?;
    let dtypes = config
        .dtypes()
        .map_err(|(expected, found)| ProgramError::usage("types", expected, found))?;
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let study = Study::read(&config, dtypes, &folder, args)?;
    folder.begin()?;
    stop.has_something_to_keep();
    let out = folder.path().to_path_buf();
    let (folder, study) = (Mutex::new(folder), Mutex::new(study));
    let complete = go_on(&config, &study, &folder, &stop, context)?;
    let mut folder = folder.into_inner().unwrap_or_else(PoisonError::into_inner);
    let study = study.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report = study.write(&mut folder, context)?;
    folder.keep();
    context.print_line(page::text(&report))?;
    let files = ["report.html", "RESULTS.md", "results.json", "results.csv"];
    context.print_folder(
        &out,
        &files,
        json!({ "laws": report.laws, "findings": report.findings }),
    )?;
    context.remark(format_args!("\nreport: {}", out.join("report.html").display()));
    expect_complete(complete)
}

impl StatePrecisionArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a study of precision",
            default: "spillway-state-precision",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[RUNS, "results.json"],
        }
    }
}

/// Runs whatever is not there, as many at a time as there are threads; whether all is there.
fn go_on(
    config: &PrecisionConfig,
    study: &Mutex<Study<'_>>,
    folder: &Mutex<OutputFolder>,
    stop: &Stop,
    context: &Context,
) -> Result<bool, ProgramError> {
    let (queue, dtypes) = {
        let study = study.lock().unwrap_or_else(PoisonError::into_inner);
        (study.missing(), study.dtypes.clone())
    };
    let all = (config.laws.len() * config.seeds.len()) as u64 * config.tokens;
    let done = all - queue.len() as u64 * config.tokens;
    let bar: Progress = context.progress_from(done, all, "tokens");
    side_by_side(&queue, context.threads(), stop, |job| {
        let measured = measure(config, &dtypes, (job.law, job.seed), stop, |tokens| {
            bar.inc(tokens)
        })?;
        let Some(measured) = measured else {
            return Ok(false);
        };
        let kept = Kept {
            config: config.clone(),
            measured,
        };
        let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.write_json(&job.file(), &kept)?;
        let mut study = study.lock().unwrap_or_else(PoisonError::into_inner);
        study.measured[job.place].push((job.seed, kept.measured));
        study.write(&mut folder, context)?;
        folder.keep();
        Ok(true)
    })
}

/// What is asked, and what is measured of it so far: for every law, its seeds.
struct Study<'a> {
    config: &'a PrecisionConfig,
    dtypes: Vec<StateDtype>,
    measured: Vec<Vec<(u64, Measured)>>,
    command: String,
}

impl<'a> Study<'a> {
    /// With the runs that the folder holds, if it is to be gone on with.
    fn read(
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
            command: format!(
                "spillway state-precision {}--out {}",
                named.unwrap_or_default(),
                folder.path().display()
            ),
        };
        let all = study.missing();
        for job in all.iter().filter(|_| folder.is_begun()) {
            let path = folder.file(&job.file());
            let text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text.map_err(ProgramError::file("read", &path))?,
            };
            let kept: Kept = serde_json::from_str(&text)
                .map_err(|error| ProgramError::content(&path, "a run of this study", error.to_string()))?;
            if kept.config != *config {
                return Err(ProgramError::usage(
                    "--resume",
                    "the configuration that the study in the folder was begun with",
                    "another: name a new folder, or give --force",
                ));
            }
            study.measured[job.place].push((job.seed, kept.measured));
        }
        Ok(study)
    }

    /// The laws with their seeds that are not measured, seed by seed.
    fn missing(&self) -> Vec<Job<'a>> {
        let laws = || self.config.laws.iter().enumerate();
        let jobs = self.config.seeds.iter().flat_map(|seed| {
            laws().map(move |(place, law)| Job {
                place,
                law,
                seed: *seed,
            })
        });
        jobs.filter(|job| !self.measured[job.place].iter().any(|(seed, _)| *seed == job.seed))
            .collect()
    }

    /// Writes the pages from what there is.
    fn write(&self, folder: &mut OutputFolder, context: &Context) -> Result<PrecisionReport, ProgramError> {
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
        let report = PrecisionReport::of(self.config, &names, &measured, self.command.clone());
        let pictures = page::pictures(&report);
        let made = crate::kit::provenance::Provenance {
            command: report.command.clone(),
            ..crate::kit::provenance::Provenance::here(context.threads())
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
