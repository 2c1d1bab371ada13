//! `spillway passkey`: up to which length, and where in the text, does a model still find five digits?
//!
//! The task, and asking it, is [`spillway_models::evaluation::passkey_text`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`asking`] | asking all prompts, shared out among ranks |
//! | [`calibration`] | numbers for the mitigations that are calibrated |
//! | [`report`], [`curves`], [`heatmap`], [`page`], [`files`] | table, pictures and page; the files |
//! | [`resume`] | what an interrupted run leaves behind |
//! | [`lengths`] | lists of lengths as they are typed |

pub mod asking;
pub mod calibration;
pub mod curves;
pub mod files;
pub mod heatmap;
pub mod lengths;
pub mod page;
pub mod report;
pub mod resume;

use crate::answers::{self, Settings as _, asked, calibrated_length, finish};
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::counted;
use crate::model_args::ModelArgs;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::settings;
use crate::stop::Stop;
use crate::trial::Trial;
use crate::values::parse_tokens;
use asking::Asking;
use clap::Args;
use lengths::{Lengths, parse_lengths};
use resume::{Saved, Settings};
use serde_json::json;
use spillway_models::Model;
use spillway_models::evaluation::passkey_text::prompt::{self, Case, Template};
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
    run_until(args, &stop, context)
}

/// As [`run`], until a stop is asked for by whoever calls it; signals are not listened to.
///
/// # Errors
/// As [`run`].
pub fn run_until(args: &PasskeyArgs, stop: &Stop, context: &Context) -> Result<(), ProgramError> {
    if !context.leads() {
        stop.has_something_to_keep();
        let setup = Setup::load(args, context)?;
        ranks::follow(context, &setup.identity(args))?;
        return setup.asking(args, context, stop).help();
    }
    let mut out = OutputFolder::open(&args.output_plan(), context)?;
    let setup = Setup::load(args, context)?;
    let mut saved = Saved::new(setup.settings.clone());
    if out.is_begun() {
        let (most, cases) = (setup.trials.len(), setup.cases.len());
        saved.load(&out, resume::FILE, |runs| {
            let mut outcomes = runs.iter().flat_map(|run| &run.evaluation.outcomes);
            runs.len() <= most && outcomes.all(|outcome| outcome.case < cases)
        })?;
    }
    ranks::lead(context, &setup.identity(args), out.path())?;
    out.begin()?;
    stop.has_something_to_keep();
    context.print_line(format_args!(
        "passkey retrieval, {}: share of passkeys found, {} a cell",
        setup.model.info().name,
        counted(u64::from(args.samples), "prompt")
    ))?;
    let asking = setup.asking(args, context, stop);
    let report = asking.all(&mut saved, &mut out)?;
    context.print_folder(
        out.path(),
        &["report.html", "passkey.json", "passkey.csv"],
        json!({ "complete": report.complete, "runs": report.runs }),
    )?;
    finish(&mut out, resume::FILE, report.complete, context)
}

/// What is asked: the model, the mitigations and the prompts.
struct Setup {
    model: Model,
    train_length: Option<u64>,
    trials: Vec<Trial>,
    cases: Vec<Case>,
    settings: Settings,
}

impl Setup {
    fn load(args: &PasskeyArgs, context: &Context) -> Result<Self, ProgramError> {
        let waiting = context.waiting("loading the model");
        let model = args.model.load()?;
        let train_length = args.train_length.or(model.info().train_length);
        let cases = all_cases(args, &model)?;
        waiting.set_message("calibrating");
        let trials = prepared(args, &model, train_length)?;
        Ok(Self {
            settings: args.settings(&model, train_length, &trials),
            model,
            train_length,
            trials,
            cases,
        })
    }

    /// What all ranks must have in common.
    fn identity(&self, args: &PasskeyArgs) -> Identity {
        let device = ("--device", args.model.loading.device.to_string());
        let more = [settings::content_of(&self.model), device];
        Identity::of_parts("passkey", self.settings.parts().into_iter().chain(more))
    }

    fn asking<'a>(&'a self, args: &'a PasskeyArgs, context: &'a Context, stop: &'a Stop) -> Asking<'a> {
        Asking::new(
            args,
            context,
            stop,
            (&self.model, self.train_length),
            (&self.trials, &self.cases),
        )
    }
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
