//! `spillway train-table`: one task under several models, initialisations or settings, each with several seeds, as a table.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | the table's configuration, and the trainings that follow from it |
//! | [`delay`] | what is remembered with C by least squares, and nothing trained |
//! | [`report`] | what they give, and what was expected |
//! | [`page`] | the table, its pictures, and the files |

pub mod config;
pub mod delay;
pub mod page;
pub mod report;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::stop::Stop;
use crate::studies::results::{Pages, expect_complete, print_results};
use crate::studies::trainings::{OWN, RUNS, Runs, Study, identity};
use clap::Args;
use config::TableConfig;
use report::TableReport;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Options of `spillway train-table`.
#[derive(Debug, Args)]
#[command(after_help = "\
Trains every arm of a table with every seed, as many at a time as there are threads, and sets what they come to beside chance, beside
published figures, and beside what the table is expected to show.

Writes report.html, RESULTS.md, results.json, results.csv, figures/, after each training, and under runs/ a folder for each as spillway
train writes it. Ctrl-C finishes the steps under way and saves; --resume goes on from there to the same bits, after a kill as well.

Examples:
  spillway train-table bench/configs/tables/digits.toml --out digits
  spillway train-table bench/configs/tables/digits.toml --out digits --resume")]
pub struct TrainTableArgs {
    /// Arms, seeds, and the training that they change
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Folder to write to, new or empty [default: spillway-train-table; spillway-train-table-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a table in it is replaced, trained models included, and all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Go on with the table in the output folder: finished trainings are kept, half ones resumed
    #[arg(long)]
    pub resume: bool,
    /// Stop after this many steps of all trainings together, as Ctrl-C would [default: train to the end]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after: Option<u64>,
}

/// Runs `spillway train-table`.
///
/// # Errors
/// [`ProgramError`] for a configuration that cannot be used, a training that fails, files that cannot be written, and an interruption,
/// after which the table can be resumed.
pub fn run(args: &TrainTableArgs, context: &Context) -> Result<(), ProgramError> {
    let (config, jobs) = TableConfig::load(&args.config)?;
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let identity = Identity::of_configuration(&identity(&jobs)?);
    if let Some(out) = ranks::follow(context, &identity)? {
        stop.has_something_to_keep();
        let runs = Runs {
            jobs: &jobs,
            out: &out,
        };
        return runs.train(context, &stop, &Updated(|| Ok(()))).map(drop);
    }
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let waiting = context.waiting("reading the models and the data");
    config.try_arms(&args.config, &jobs)?;
    drop(waiting);
    let out = folder.path().to_path_buf();
    ranks::lead(context, &identity, &out)?;
    folder.begin()?;
    stop.has_something_to_keep();
    let runs = Runs {
        jobs: &jobs,
        out: &out,
    };
    let command = command(args, &out);
    let (resumed, folder) = (folder.is_begun(), Mutex::new(folder));
    let update = || {
        let report = match &config.delay {
            Some(delays) => delay::report(&config, delays, &args.config, command.clone())?,
            None => TableReport::read(&config, &runs, command.clone())?,
        };
        let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
        write(&report, &mut folder, context)?;
        Ok(report)
    };
    let trained = runs.train(context, &stop, &Updated(|| update().map(drop)));
    if resumed || runs.is_begun() {
        // Whatever is half trained can be gone on with.
        folder.lock().unwrap_or_else(PoisonError::into_inner).keep();
    }
    let complete = trained?;
    let report = update()?;
    folder.lock().unwrap_or_else(PoisonError::into_inner).keep();
    context.print_line(page::text(&report))?;
    let document = json!({ "arms": report.arms, "findings": report.findings });
    let findings = [&report.findings.supported[..], &report.findings.unsupported];
    print_results(context, findings, &out, document)?;
    expect_complete(complete)
}

/// The pages, written after each training; everything in them is in the trainings' logs.
struct Updated<F>(F);

impl<F: Fn() -> Result<(), ProgramError> + Sync> Study for Updated<F> {
    fn write(&self) -> Result<(), ProgramError> {
        (self.0)()
    }
}

impl TrainTableArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a table",
            default: "spillway-train-table",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[RUNS, "results.json"],
        }
    }
}

/// The command that makes this table.
fn command(args: &TrainTableArgs, out: &Path) -> String {
    format!(
        "spillway train-table {} --out {}",
        args.config.display(),
        out.display()
    )
}

/// Writes the study's pages and pictures into its folder.
fn write(report: &TableReport, folder: &mut OutputFolder, context: &Context) -> Result<(), ProgramError> {
    let pictures = page::pictures(report);
    let pages = Pages {
        report,
        csv: page::write_csv,
        markdown: page::markdown(report, &pictures),
        page: page::page(report, &pictures, &report.about.made(context)),
        pictures: &pictures,
    };
    pages.write(folder)
}
