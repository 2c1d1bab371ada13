//! `spillway frontier`: how much do models recall, beside the bytes of their state and their speed?
//!
//! Several models, each in several sizes of its state and with several seeds, are trained on a synthetic task of recall and asked what they
//! have not seen: alone, and under mitigations, whose price in recall is then seen seed by seed. Source: Arora et al., *Simple linear attention
//! language models balance the recall-throughput tradeoff* (2402.18668), figure 2.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | models, sizes and questions, and the trainings that follow from them |
//! | [`bounds`] | what guessing gets, and how many bytes no memory can do without |
//! | [`measure`] | what a trained model answers, under each mitigation, and how fast it is |
//! | [`report`], [`findings`] | the points, and what they support |
//! | [`figures`], [`page`] | pictures, tables and the files |

pub mod bounds;
pub mod config;
pub mod figures;
pub mod findings;
pub mod measure;
pub mod page;
pub mod report;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::stop::Stop;
use crate::studies::results::{Pages, expect_complete, print_results};
use crate::studies::trainings::{Job, OWN, RUNS, Runs, Study, identity};
use clap::Args;
use config::FrontierConfig;
use measure::{Asking, measured_speed, speed};
use report::{FrontierReport, is_timed};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Options of `spillway frontier`.
#[derive(Debug, Args)]
#[command(after_help = "\
Trains every model in every size of its state with every seed on a synthetic task, as many at a time as there are threads, and asks each what
it was not trained on, alone and under every mitigation of the configuration. Then the speed of each model and size is measured, with all threads.

Writes report.html (accuracy against bytes of state, share of trainings that solve it, accuracy against speed), RESULTS.md, results.json,
results.csv, figures/, after each training, and under runs/ a folder for each as spillway train writes it, with its answers.json. Ctrl-C
finishes the steps under way and saves; --resume goes on from there to the same bits, after a kill as well; speeds are measured once.

Examples:
  spillway frontier bench/configs/frontier/small.toml --out frontier
  spillway frontier bench/configs/frontier/price.toml --out price
  spillway frontier bench/configs/frontier/disjointness.toml --out disjointness --resume")]
pub struct FrontierArgs {
    /// Models, sizes, seeds, the training that they change, and what is asked
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Folder to write to, new or empty [default: spillway-frontier; spillway-frontier-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a frontier in it is replaced, trained models included, and all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Go on with the frontier in the output folder: finished trainings are kept, half ones resumed
    #[arg(long)]
    pub resume: bool,
    /// Stop after this many steps of all trainings together, as Ctrl-C would [default: train to the end]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after: Option<u64>,
}

/// Runs `spillway frontier`.
///
/// # Errors
/// [`ProgramError`] for a configuration that cannot be used, a training that fails, files that cannot be written, and an interruption,
/// after which the frontier can be resumed.
pub fn run(args: &FrontierArgs, context: &Context) -> Result<(), ProgramError> {
    let (config, jobs) = FrontierConfig::load(&args.config)?;
    let asking = Asking::new(&config, &args.config)?;
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let identity = Identity::of_configuration(&identity(&jobs)?);
    if let Some(out) = ranks::follow(context, &identity)? {
        stop.has_something_to_keep();
        let runs = Runs {
            jobs: &jobs,
            out: &out,
        };
        return runs.train(context, &stop, &Helping(&asking)).map(drop);
    }
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let waiting = context.waiting("trying out the models");
    config.try_arms(&args.config, &jobs)?;
    drop(waiting);
    let out = folder.path().to_path_buf();
    ranks::lead(context, &identity, &out)?;
    folder.begin()?;
    stop.has_something_to_keep();
    let frontier = Frontier {
        config: &config,
        runs: Runs {
            jobs: &jobs,
            out: &out,
        },
        asking: &asking,
        context,
        command: format!(
            "spillway frontier {} --out {}",
            args.config.display(),
            out.display()
        ),
        resumed: folder.is_begun(),
        folder: Mutex::new(folder),
    };
    let trained = frontier.runs.train(context, &stop, &frontier);
    if frontier.resumed || frontier.runs.is_begun() {
        // Whatever is half trained can be gone on with.
        frontier.keep();
    }
    let complete = trained? && frontier.measure_speeds(&stop)?;
    let report = frontier.update()?;
    frontier.keep();
    context.print_line(page::text(&report))?;
    let document = json!({ "points": report.points, "findings": report.findings });
    let findings = [&report.findings.supported[..], &report.findings.unsupported];
    print_results(context, findings, &out, document)?;
    expect_complete(complete)
}

impl FrontierArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a frontier",
            default: "spillway-frontier",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[RUNS, "results.json"],
        }
    }
}

/// A frontier in its folder.
struct Frontier<'a> {
    config: &'a FrontierConfig,
    runs: Runs<'a>,
    asking: &'a Asking<'a>,
    context: &'a Context,
    command: String,
    resumed: bool,
    folder: Mutex<OutputFolder>,
}

impl Frontier<'_> {
    /// Writes the pages from what there is.
    fn update(&self) -> Result<FrontierReport, ProgramError> {
        let about = (self.command.clone(), self.context.threads());
        let mut report = FrontierReport::read(self.config, &self.runs, self.asking, about)?;
        report.findings = findings::findings(&report);
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        write(&report, &mut folder, self.context)?;
        Ok(report)
    }

    fn keep(&self) {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner).keep();
    }

    /// Measures what has not been, one model after another with all threads; whether all is measured.
    fn measure_speeds(&self, stop: &Stop) -> Result<bool, ProgramError> {
        let (config, threads) = (self.config.speed, self.context.threads());
        if config.prefill == 0 && config.decode == 0 {
            return Ok(true);
        }
        let arms = self.config.arms();
        let timed = self.runs.jobs.iter();
        let timed: Vec<&Job> = timed.filter(|job| is_timed(self.config, &arms, job)).collect();
        let bar = self.context.progress(timed.len() as u64, "models");
        bar.set_message("measuring speed".to_string());
        for job in timed {
            let folder = self.runs.folder(job);
            if measured_speed(&folder, config, threads)?.is_none() {
                if stop.is_asked() {
                    return Ok(false);
                }
                speed(&folder, config, threads)?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(true)
    }
}

impl Study for Frontier<'_> {
    fn is_measured(&self, _: &Job, folder: &Path) -> Result<bool, ProgramError> {
        Ok(self.asking.read(folder)?.is_some())
    }

    fn measure(&self, job: &Job, folder: &Path) -> Result<(), ProgramError> {
        self.asking.ask(job, folder)
    }

    fn write(&self) -> Result<(), ProgramError> {
        self.update().map(drop)
    }
}

/// On a rank other than 0, which has no folder to write pages into.
struct Helping<'a>(&'a Asking<'a>);

impl Study for Helping<'_> {
    fn measure(&self, job: &Job, folder: &Path) -> Result<(), ProgramError> {
        self.0.ask(job, folder)
    }

    fn write(&self) -> Result<(), ProgramError> {
        Ok(())
    }
}

/// Writes the study's pages and pictures into its folder.
fn write(report: &FrontierReport, folder: &mut OutputFolder, context: &Context) -> Result<(), ProgramError> {
    let pictures = figures::pictures(report);
    let pages = Pages {
        report,
        csv: page::write_csv,
        markdown: page::markdown(report, &pictures),
        page: page::page(report, &pictures, &report.about.made(context)),
        pictures: &pictures,
    };
    pages.write(folder)
}
