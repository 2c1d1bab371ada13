//! `spillway diagnose`: where does a model collapse, in which heads, why, what cures it, at what cost.
//!
//! A text is streamed through the model with the state carried, once for the model alone, once restarted every training length,
//! and once per mitigation. Nothing is kept per token: losses go into sums per bucket of position, states and gates into a
//! number of looks that grows with the logarithm of the length.
//!
//! | room | what is in it |
//! |---|---|
//! | [`text`] | the text and the streams it is read in |
//! | [`loss`] | mean losses over buckets of positions ([`models::evaluation`]) |
//! | [`mitigated`], [`stream`] | the runs, and the loop that streams |
//! | [`gates`], [`probe`], [`record`] | what gates do, whatever the rule; looks at gates and states |
//! | [`head_statistics`], [`retention`] | what the looks say of a head |
//! | [`verdict`], [`compare`], [`summary`] | the definition of collapse; prices and gains; the sentences |
//! | [`resume`] | what an interrupted diagnosis leaves behind |
//! | [`report`] | JSON, CSV and HTML |

pub mod compare;
pub mod gates;
pub mod head_statistics;
pub mod loss;
pub mod mitigated;
pub mod probe;
pub mod record;
pub mod report;
pub mod resume;
pub mod retention;
pub mod stream;
pub mod summary;
pub mod text;
pub mod verdict;

use crate::calibration::Calibrator;
use crate::cli::parse_tokens;
use crate::context::Context;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::output::{Existing, OutputFolder};
use crate::trial::{self, Trial};
use clap::Args;
use loss::Grid;
use mitigated::{Choice, Mitigated, Skipped};
use models::Model;
use models::evaluation::positions::snapshots;
use probe::Probe;
use report::{Method, Report, TextReport};
use resume::Settings;
use std::path::{Path, PathBuf};
use stream::{Run, Stop};
use text::{Stream, StreamOptions, Text};

/// Training length where neither the command line nor the checkpoint names one.
const ASSUMED_TRAIN_LENGTH: u64 = 2048;

/// Find out where a model collapses on long inputs, in which heads, and what cures it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway diagnose
  spillway diagnose mamba2-130m --train-length 2048 --length 64k --mitigation window:2048 --mitigation rri:0.9999,0.75
  spillway diagnose mamba2-130m --prompt book.txt --dtype bf16 --out book-diagnosis

Ctrl-C writes the report so far; the same command with --resume goes on. docs/report.md describes report.json.")]
pub struct DiagnoseArgs {
    /// Which model
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to read: a text file, `ids:FILE` with token ids, `random` ids, or `newlines` [default: the text that comes with
    /// Spillway]
    #[arg(long, value_name = "FILE|ids:FILE|random|newlines")]
    pub prompt: Option<String>,
    /// Tokens to read in one go; `64k` is 65536
    #[arg(long, value_name = "TOKENS", default_value = "65536", value_parser = parse_tokens)]
    pub length: u64,
    /// Length the model was trained on [default: what the checkpoint says, else 2048]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Mitigation to try, such as `window:8192` or `rri:0.9999,0.75`; may be repeated [default: a set scaled to the training
    /// length]
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Vec<String>,
    /// Folder for report.html, report.json and CSV files
    #[arg(long, value_name = "DIR", default_value = "spillway-diagnosis")]
    pub out: PathBuf,
    /// Places of the text to start reading at, over which losses are averaged [default: 1 to 8, fewer the larger the
    /// model]
    #[arg(long, value_name = "N")]
    pub streams: Option<u64>,
    /// Start reading at random places of the text
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Factor in perplexity that counts as collapse
    #[arg(long, value_name = "FACTOR", default_value_t = verdict::DEFAULT_THRESHOLD)]
    pub threshold: f64,
    /// Go on with the interrupted diagnosis in the output folder, under the same options
    #[arg(long)]
    pub resume: bool,
    /// Stop after this many tokens as Ctrl-C would, to go on later with --resume
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub stop_after: Option<u64>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`ProgramError`]: an impossible option, a file that cannot be read or written, or an interruption, after which the report so far
/// is there.
pub fn run(args: &DiagnoseArgs, context: &Context) -> Result<(), ProgramError> {
    let mut diagnosis = Diagnosis::prepare(args)?;
    let mut folder = args.folder(&diagnosis.settings, &diagnosis.model, &mut diagnosis.runs)?;
    for skipped in &diagnosis.skipped {
        context.remark(format_args!(
            "left out {}: {}",
            skipped.mitigation, skipped.reason
        ));
    }
    diagnosis.stream(args, context)?;
    if !diagnosis.runs.iter().all(Mitigated::is_done) {
        resume::save(&folder, &diagnosis.settings, &diagnosis.runs)?;
    }
    let report = diagnosis.report(args, context);
    report.write(&mut folder)?;
    folder.keep();
    if report.complete {
        resume::remove(&folder)?;
    }
    conclude(&report, &folder, context)
}

/// Everything that is fixed before the first token, and the runs.
struct Diagnosis {
    model: Model,
    text: Text,
    streams: Vec<Stream>,
    /// And who says so.
    train_length: (u64, &'static str),
    grid: Grid,
    runs: Vec<Mitigated>,
    skipped: Vec<Skipped>,
    settings: Settings,
}

impl Diagnosis {
    fn prepare(args: &DiagnoseArgs) -> Result<Self, ProgramError> {
        args.check()?;
        let model = args.model.load()?;
        let (train_length, source) = args.train_length(&model)?;
        let text = Text::open(args.prompt.as_deref(), &model)?;
        let options = StreamOptions {
            length: args.length,
            train_length,
            long: args.streams,
            operations_per_token: model.info().flops_per_token,
            seed: args.seed,
        };
        let streams = text::streams(&text, &options);
        let choice = Choice {
            asked: &args.mitigation,
            defaults: &mitigated::default_set(train_length),
            train_length,
        };
        let (chosen, skipped) =
            mitigated::choose(&choice, &mut Calibrator::new(&model, &text, train_length))?;
        if chosen.iter().any(Trial::is_to_be_fitted) {
            let reason =
                "spillway compare fits it, on text that it does not evaluate; here give scales:S,S,..";
            return Err(trial::refused("scales:fit", reason));
        }
        let grid = Grid::new(train_length, args.length);
        let mut runs: Vec<Mitigated> = Vec::new();
        for (index, trial) in chosen.iter().enumerate() {
            let probe = (index == 0).then(|| Probe::new(snapshots(train_length, args.length), train_length));
            runs.push(Mitigated::new(trial, &streams, &grid, probe));
        }
        let settings = args.settings(&model, &text, train_length, &streams, &runs);
        Ok(Self {
            model,
            text,
            streams,
            train_length: (train_length, source),
            grid,
            runs,
            skipped,
            settings,
        })
    }

    /// Reads until everything is read, or a stop is asked for.
    fn stream(&mut self, args: &DiagnoseArgs, context: &Context) -> Result<(), ProgramError> {
        let stop = Stop::after(args.stop_after);
        stop_on_signal(&stop)?;
        let progress = context.progress(self.runs.iter().map(Mitigated::tokens_in_all).sum(), "tokens");
        progress.set_position(self.runs.iter().map(Mitigated::tokens).sum());
        let shared = Run {
            model: &self.model,
            text: &self.text,
            grid: &self.grid,
            threads: context.threads(),
            stop: &stop,
            progress: &progress,
        };
        for run in self.runs.iter_mut().filter(|run| !run.is_done()) {
            if stop.is_asked() {
                break;
            }
            progress.set_message(run.name.clone());
            run.go_on(&shared)?;
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn report(mut self, args: &DiagnoseArgs, context: &Context) -> Report {
        let baseline = trial::baseline(&self.model, self.train_length.0);
        let method = args.method(&self.text, self.streams, self.train_length, baseline, context);
        let info = self.model.info().clone();
        Report::new(
            info,
            method,
            &self.grid,
            &mut self.runs,
            self.skipped,
            args.threshold,
        )
    }
}

/// Prints the findings.
fn conclude(report: &Report, folder: &OutputFolder, context: &Context) -> Result<(), ProgramError> {
    context.print_line(summary::text(report))?;
    context.remark(format_args!("\nreport: {}", folder.file("report.html").display()));
    if report.complete {
        return Ok(());
    }
    Err(ProgramError::Failed(format!(
        "interrupted; the report so far is in {}, and the same command with --resume goes on",
        folder.path().display()
    )))
}

/// The training length, and who says so.
///
/// # Errors
/// [`ProgramError::Usage`] for 0.
pub fn train_length(asked: Option<u64>, model: &Model) -> Result<(u64, &'static str), ProgramError> {
    match (asked, model.info().train_length) {
        (Some(0), _) => Err(ProgramError::usage("--train-length", "at least 1", "0")),
        (Some(length), _) => Ok((length, "--train-length")),
        (None, Some(length)) => Ok((length, "checkpoint")),
        (None, None) => Ok((ASSUMED_TRAIN_LENGTH, "assumed")),
    }
}

/// The first signal asks for a stop at the end of the segment; the second ends the program at once.
///
/// # Errors
/// [`ProgramError::Failed`] when the system does not let signals be heard.
pub fn stop_on_signal(stop: &Stop) -> Result<(), ProgramError> {
    let stop = stop.clone();
    let ask = move || {
        if stop.ask() {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(ask)
        .map_err(|error| ProgramError::Failed(format!("cannot listen for Ctrl-C: {error}")))
}

impl DiagnoseArgs {
    /// What can be told without the model.
    fn check(&self) -> Result<(), ProgramError> {
        if self.streams == Some(0) {
            return Err(ProgramError::usage("--streams", "at least 1", "0"));
        }
        if !(self.threshold.is_finite() && self.threshold > 1.0) {
            return Err(ProgramError::usage(
                "--threshold",
                "a factor above 1",
                self.threshold.to_string(),
            ));
        }
        if self.resume && !resume::is_there(&self.out) {
            let expected = "the folder of an interrupted diagnosis (--out)";
            return Err(ProgramError::usage(
                "--resume",
                expected,
                self.out.display().to_string(),
            ));
        }
        Ok(())
    }

    fn train_length(&self, model: &Model) -> Result<(u64, &'static str), ProgramError> {
        let (train_length, source) = train_length(self.train_length, model)?;
        if self.length < train_length.saturating_mul(2) {
            let expected = format!("at least twice the training length of {train_length} tokens");
            return Err(ProgramError::usage("--length", expected, self.length.to_string()));
        }
        Ok((train_length, source))
    }

    fn settings(
        &self,
        model: &Model,
        text: &Text,
        train_length: u64,
        streams: &[Stream],
        runs: &[Mitigated],
    ) -> Settings {
        let info = model.info();
        Settings {
            program: env!("CARGO_PKG_VERSION").into(),
            model: format!(
                "{} ({}, {} parameters)",
                info.name, info.architecture, info.parameters
            ),
            text: text.name().into(),
            fingerprint: text.fingerprint(),
            dtype: info.kept_as.into(),
            length: self.length,
            train_length,
            streams: streams.to_vec(),
            mitigations: runs.iter().map(|run| run.name.clone()).collect(),
        }
    }

    /// The output folder: a new one, or that of the interrupted diagnosis, whose progress goes into `runs`.
    fn folder(
        &self,
        settings: &Settings,
        model: &Model,
        runs: &mut [Mitigated],
    ) -> Result<OutputFolder, ProgramError> {
        if self.resume {
            resume::load(&self.out, settings, model, runs)?;
            return OutputFolder::create(&self.out, Existing::Resume);
        }
        match OutputFolder::create(&self.out, Existing::Refuse) {
            Err(ProgramError::FolderExists(path)) if resume::is_there(&path) => {
                Err(interrupted_before(&path))
            }
            other => other,
        }
    }

    fn method(
        &self,
        text: &Text,
        streams: Vec<Stream>,
        train_length: (u64, &'static str),
        baseline: String,
        context: &Context,
    ) -> Method {
        let repeats = self.length + 1 > text.tokens() && !text.is_constant();
        Method {
            train_length: train_length.0,
            train_length_source: train_length.1,
            text: TextReport {
                name: text.name().into(),
                tokens: text.tokens(),
                repeats,
            },
            length: self.length,
            baseline,
            streams,
            dtype: self.model.dtype.to_string(),
            threads: context.threads(),
            seed: self.seed,
        }
    }
}

fn interrupted_before(path: &Path) -> ProgramError {
    let expected = "a new folder, or --resume to go on with the interrupted diagnosis in this one";
    ProgramError::usage("--out", expected, path.display().to_string())
}
