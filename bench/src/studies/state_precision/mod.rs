//! `spillway state-precision`: how precise must a state be?
//!
//! Weighted sums with given decays and delta rules read random tokens, their states stored after every token in types of fewer bits, and are
//! compared with the definition in f64: the error of the state and of the read-out as the position grows, beside what independent roundings
//! would come to. Models read beside themselves with states in f32: by how much their predictions change, under any mitigation.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | laws, models, types, sizes and positions |
//! | [`theory`] | what independent roundings would come to |
//! | [`mod@measure`] | one law under every type, against its f64 truth |
//! | [`models`] | models with states in every type, beside themselves with states in f32 |
//! | `study` | what is finished, what is missing, and the folder that keeps it |
//! | [`report`] | errors over seeds, and up to where a type is safe |
//! | [`page`] | tables, pictures and the files |

pub mod config;
pub mod measure;
pub mod models;
pub mod page;
pub mod report;
mod study;
pub mod theory;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::stop::Stop;
use crate::studies::results::expect_complete;
use clap::Args;
use config::PrecisionConfig;
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use study::{RUNS, Study, go_on, help};

/// Files and folders in the output folder that are the command's own.
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
Weighted sums and delta rules read random tokens with their states stored in types of fewer bits, beside the truth in f64; models that a
configuration names read beside themselves with states in f32. spillway generate, diagnose and compare ask about one type with --state-dtype.

Writes report.html (errors against position, beside the theory), RESULTS.md, results.json, results.csv and figures/ after each run, and what
each law gave with each seed, and each model under each mitigation, under runs/. Ctrl-C keeps the finished runs; --resume goes on from there, after a kill as well.

Examples:
  spillway state-precision --out state-precision
  spillway state-precision bench/configs/state-precision/standard.toml --out state-precision --resume
  spillway state-precision bench/configs/state-precision/models.toml --out models-precision")]
pub struct StatePrecisionArgs {
    /// Laws, models, types of the state, tokens and seeds [default: ten laws under eleven types, a million tokens]
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
    let identity = Identity::of_configuration(&format!("{config:?}"));
    if ranks::follow(context, &identity)?.is_some() {
        stop.has_something_to_keep();
        return help(args, &config, dtypes, &stop, context);
    }
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let study = Study::read(&config, dtypes, &folder, args)?;
    study.check_models()?;
    let out = folder.path().to_path_buf();
    ranks::lead(context, &identity, &out)?;
    folder.begin()?;
    stop.has_something_to_keep();
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
        json!({ "laws": report.laws, "models": report.models, "findings": report.findings }),
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
