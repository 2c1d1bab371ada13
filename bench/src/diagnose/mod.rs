//! `spillway diagnose`: where does a model collapse, in which heads, why, what cures it, at what cost.
//!
//! A text is streamed through the model with the state carried, once for the model alone, once restarted every training length,
//! and once per mitigation. Nothing is kept per token: losses go into sums per bucket of position, states and gates into a
//! number of looks that grows with the logarithm of the length.
//!
//! | module | what is in it |
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
use crate::cli::{MOST_STREAMS, parse_tokens};
use crate::context::Context;
use crate::error::ProgramError;
use crate::mitigation_file;
use crate::model_args::ModelArgs;
use crate::output::{OutputFolder, Place};
use crate::trial::{self, Trial};
use clap::Args;
use loss::Grid;
use mitigated::{Choice, Mitigated, Skipped};
use models::Model;
use models::evaluation::positions::snapshots;
use probe::Probe;
use report::{Method, Report, TextReport};
use resume::Settings;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stream::{Run, Stop};
use text::{Stream, StreamOptions, Text};

/// The files that a diagnosis writes.
const OWN: &[&str] = &[
    "report.html",
    "report.json",
    "loss.csv",
    "mitigations.csv",
    "heads.csv",
    "retention.csv",
    "gates.csv",
    "resume/",
];
/// From one save to the next, at least.
const SAVED_EVERY: Duration = Duration::from_secs(30);
/// Saving takes at most this part of the time.
const SAVING_SHARE: u32 = 20;
/// Training length where neither the command line nor the checkpoint names one.
const ASSUMED_TRAIN_LENGTH: u64 = 2048;

/// Find out where a model collapses on long inputs, in which heads, and what cures it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spillway diagnose
  spillway diagnose mamba2-130m --train-length 2048 --length 64k --mitigation window:2048 --mitigation rri:0.9999,0.75
  spillway diagnose mamba2-130m --text book.txt --dtype bf16 --out book-diagnosis

Ctrl-C writes the report so far, and what is measured is saved every 30 s: the same command with --resume goes on, after a crash or a \
kill as well. docs/report.md describes report.json.")]
pub struct DiagnoseArgs {
    /// Which model
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to read: a text file, `ids:FILE` with token ids, `random` ids, or `newlines` [default: the text that comes with
    /// Spillway]
    #[arg(long, value_name = "FILE|ids:FILE|random|newlines")]
    pub text: Option<String>,
    /// For a clear error only.
    #[arg(long, hide = true, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Tokens to read in one go; `64k` is 65536
    #[arg(long, value_name = "TOKENS", default_value = "65536", value_parser = parse_tokens)]
    pub length: u64,
    /// Length the model was trained on, in tokens [default: what the checkpoint says, else 2048]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Mitigation to try, such as `window:8192` or `rri:0.9999,0.75`; may be repeated [default: a set scaled to the training
    /// length]
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Vec<String>,
    /// Folder for report.html, report.json and CSV files, new or empty [default: spillway-diagnosis; spillway-diagnosis-2 and so
    /// on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a diagnosis in it is replaced, all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Places of the text to start reading at, over which losses are averaged [default: 1 to 8 places, fewer the larger
    /// the model]
    #[arg(long, value_name = "N")]
    pub streams: Option<u64>,
    /// Start reading at random places of the text, drawn by this seed [default: places spread evenly from its beginning]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Factor in perplexity that counts as collapse
    #[arg(long, value_name = "FACTOR", default_value_t = verdict::DEFAULT_THRESHOLD)]
    pub threshold: f64,
    /// Go on with the interrupted diagnosis in the output folder, under the same options
    #[arg(long)]
    pub resume: bool,
    /// Stop after this many tokens as Ctrl-C would, to go on later with --resume [default: read everything]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub stop_after: Option<u64>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`ProgramError`]: an impossible option, a file that cannot be read or written, or an interruption, after which the report so far
/// is there.
pub fn run(args: &DiagnoseArgs, context: &Context) -> Result<(), ProgramError> {
    args.check()?;
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let mut folder = OutputFolder::open(&args.place(), context)?;
    let mut diagnosis = Diagnosis::prepare(args, context)?;
    if folder.is_begun() {
        resume::load(
            folder.path(),
            &diagnosis.settings,
            &diagnosis.model,
            &mut diagnosis.runs,
        )?;
    }
    folder.begin()?;
    stop.has_something_to_keep();
    for skipped in &diagnosis.skipped {
        context.remark(format_args!(
            "left out {}: {}",
            skipped.mitigation, skipped.reason
        ));
    }
    diagnosis.keep_numbers(&mut folder)?;
    diagnosis.stream(&mut folder, &stop, context)?;
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
    fn prepare(args: &DiagnoseArgs, context: &Context) -> Result<Self, ProgramError> {
        let waiting = context.waiting("loading the model");
        let model = args.model.load()?;
        let (train_length, source) = args.train_length(&model)?;
        waiting.set_message("reading the text");
        let text = Text::open(args.text.as_deref(), &model).map_err(|error| error.with_option("--text"))?;
        drop(waiting);
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
        let calibrator = Calibrator::new(&model, &text, train_length);
        let (chosen, skipped) = mitigated::choose(&choice, &mut calibrator.watched(context))?;
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

    /// Writes the numbers that were calibrated where the model's next command finds them.
    fn keep_numbers(&mut self, folder: &mut OutputFolder) -> Result<(), ProgramError> {
        let model = &self.model.info().name;
        for run in &mut self.runs {
            mitigation_file::write(folder, run.mitigation(), model, self.text.name())?;
            if run.mitigation().is_calibrated() {
                run.spec = mitigation_file::spec(run.mitigation(), folder.path());
            }
        }
        Ok(())
    }

    /// Reads until everything is read, or a stop is asked for, and saves now and then and at the end of each run.
    fn stream(
        &mut self,
        folder: &mut OutputFolder,
        stop: &Stop,
        context: &Context,
    ) -> Result<(), ProgramError> {
        let done = self.runs.iter().map(Mitigated::tokens).sum();
        let all = self.runs.iter().map(Mitigated::tokens_in_all).sum();
        let progress = context.progress_from(done, all, "tokens");
        let mut next_save = Instant::now() + SAVED_EVERY;
        for index in 0..self.runs.len() {
            progress.set_message(self.runs[index].name.clone());
            while !self.runs[index].is_done() && !stop.is_asked() {
                self.runs[index].go_on(&Run {
                    model: &self.model,
                    text: &self.text,
                    grid: &self.grid,
                    threads: context.threads(),
                    stop,
                    progress: &progress,
                    until: Some(next_save),
                })?;
                let begin = Instant::now();
                resume::save(folder, &self.settings, &self.runs)?;
                folder.keep();
                next_save = Instant::now() + SAVED_EVERY.max(SAVING_SHARE * begin.elapsed());
            }
        }
        if !self.runs.iter().all(Mitigated::is_done) {
            // A stop may have been asked for before the first token.
            resume::save(folder, &self.settings, &self.runs)?;
            folder.keep();
        }
        Ok(())
    }

    fn report(mut self, args: &DiagnoseArgs, context: &Context) -> Report {
        let baseline = trial::baseline(&self.model, self.train_length.0);
        let method = args.method(
            &self.model,
            &self.text,
            self.streams,
            self.train_length,
            baseline,
            context,
        );
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
    context.print_folder(
        folder.path(),
        &["report.html", "report.json"],
        summary::json(report),
    )?;
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

impl DiagnoseArgs {
    /// What can be told without the model.
    fn check(&self) -> Result<(), ProgramError> {
        if let Some(prompt) = &self.prompt {
            let expected = "--text FILE (or ids:FILE, random, newlines) for what to read; a prompt is what generate continues";
            return Err(ProgramError::usage("--prompt", expected, prompt.clone()));
        }
        if let Some(found) = self
            .streams
            .filter(|streams| !(1..=MOST_STREAMS).contains(streams))
        {
            let expected = format!("from 1 to {MOST_STREAMS}");
            return Err(ProgramError::usage("--streams", expected, found.to_string()));
        }
        if !(self.threshold.is_finite() && self.threshold > 1.0) {
            return Err(ProgramError::usage(
                "--threshold",
                "a factor above 1",
                models::message::number(self.threshold),
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
            device: self.model.device.to_string(),
            length: self.length,
            train_length,
            streams: streams.to_vec(),
            mitigations: runs.iter().map(Mitigated::identity).collect(),
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            what: "a diagnosis",
            default: "spillway-diagnosis",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[resume::MARK],
        }
    }

    fn method(
        &self,
        model: &Model,
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
            generate: self.model.generate(model),
            dtype: self.model.dtype.to_string(),
            threads: context.threads(),
            seed: self.seed,
        }
    }
}
