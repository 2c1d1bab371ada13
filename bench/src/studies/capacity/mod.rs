//! `spillway capacity`: how much does a state of a given size hold, and how long must a model be trained to learn to forget?
//!
//! Models of several state sizes are trained at several lengths, several times each. T_forget is the shortest training length at which
//! a model does not collapse beyond it, T_recall the longest context in which it finds a passkey; laws are fitted to both, beside the
//! published ones ([`spillway_models::evaluation::laws`]). Source: Chen et al., *Stuffed Mamba: Oversized States Lead to the Inability to Forget* (2410.07145), section 5.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`], [`task`] | the sweep's configuration and each training's; what is trained and asked |
//! | [`initial`], [`expansion`] | initial values; a state that is widened on the way |
//! | [`sweep`], [`training`], [`measure`] | many trainings at once, in pieces; one; what is asked of the trained model |
//! | [`result`], [`threshold`] | what one training gives; T_forget and T_recall from many |
//! | [`analysis`], [`findings`], [`report`] | the laws of our thresholds; what the numbers support; everything as data |
//! | [`pairs`] | how many pairs of keys and values a state holds, and how far they are found |
//! | [`figures`], [`page`] | pictures and pages |

pub mod analysis;
pub mod config;
pub mod expansion;
pub mod figures;
pub mod findings;
pub mod initial;
pub mod measure;
pub mod page;
pub mod pairs;
pub mod report;
pub mod result;
pub mod sweep;
pub mod task;
pub mod threshold;
pub mod training;

#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::stop::Stop;
use crate::studies::results::{expect_complete, print_results};
use clap::Args;
use config::SweepConfig;
use serde_json::json;
use std::path::{Path, PathBuf};
use sweep::Sweep;

/// The files that a sweep writes.
const OWN: &[&str] = &[
    "report.html",
    "RESULTS.md",
    "results.json",
    "results.csv",
    "pairs.csv",
    "sweep.json",
    "figures/*.svg",
    "runs/",
];

/// Options of `spillway capacity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Trains models of several state sizes at several lengths, as many at a time as there are threads, and fits laws to the training length at
which a model stops to collapse (T_forget) and to the longest context in which it finds a passkey (T_recall).

Writes report.html, RESULTS.md, results.json, results.csv, figures/ and a folder for each training under runs/. Ctrl-C finishes the steps
under way and saves; --resume goes on from there to the same bits, and takes in whatever the configuration has gained meanwhile.

Examples:
  spillway capacity bench/configs/capacity/small.toml --out capacity
  spillway capacity bench/configs/capacity/small.toml --out capacity --resume
  spillway capacity bench/configs/capacity/small.toml --out bench/results/capacity-small --figures-only")]
pub struct CapacityArgs {
    /// What to sweep over
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Folder to write to, new or empty [default: spillway-capacity; spillway-capacity-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a sweep in it is replaced, trained models included, and all other files stay
    #[arg(long, conflicts_with_all = ["resume", "figures_only"])]
    pub force: bool,
    /// Go on with the sweep in the output folder: finished trainings are kept, half ones resumed
    #[arg(long)]
    pub resume: bool,
    /// Train nothing; draw the figures and write the pages again from the results in the output folder
    #[arg(long, conflicts_with = "resume")]
    pub figures_only: bool,
    /// Stop after this many steps of all trainings together, as Ctrl-C would [default: train to the end]
    #[arg(long, value_name = "STEPS", conflicts_with = "figures_only")]
    pub stop_after: Option<u64>,
}

/// Runs `spillway capacity`.
///
/// # Errors
/// [`ProgramError`] for a configuration that cannot be used, a training that fails, files that cannot be written, and an
/// interruption, after which the sweep can be resumed.
pub fn run(args: &CapacityArgs, context: &Context) -> Result<(), ProgramError> {
    let (config, text) = SweepConfig::load(&args.config)?;
    let plan = args.output_plan();
    if args.figures_only {
        if !context.leads() {
            return Ok(());
        }
        let out = plan.begun();
        if !sweep::has_results(&out) {
            let expected = format!("a folder with results of trainings under {}", sweep::RUNS);
            return Err(ProgramError::usage("--out", expected, out.display().to_string()));
        }
        let named = OutputPlan {
            named: Some(&out),
            resume: true,
            ..plan
        };
        let mut folder = OutputFolder::open(&named, context)?;
        return finish(&args.sweep((&config, &text), &out), &mut folder, context);
    }
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let identity = Identity::of_configuration(&text);
    if let Some(out) = ranks::follow(context, &identity)? {
        stop.has_something_to_keep();
        return args.sweep((&config, &text), &out).train(context, &stop).map(drop);
    }
    let mut folder = OutputFolder::open(&plan, context)?;
    let waiting = context.waiting("checking the tasks");
    measure::check(&config, &args.config)?;
    drop(waiting);
    let out = folder.path().to_path_buf();
    ranks::lead(context, &identity, &out)?;
    folder.begin()?;
    stop.has_something_to_keep();
    let sweep = args.sweep((&config, &text), &out);
    let trained = sweep.train(context, &stop);
    // Whatever is half trained can be gone on with.
    match folder.is_begun() || sweep.is_begun() {
        true => folder.keep(),
        // The first error is the one to report.
        false => drop(sweep.clear()),
    }
    let complete = trained?;
    finish(&sweep, &mut folder, context)?;
    expect_complete(complete)
}

impl CapacityArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a sweep",
            default: "spillway-capacity",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[sweep::RUNS, "results.json"],
        }
    }

    fn sweep<'a>(&'a self, (config, text): (&'a SweepConfig, &'a str), out: &'a Path) -> Sweep<'a> {
        Sweep {
            config,
            path: &self.config,
            text,
            out,
            command: format!(
                "spillway capacity {} --out {}",
                self.config.display(),
                out.display()
            ),
        }
    }
}

/// Writes the pages and prints what was found.
fn finish(sweep: &Sweep<'_>, folder: &mut OutputFolder, context: &Context) -> Result<(), ProgramError> {
    let report = sweep.write(folder)?;
    folder.keep();
    let document = json!({ "findings": report.findings });
    let findings = [&report.findings.supported[..], &report.findings.unsupported];
    print_results(context, findings, sweep.out, document)
}
