//! `spillway train`: trains a model as a configuration says, and draws how it went.
//!
//! The training itself, its folder and its resumption are [`spillway_models::train`]. Here are the command, the progress bar, and, at
//! the end, `summary.json` and `report.html`.
//!
//! | module | what is in it |
//! |---|---|
//! | [`progress`] | the bar, and stopping |
//! | [`record`] | what the log holds, and its summary |
//! | [`figures`], [`page`] | the curves and the page |
//! | [`task`] | what was found on a task |
//! | [`set`] | fields that the command line changes |
//! | `timing` | the speed and the memory of a step, instead of a training |

pub mod figures;
pub mod page;
pub mod progress;
pub mod record;
pub mod set;
pub mod task;
pub mod task_result;
mod timing;

use crate::context::{Context, MOST_THREADS};
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::{self, OutputPlan};
use crate::stop::Stop;
use crate::values::quoted;
use clap::Args;
use progress::Progress;
use record::{Record, SoundReport, Summary};
use serde_json::json;
use set::Change;
use spillway_models::train::run::follow;
use spillway_models::train::snapshot::SnapshotChoice;
use spillway_models::train::{Outcome, Run, TrainConfig};
use std::path::{Path, PathBuf};

/// What this command writes beside the training's own files.
const BESIDE: &[&str] = &["summary.json", "report.html"];

/// Train a model as a configuration says
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway train models/configs/tiny-mamba2-kjv.toml --out tiny
  spillway train models/configs/tiny-mamba2-kjv.toml --out tiny --resume
  spillway train models/configs/tiny-mamba2-kjv.toml --out tiny-4 --seed 4
  spillway train models/configs/tiny-mamba2-kjv.toml --out longer --set length=256 --set sequences=4
  spillway train models/configs/tiny-mamba2-kjv.toml --time 20
  spillway train bench/configs/tasks/selective-copying.toml --out copying
  spillway diagnose tiny/checkpoint

Ctrl-C finishes the step and saves; the same command with --resume goes on to the same weights as if nothing had happened, \
after a crash or a kill as well. The configurations in models/configs explain every field.")]
pub struct TrainArgs {
    /// What to train, on what, and how
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Folder for the checkpoint, the log, snapshots, summary.json and report.html, new or empty [default: spillway-train;
    /// spillway-train-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a training in it is replaced, all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Seed to train with: the same training with other draws [default: the configuration's]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Field that gets another value than in the configuration, as length=256, model.arch=gla or model=@FILE.toml; may be
    /// repeated [default: none]
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = Change::parse)]
    pub changes: Vec<Change>,
    /// Go on with the training in the output folder, under the same configuration
    #[arg(long)]
    pub resume: bool,
    /// With --resume, go on from the snapshot before the latest, should that be damaged
    #[arg(long, requires = "resume")]
    pub previous: bool,
    /// Stop after this many steps as Ctrl-C would, to go on later with --resume [default: train to the end]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after: Option<u64>,
    /// Only time this many steps, after one that is not counted: speed by parts and peak memory; nothing is kept
    /// [default: train]
    #[arg(
        long, value_name = "STEPS", value_parser = clap::value_parser!(u16).range(1..),
        conflicts_with_all = ["out", "force", "resume", "stop_after"]
    )]
    pub time: Option<u16>,
}

/// Runs the subcommand; `threads` as on the command line.
///
/// # Errors
/// [`ProgramError`]: an impossible option, a configuration that cannot be used, a file that cannot be read or written, or an
/// interruption, after which the training can be resumed.
pub fn run(args: &TrainArgs, threads: &[usize], context: &Context) -> Result<(), ProgramError> {
    let changes = args.changes.iter().map(Change::read);
    let mut config = match changes.collect::<Result<Vec<_>, _>>()? {
        changes if changes.is_empty() => TrainConfig::load(&args.config)?,
        changes => TrainConfig::load_changed(&args.config, &changes)?,
    };
    config.seed = args.seed.unwrap_or(config.seed);
    match (threads, config.threads) {
        ([], Some(threads)) if threads != context.threads() => {
            if threads > MOST_THREADS {
                let expected = format!("a number from 1 to {MOST_THREADS}");
                return Err(ProgramError::usage("threads", expected, threads.to_string()));
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool
                .map_err(|error| ProgramError::Failed(format!("cannot start {threads} threads: {error}")))?;
            pool.install(|| train(args, config, context))
        }
        _ => train(args, config, context),
    }
}

fn train(args: &TrainArgs, config: TrainConfig, context: &Context) -> Result<(), ProgramError> {
    if let Some(steps) = args.time {
        if context.ranks().is_some() {
            return Err(ProgramError::usage("--time", "one process", "several ranks"));
        }
        return timing::run((config, &args.config), steps, context);
    }
    if let Some(ranks) = context.shared_ranks().filter(|_| !context.leads()) {
        hear_no_signals(context)?;
        return Ok(follow(ranks, config)?);
    }
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let out = &args.output_plan().path()?;
    let waiting = context.waiting("reading the model and the data");
    let ranks = context.shared_ranks();
    let run = match (args.resume, args.force) {
        (true, _) => Run::resume_on(ranks, config, out, args.choice()),
        (false, true) => Run::create_over_on(ranks, config, out, BESIDE),
        (false, false) => Run::create_on(ranks, config, out),
    };
    let mut run = run.map_err(|error| error.in_file(&args.config))?;
    drop(waiting);
    stop.has_something_to_keep();
    let mut progress = Progress::new(&run, &stop, context);
    let outcome = run.go_on(&mut progress);
    progress.finish();
    let outcome = outcome?;
    let summary = write_report(&run, args, out)?;
    context.print_line(summary.sentences().join("\n"))?;
    let files = ["checkpoint", "summary.json", "report.html"];
    context.print_folder(out, &files, json!({ "summary": summary }))?;
    context.remark(format_args!("\nreport: {}", out.join("report.html").display()));
    match outcome {
        Outcome::Finished => Ok(()),
        Outcome::Stopped => Err(ProgramError::Failed(format!(
            "interrupted after {} of {} steps; the same command with --resume goes on",
            run.trainer().steps_done(),
            run.trainer().config().steps,
        ))),
    }
}

/// On a rank other than 0: rank 0 says when to stop. A signal that the launcher sends to all ends this one no sooner than that.
fn hear_no_signals(context: &Context) -> Result<(), ProgramError> {
    let stop = Stop::after(None);
    stop.has_something_to_keep();
    stop.on_signal(context)
}

impl TrainArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a training",
            default: "spillway-train",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: &[],
            marks: &[spillway_models::train::run::CONFIG],
        }
    }

    fn choice(&self) -> SnapshotChoice {
        match self.previous {
            true => SnapshotChoice::Previous,
            false => SnapshotChoice::Latest,
        }
    }
}

/// Writes `summary.json` and `report.html` into the run folder.
fn write_report(run: &Run, args: &TrainArgs, out: &Path) -> Result<Summary, ProgramError> {
    let record = Record::read(
        &out.join(spillway_models::train::run::LOG),
        run.trainer().config(),
    )?;
    let summary = Summary {
        sound: SoundReport::of(&record, run.trainer().config())?,
        ..Summary::of(&record, run.trainer().config(), command(args, out))
    };
    output::write_json(&out.join("summary.json"), &summary)?;
    let title = record::name(out);
    let made = Provenance {
        command: summary.command.clone(),
        model: format!("{}, layout {}", summary.architecture, summary.layout),
        ..Provenance::here(rayon::current_num_threads())
    };
    let page = page::page(&title, &record, &summary, run.trainer().config(), &made)?;
    output::write_file(&out.join("report.html"), |file| file.write_all(page.as_bytes()))?;
    Ok(summary)
}

/// The command that makes this training.
fn command(args: &TrainArgs, out: &Path) -> String {
    let seed = args.seed.map_or(String::new(), |seed| format!(" --seed {seed}"));
    let changes = args.changes.iter();
    let changes: String = changes
        .map(|change| format!(" --set {}", quoted(&change.to_string())))
        .collect();
    format!(
        "spillway train {}{seed}{changes} --out {}",
        args.config.display(),
        out.display()
    )
}
