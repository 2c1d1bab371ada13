//! `spillway diagnose`: where does a model collapse, in which heads, why, what cures it, at what cost.
//!
//! What is measured and how, and what follows from it, is [`spillway_models::evaluation::diagnosis`]. Here are the options, the order of the
//! runs, saving and going on, and the report.
//!
//! | module | what is in it |
//! |---|---|
//! | [`resume`] | what an interrupted diagnosis leaves behind |
//! | [`summary`] | the findings in sentences |
//! | [`report`] | JSON, CSV and HTML |

pub mod report;
pub mod resume;
pub mod summary;

use crate::calibration::Calibrator;
use crate::choice::{self, Choice, Skipped};
use crate::context::Context;
use crate::error::ProgramError;
use crate::mitigation_file;
use crate::model_args::{ModelArgs, train_length};
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::settings::{Lengths, Settings};
use crate::stop::Stop;
use crate::text;
use crate::trial::{self, Trial};
use crate::values::{MOST_STREAMS, parse_tokens};
use clap::Args;
use report::{DiagnosisReport, Method, TextReport};
use spillway_mitigations::state_dtype::StateDtype;
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::findings::Findings;
use spillway_models::evaluation::diagnosis::loss::Grid;
use spillway_models::evaluation::diagnosis::run::Run;
use spillway_models::evaluation::diagnosis::stream::Reading;
use spillway_models::evaluation::diagnosis::text::{Stream, StreamOptions, Text, streams};
use spillway_models::evaluation::diagnosis::{probe, verdict};
use spillway_models::parallel::collectives::broadcast;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The files that a diagnosis writes.
const OWN: &[&str] = &[
    "report.html",
    "report.json",
    "loss.csv",
    "mitigations.csv",
    "heads.csv",
    "retention.csv",
    "gates.csv",
    mitigation_file::FILES,
    "resume/",
];
/// Time from one save of the runs to the next, at least.
const SAVED_EVERY: Duration = Duration::from_secs(30);
/// Saving takes at most this part of the time.
const SAVING_SHARE: u32 = 20;

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
    /// The model to diagnose
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
    /// Type that states are stored in after every token: f32, bf16, f16, fp8-e4m3, fp8-e5m2 or int8, with options as in
    /// `int8,scale=row,rounding=stochastic`; may be repeated, and is short for --mitigation state-dtype:TYPE [default: states as
    /// they are computed, f32]
    #[arg(long, value_name = "TYPE")]
    pub state_dtype: Vec<StateDtype>,
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
    if !context.leads() {
        stop.has_something_to_keep();
        return Diagnosis::load(args, context)?.help(context);
    }
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let mut diagnosis = Diagnosis::load(args, context)?;
    if folder.is_begun() {
        resume::load(
            folder.path(),
            &diagnosis.settings,
            &diagnosis.model,
            &mut diagnosis.runs,
        )?;
    }
    ranks::lead(context, &diagnosis.identity(), folder.path())?;
    folder.begin()?;
    stop.has_something_to_keep();
    for skipped in &diagnosis.skipped {
        context.remark(format_args!(
            "left out {}: {}",
            skipped.mitigation, skipped.reason
        ));
    }
    diagnosis.keep_numbers(&mut folder)?;
    diagnosis.stream(&stop, context, |settings, runs| {
        resume::save(&folder, settings, runs)?;
        folder.keep();
        Ok(())
    })?;
    let report = diagnosis.report(args, Some(folder.path()), context);
    report.write(&mut folder)?;
    folder.keep();
    if report.complete {
        resume::remove(&folder)?;
    }
    conclude(&report, &folder, context)
}

/// Diagnoses for a program that has a model and a text already: gives the report and writes nothing. Of `args`, what says which model,
/// which text and which folder is not looked at, except how the model was loaded; `spec` of a run is its text form, and `try_it` is empty.
///
/// # Errors
/// [`ProgramError`]: an impossible option, or [`ProgramError::Interrupted`] once `stop` was asked for.
pub fn measure(
    model: Model,
    text: Text,
    args: &DiagnoseArgs,
    stop: &Stop,
    context: &Context,
) -> Result<DiagnosisReport, ProgramError> {
    args.check()?;
    let mut diagnosis = Diagnosis::prepare(model, text, args, context)?;
    diagnosis.stream(stop, context, |_, _| Ok(()))?;
    match stop.is_asked() {
        true => Err(ProgramError::Interrupted),
        false => Ok(diagnosis.report(args, None, context)),
    }
}

/// A diagnosis: everything that is fixed before the first token, and the runs.
struct Diagnosis {
    model: Model,
    text: Text,
    streams: Vec<Stream>,
    /// And who says so.
    train_length: (u64, &'static str),
    grid: Grid,
    /// What is tried, and the run of each.
    trials: Vec<Trial>,
    runs: Vec<Run>,
    skipped: Vec<Skipped>,
    settings: Settings,
}

impl Diagnosis {
    /// With the model and the text that the options name.
    fn load(args: &DiagnoseArgs, context: &Context) -> Result<Self, ProgramError> {
        let waiting = context.waiting("loading the model");
        let model = args.model.load()?;
        // Before a long text is read for nothing.
        args.train_length(&model)?;
        waiting.set_message("reading the text");
        let text = text::open(args.text.as_deref(), &model).map_err(|error| error.with_option("--text"))?;
        drop(waiting);
        Self::prepare(model, text, args, context)
    }

    fn prepare(
        model: Model,
        text: Text,
        args: &DiagnoseArgs,
        context: &Context,
    ) -> Result<Self, ProgramError> {
        let (train_length, source) = args.train_length(&model)?;
        let options = StreamOptions {
            length: args.length,
            train_length,
            long: args.streams,
            operations_per_token: model.info().flops_per_token,
            seed: args.seed,
        };
        let streams = streams(&text, &options);
        let choice = Choice {
            asked: &choice::with_state_dtypes(&args.mitigation, &args.state_dtype),
            defaults: &choice::default_set(train_length),
            train_length,
        };
        let calibrator = Calibrator::new(&model, &text, train_length);
        let (trials, skipped) = choice::choose(&choice, &mut calibrator.watched(context))?;
        if trials.iter().any(Trial::is_to_be_fitted) {
            let reason =
                "spillway compare fits it, on text that it does not evaluate; here give scales:S,S,..";
            return Err(trial::refused("scales:fit", reason));
        }
        let grid = Grid::new(train_length, args.length);
        // The probe looks into the model alone.
        let probes = std::iter::once(probe(train_length, args.length)).map(Some);
        let runs = trials.iter().zip(probes.chain(std::iter::repeat(None)));
        let runs = runs
            .map(|(trial, probe)| Run::new(trial.name(), trial.treatment().clone(), &streams, &grid, probe));
        let runs = runs.collect();
        let lengths = Lengths {
            train_length,
            length: args.length,
            streams: &streams,
        };
        let settings = Settings::new(
            &model,
            args.model.loading.device.to_string(),
            &text,
            lengths,
            &trials,
        );
        Ok(Self {
            model,
            text,
            streams,
            train_length: (train_length, source),
            grid,
            trials,
            runs,
            skipped,
            settings,
        })
    }

    /// Writes the numbers that were calibrated where the model's next command finds them.
    fn keep_numbers(&self, folder: &mut OutputFolder) -> Result<(), ProgramError> {
        let model = &self.model.info().name;
        self.trials
            .iter()
            .try_for_each(|trial| mitigation_file::write(folder, trial.mitigation(), model, self.text.name()))
    }

    /// What `--mitigation` takes to have a trial again: its text form, or the file in `folder` that holds its numbers.
    fn specs(&self, folder: Option<&Path>) -> Vec<String> {
        let spec = |trial: &Trial| match folder.filter(|_| trial.mitigation().is_calibrated()) {
            Some(folder) => mitigation_file::spec(trial.mitigation(), folder),
            None => trial.name().to_string(),
        };
        self.trials.iter().map(spec).collect()
    }

    /// Reads until everything is read, or a stop is asked for, and saves by `save` now and then and at the end of each run.
    fn stream(
        &mut self,
        stop: &Stop,
        context: &Context,
        mut save: impl FnMut(&Settings, &[Run]) -> Result<(), ProgramError>,
    ) -> Result<(), ProgramError> {
        let done = self.runs.iter().map(Run::tokens).sum();
        let all = self.runs.iter().map(Run::tokens_in_all).sum();
        let progress = context.progress_from(done, all, "tokens");
        let mut next_save = Instant::now() + SAVED_EVERY;
        for index in 0..self.runs.len() {
            progress.set_message(self.runs[index].name.clone());
            while !self.runs[index].is_done() && !stop.is_asked() {
                self.call(context, Some(index))?;
                self.runs[index].go_on(&Reading {
                    model: &self.model,
                    text: &self.text,
                    grid: &self.grid,
                    threads: context.threads(),
                    ranks: context.ranks(),
                    watch: &|tokens| {
                        progress.inc(tokens);
                        stop.count(tokens);
                        match Instant::now() >= next_save {
                            true => ControlFlow::Break(()),
                            false => stop.flow(),
                        }
                    },
                })?;
                let begin = Instant::now();
                save(&self.settings, &self.runs)?;
                next_save = Instant::now() + SAVED_EVERY.max(SAVING_SHARE * begin.elapsed());
            }
        }
        self.call(context, None)?;
        if !self.runs.iter().all(Run::is_done) {
            // A stop may have been asked for before the first token.
            save(&self.settings, &self.runs)?;
        }
        Ok(())
    }

    /// What all ranks must have in common.
    fn identity(&self) -> Identity {
        self.settings.identity("diagnose", &self.model)
    }

    /// On rank 0: which run all ranks go on with; none at the end.
    fn call(&self, context: &Context, run: Option<usize>) -> Result<(), ProgramError> {
        let Some(ranks) = context.ranks() else {
            return Ok(());
        };
        let run = run.map_or(u64::MAX, |run| run as u64);
        broadcast(ranks, 0, run.to_le_bytes().to_vec())?;
        Ok(())
    }

    /// On a rank other than 0: reads what rank 0 reads, together with it.
    fn help(mut self, context: &Context) -> Result<(), ProgramError> {
        ranks::follow(context, &self.identity())?;
        while let Some(ranks) = context.ranks() {
            let called = broadcast(ranks, 0, Vec::new())?;
            let called = called.try_into().map_or(u64::MAX, u64::from_le_bytes);
            let Some(run) = usize::try_from(called)
                .ok()
                .and_then(|run| self.runs.get_mut(run))
            else {
                break;
            };
            run.go_on(&Reading {
                model: &self.model,
                text: &self.text,
                grid: &self.grid,
                threads: context.threads(),
                ranks: Some(ranks),
                watch: &|_| ControlFlow::Continue(()),
            })?;
        }
        Ok(())
    }

    fn report(mut self, args: &DiagnoseArgs, folder: Option<&Path>, context: &Context) -> DiagnosisReport {
        let specs = self.specs(folder);
        let train_length = self.train_length.0;
        let found = Findings::new(
            &mut self.runs,
            &self.grid,
            train_length,
            args.length,
            args.threshold,
        );
        let remaining = report::remaining(&self.runs);
        let method = self.method(args, context);
        let report = DiagnosisReport::new(found, specs, method, remaining, self.skipped, &self.model);
        DiagnosisReport {
            summary: summary::sentences(&report),
            // Beside a report there is the program that wrote it.
            try_it: folder.and_then(|_| summary::try_it(&report)),
            ..report
        }
    }

    fn method(&self, args: &DiagnoseArgs, context: &Context) -> Method {
        let (train_length, train_length_source) = self.train_length;
        Method {
            train_length,
            train_length_source,
            text: TextReport {
                name: self.text.name().into(),
                tokens: self.text.tokens(),
                repeats: args.length + 1 > self.text.tokens() && !self.text.is_constant(),
            },
            length: args.length,
            baseline: trial::baseline(&self.model, train_length),
            streams: self.streams.clone(),
            generate: args.model.generate(&self.model),
            dtype: self.model.info().kept_as.clone(),
            threads: context.threads(),
            seed: args.seed,
        }
    }
}

/// Prints the findings and where the report is; an error where the diagnosis was interrupted.
fn conclude(report: &DiagnosisReport, folder: &OutputFolder, context: &Context) -> Result<(), ProgramError> {
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
                spillway_models::message::number(self.threshold),
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

    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a diagnosis",
            default: "spillway-diagnosis",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[resume::MARK],
        }
    }
}
