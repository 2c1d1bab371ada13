//! `spillway passkey`: up to which length, and where in the text, does a model still find five digits?
//!
//! The task, and asking it, is [`spillway_models::evaluation::passkey_text`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`calibration`] | numbers for the mitigations that are calibrated |
//! | [`report`], [`curves`], [`heatmap`], [`page`] | files, table, pictures and page |
//! | [`resume`] | what an interrupted run leaves behind |
//! | [`lengths`] | lists of lengths as they are typed |

pub mod calibration;
pub mod curves;
pub mod heatmap;
pub mod lengths;
pub mod page;
pub mod report;
pub mod resume;

use crate::answers::{self, Keeping, asked, calibrated_length, finish};
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::counted;
use crate::kit::provenance::Provenance;
use crate::model_args::ModelArgs;
use crate::output::{OutputFolder, OutputPlan};
use crate::settings;
use crate::stop::Stop;
use crate::trial::Trial;
use crate::values::parse_tokens;
use clap::Args;
use lengths::{Lengths, parse_lengths};
use report::{PasskeysReport, Run, VERSION};
use resume::{Saved, Settings};
use serde_json::json;
use spillway_models::Model;
use spillway_models::evaluation::passkey_text::evaluate::{self, Answer, Evaluation};
use spillway_models::evaluation::passkey_text::prompt::{self, Case, Template};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The files that this command writes.
const OWN: &[&str] = &[
    "report.html",
    "passkey.json",
    "passkey.csv",
    "passkey-*.svg",
    curves::FILE,
    resume::FILE,
];

/// Prompts of the shortest length that have to go wrong before longer ones are not asked: a model that answers every other one
/// misses so many by chance once in sixteen times.
const TELLING: usize = 4;

/// Options of `spillway passkey`.
#[derive(Debug, Args)]
#[command(after_help = "\
Five digits are hidden in a line of filler text, and the model is asked for them at the end. Every length is asked at
--depths × --samples places spread evenly from the beginning to the end of the text; --depths 10 --samples 20 are the 200 places
of the published experiment. The answer is greedy, and right if the five digits occur in it. Where no passkey is found at the
shortest length, longer ones are not asked.

Writes report.html, passkey.csv (with Wilson 95 % intervals), passkey.json and one heat map per mitigation. Answers are saved every
5 s and at Ctrl-C: the same command with --resume goes on, after a crash or a kill as well.

Examples:
  spillway passkey mamba2-130m --lengths 1k..16k
  spillway passkey mamba2-130m --mitigation none --mitigation rri:0.9999,0.75 --out passkey-rri")]
pub struct PasskeyArgs {
    /// The model to ask for passkeys.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Context lengths in tokens: a list (1k,2k,5000), or a range that doubles (1k..64k)
    #[arg(long, value_name = "LIST", default_value = "1k..64k", value_parser = parse_lengths)]
    pub lengths: Lengths,
    /// Rows of the heat map, each a depth at which the passkey is hidden
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub depths: u16,
    /// Prompts per cell of the heat map
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub samples: u16,
    /// Mitigation to try, such as window:8192, or @FILE as spillway diagnose writes it; may be repeated [default: none]
    #[arg(long = "mitigation", value_name = "SPEC")]
    pub mitigations: Vec<String>,
    /// Length that the model was trained on, in tokens: marked in the heat map [default: what the checkpoint says]
    #[arg(long, value_name = "N", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Folder to write to, new or empty [default: spillway-passkey; spillway-passkey-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: what this command wrote there is replaced, all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Go on with the interrupted run in the output folder, under the same options
    #[arg(long)]
    pub resume: bool,
    /// Stop after this many tokens of prompts as Ctrl-C would, to go on later with --resume [default: ask everything]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub stop_after: Option<u64>,
    /// Ask at every length, even where no passkey is found in four prompts or more of the shortest
    #[arg(long)]
    pub all_lengths: bool,
    /// Seed of the passkeys
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Runs `spillway passkey`.
///
/// # Errors
/// [`ProgramError`] for a model, a mitigation or a length that cannot be used, and for files that cannot be written.
pub fn run(args: &PasskeyArgs, context: &Context) -> Result<(), ProgramError> {
    if args.train_length == Some(0) {
        return Err(ProgramError::usage("--train-length", "at least 1 token", "0"));
    }
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    let mut out = OutputFolder::open(&args.output_plan(), context)?;
    let waiting = context.waiting("loading the model");
    let model = args.model.load()?;
    let train_length = args.train_length.or(model.info().train_length);
    let cases = all_cases(args, &model)?;
    waiting.set_message("calibrating");
    let trials = prepared(args, &model, train_length)?;
    drop(waiting);
    let mut saved = Saved::new(args.settings(&model, train_length, &trials));
    if out.is_begun() {
        let most = trials.len();
        saved.load(&out, resume::FILE, |runs| {
            let mut outcomes = runs.iter().flat_map(|run| &run.evaluation.outcomes);
            runs.len() <= most && outcomes.all(|outcome| outcome.case < cases.len())
        })?;
    }
    out.begin()?;
    stop.has_something_to_keep();
    let asking = Asking {
        args,
        context,
        model: &model,
        train_length,
        cases: &cases,
        stop: &stop,
    };
    context.print_line(format_args!(
        "passkey retrieval, {}: share of passkeys found, {} a cell",
        model.info().name,
        counted(u64::from(args.samples), "prompt")
    ))?;
    let report = asking.all(&trials, &mut saved, &mut out)?;
    context.print_folder(
        out.path(),
        &["report.html", "passkey.json", "passkey.csv"],
        json!({ "complete": report.complete, "runs": report.runs }),
    )?;
    finish(&mut out, resume::FILE, report.complete, context)
}

impl PasskeyArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a passkey run",
            default: "spillway-passkey",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[resume::FILE],
        }
    }

    fn settings(&self, model: &Model, train_length: Option<u64>, trials: &[Trial]) -> Settings {
        let info = model.info();
        Settings {
            program: env!("CARGO_PKG_VERSION").into(),
            model: settings::name(info),
            dtype: info.kept_as.clone(),
            train_length,
            lengths: self.lengths.0.clone(),
            depths: usize::from(self.depths),
            samples: usize::from(self.samples),
            seed: self.seed,
            all_lengths: self.all_lengths,
            mitigations: trials.iter().map(Trial::identity).collect(),
        }
    }
}

/// The mitigations asked for, each known to fit the model before hours of work begin.
fn prepared(
    args: &PasskeyArgs,
    model: &Model,
    train_length: Option<u64>,
) -> Result<Vec<Trial>, ProgramError> {
    let ready = |spec| {
        answers::ready(spec, model, || {
            let length = calibrated_length(spec, model, train_length)?;
            Ok(vec![calibration::filler(model, length)?])
        })
    };
    asked(&args.mitigations).into_iter().map(ready).collect()
}

fn all_cases(args: &PasskeyArgs, model: &Model) -> Result<Vec<Case>, ProgramError> {
    let template = Template::new(model.tokenizer()).map_err(|error| {
        ProgramError::from(error).without_tokenizer("no, passkey asks in words, so that it needs a tokenizer")
    })?;
    let (rows, samples) = (usize::from(args.depths), usize::from(args.samples));
    let mut cases = Vec::new();
    for length in &args.lengths.0 {
        if template.blocks(*length) == 0 {
            let expected = format!(
                "at least {} tokens, the prompt with one line of filler",
                template.shortest()
            );
            return Err(ProgramError::usage("--lengths", expected, length.to_string()));
        }
        cases.extend(prompt::cases(&template, *length, rows, samples, args.seed));
    }
    Ok(cases)
}

/// What all prompts are asked with.
struct Asking<'a> {
    args: &'a PasskeyArgs,
    context: &'a Context,
    model: &'a Model,
    train_length: Option<u64>,
    cases: &'a [Case],
    stop: &'a Stop,
}

impl Asking<'_> {
    /// Asks whatever has not been asked, and writes all files after each mitigation; incomplete after a stop.
    fn all(
        &self,
        trials: &[Trial],
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<PasskeysReport<'_>, ProgramError> {
        let mut report = PasskeysReport {
            version: VERSION,
            model: self.model.info(),
            train_length: self.train_length,
            seed: self.args.seed,
            complete: false,
            lengths: &self.args.lengths.0,
            depths: usize::from(self.args.depths),
            samples: usize::from(self.args.samples),
            runs: Vec::new(),
        };
        for (index, trial) in trials.iter().enumerate() {
            let run = self.one(trial, index, saved, out)?;
            saved.save(out, resume::FILE)?;
            let goes_on = run.complete;
            print_run(self.context, &run)?;
            report.runs.push(run);
            report.complete = goes_on && index + 1 == trials.len();
            self.write(&report, out)?;
            if !goes_on {
                break;
            }
        }
        Ok(report)
    }

    /// Asks the shortest length first, and the others unless nothing is found there.
    fn one(
        &self,
        trial: &Trial,
        index: usize,
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<Run, ProgramError> {
        let shortest = self.cases.first().map_or(0, |case| case.length);
        let first = self.cases.partition_point(|case| case.length == shortest);
        let (mut keeping, mut evaluation) = Keeping::begin(saved, index, (out, resume::FILE), self.stop);
        let bar = self.context.progress_from(
            evaluation.prompt_tokens(),
            self.cases.iter().map(|case| case.length).sum(),
            "tokens",
        );
        bar.set_message(trial.name().to_string());
        let mut on_outcome = |evaluation: &Evaluation| {
            let last = evaluation.outcomes.last();
            let tokens = last.map_or(0, |outcome| outcome.tokens as u64);
            bar.inc(tokens);
            keeping.heard(evaluation, tokens)
        };
        let mut stopped = None;
        let mut asked = ControlFlow::Continue(());
        for range in [0..first, first..self.cases.len()] {
            if asked.is_break() || stopped.is_some() {
                break;
            }
            // A stop may have been asked for between two mitigations.
            asked = self.stop.flow();
            if asked.is_continue() {
                asked = evaluate::evaluate(
                    self.model,
                    trial.treatment(),
                    self.cases,
                    range.clone(),
                    &mut evaluation,
                    &mut on_outcome,
                )?;
            }
            if asked.is_continue() && range.start == 0 && first < self.cases.len() {
                stopped = self.hopeless(&evaluation, shortest);
            }
        }
        let mut run = Run::new(
            trial.name().to_string(),
            self.cases,
            &evaluation,
            usize::from(self.args.depths),
            0.0,
            asked.is_continue(),
        );
        run.seconds = keeping.end(evaluation)?;
        Ok(Run { stopped, ..run })
    }

    /// Why it is no use to ask longer prompts: none of the shortest was answered, and they were enough to tell.
    fn hopeless(&self, evaluation: &Evaluation, shortest: u64) -> Option<String> {
        let found = |outcome: &evaluate::Outcome| outcome.answer == Answer::Found;
        let told = evaluation.outcomes.len() >= TELLING;
        if self.args.all_lengths || !told || evaluation.outcomes.iter().any(found) {
            return None;
        }
        let place = match self.train_length {
            None => String::new(),
            Some(length) if shortest <= length => {
                format!(", within the training length of {length} tokens: the model does not do this task")
            }
            Some(length) => format!(", which is beyond the training length of {length} tokens"),
        };
        Some(format!(
            "no passkey found in {} prompts of {shortest} tokens{place}; longer ones are not asked (--all-lengths asks them)",
            evaluation.outcomes.len()
        ))
    }

    fn write(&self, report: &PasskeysReport<'_>, out: &mut OutputFolder) -> Result<(), ProgramError> {
        let drawn: Vec<&Run> = report.runs.iter().filter(|run| !run.cells.is_empty()).collect();
        let pictures: Vec<String> = drawn.iter().map(|run| picture_name(&run.mitigation)).collect();
        for (run, picture) in drawn
            .into_iter()
            .zip(&pictures)
            .skip(pictures.len().saturating_sub(1))
        {
            let svg = heatmap::figure(run, &report.model.name, self.train_length).file();
            out.write(picture, |file| file.write_all(svg.as_bytes()))?;
        }
        let curves = curves::figure(&report.runs, &report.model.name, self.train_length);
        if let Some(curves) = &curves {
            let svg = curves.file();
            out.write(curves::FILE, |file| file.write_all(svg.as_bytes()))?;
        }
        let made = Provenance::here(self.context.threads()).of(self.model.info());
        let page = page::page(report, curves.as_ref(), &pictures, &made);
        out.write("report.html", |file| file.write_all(page.as_bytes()))?;
        out.write("passkey.csv", |file| report::write_csv(&report.runs, file))?;
        out.write_json("passkey.json", report)?;
        out.keep();
        Ok(())
    }
}

fn print_run(context: &Context, run: &Run) -> Result<(), ProgramError> {
    let recall = match (&run.stopped, run.recall_length) {
        (Some(reason), _) => reason.clone(),
        (None, _) if !run.complete => "interrupted; these are the answers so far".into(),
        (None, Some(length)) => format!("more than 95 % found up to {length} tokens"),
        (None, None) => "not more than 95 % found at any length".into(),
    };
    context.print_line(format_args!(
        "\nmitigation {}: {recall}\n{}",
        run.mitigation,
        run.table()
    ))
}

/// `passkey-rri-0.9999-0.75.svg`: characters that some file system refuses are replaced.
fn picture_name(mitigation: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || ".+".contains(c) {
            c
        } else {
            '-'
        }
    };
    format!(
        "passkey-{}.svg",
        mitigation.chars().map(plain).collect::<String>()
    )
}
