//! `spillway recall`: does a model answer from a document, and what does it gain by reading it twice?
//!
//! The prompts, scores and statistics are those of [`spillway_models::evaluation::recall`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`mod@forms`] | orders and readings as they are typed |
//! | [`questions`] | what is asked about: documents that are generated, or read from a data set |
//! | [`subjects`] | the models, and the mitigations that each can have |
//! | [`asking`] | asking all of it, and writing what comes of it |
//! | [`report`], [`figures`], [`page`] | files, table, pictures and page |
//! | [`resume`] | what an interrupted run goes on under |

pub mod asking;
pub mod figures;
pub mod forms;
pub mod page;
pub mod questions;
pub mod report;
pub mod resume;
pub mod subjects;

use crate::answers::{Settings as _, finish};
use crate::context::Context;
use crate::encoder::Short;
use crate::error::ProgramError;
use crate::model_args::ModelsArgs;
use crate::output::{OutputFolder, OutputPlan};
use crate::ranks::{self, Identity};
use crate::stop::Stop;
use crate::values::parse_tokens;
use asking::Asking;
use clap::Args;
use forms::{Arrangement, forms};
use questions::Questions;
use resume::{Saved, Settings};
use serde_json::json;
use spillway_models::Model;
use spillway_models::evaluation::recall::document::RecallTask;
use spillway_models::evaluation::recall::evaluate::ANSWER_TOKENS;
use spillway_models::evaluation::recall::prompt::PromptForm;
use std::path::PathBuf;
use subjects::Subject;

/// The files that this command writes.
const OWN: &[&str] = &[
    "report.html",
    report::JSON,
    report::CSV,
    report::ANSWERS,
    "recall-*.svg",
    "facts-*.svg",
    resume::FILE,
];

/// Options of `spillway recall`.
#[derive(Debug, Args)]
#[command(after_help = "\
A document is read once or several times, with the question at its end (d-q), also before it (q-d), or after every reading (c-q).
d-q:1 is the published default prompt, and q-d:2 (also written q-d-d-q) the published JRT-Prompt; c-q:2 is c-q-c-q. d-q:1 is always
asked: gains are over it, document by document, with bootstrapped 95 % intervals. Every prompt of several readings has a control:
as long, with dots in the place of the earlier readings. Where one of the checkpoints has attention alone, its gains are subtracted
from those of the others: what is left speaks of memory, and not of the form of the prompt.

d-q:oprm=512 reads each 512 tokens of the document into a state of its own, d-q:cached=512 keeps a copy of the one state after every
512; the question goes to every such state, and the surest answers.

Documents are generated, in the shapes of FDA, SWDE, SQuAD, NQ, TriviaQA and DROP, and two lists; or read from the published data
sets (JSON lines, a JSON list, or parquet in a build with that feature) with --data. Answers are greedy and end with their line;
one is right if the value occurs in it.

Writes report.html, recall.json, recall.csv (a line for each model, mitigation, task and prompt) and recall-answers.jsonl (every
answer). Answers are saved every 5 s and at Ctrl-C: the same command with --resume goes on, after a crash or a kill as well.

Examples:
  spillway recall mamba2-130m transformer-130m --task fda,squad --documents 1000
  spillway recall mamba2-130m --data fda.jsonl --task fda --length 1k --order q-d-d-q,c-q-c-q
  spillway recall mamba2-130m --task name-index --passes 1,2,3 --mitigation none --mitigation rri:0.9999,0.75
  spillway recall models/assets/recall/based models/assets/recall/attention --facts 4,8,16,32 --length 0
  spillway recall --task fda,squad --documents 20000 --training-text read-twice.jsonl")]
pub struct RecallArgs {
    /// The models to ask.
    #[command(flatten)]
    pub models: ModelsArgs,
    /// What is asked: fda, swde, squad, nq, triviaqa, drop, name-index, middle-match; several with commas between
    #[arg(
        long = "task",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "fda"
    )]
    pub tasks: Vec<RecallTask>,
    /// Data set of the one --task, from a file [default: generated documents]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Pass over what is broken in the data set, naming each place, and do not stop at it
    #[arg(long, requires = "data")]
    pub skip_broken: bool,
    /// Documents of each task and number of facts, each asked by every kind of prompt [default: 200; of a data set, all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub documents: Option<u32>,
    /// Facts in a generated document, which decide its length; several with commas between, each asked apart [default: 16; 50 and 40
    /// in the lists]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "data")]
    pub facts: Vec<usize>,
    /// Tokens that a document with question and answer may have: longer ones are cut around the answer; 0 leaves them whole
    #[arg(long, value_name = "TOKENS", default_value = "1k", value_parser = parse_tokens)]
    pub length: u64,
    /// Where the question stands: d-q, q-d or c-q, or with the readings q-d:3, q-d-d-q, c-q-c-q; in pieces of 512 tokens, each in a state of
    /// its own, d-q:oprm=512 and d-q:cached=512; several with commas between
    #[arg(
        long = "order",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "d-q,q-d,c-q"
    )]
    pub orders: Vec<Arrangement>,
    /// Readings of the document in a prompt, for orders without a number; several with commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2")]
    pub passes: Vec<usize>,
    /// Leave out the controls of equal length
    #[arg(long)]
    pub no_padding: bool,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = ANSWER_TOKENS, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// How a model with an encoder (JRT-RNN) reads a prompt that is shorter than the encoder [default: as-is]
    #[arg(long, value_enum, value_name = "HOW")]
    pub short_prompt: Option<Short>,
    /// Mitigation to try, such as window:8192, or @FILE as spillway diagnose writes it; may be repeated [default: none]
    #[arg(long = "mitigation", value_name = "SPEC")]
    pub mitigations: Vec<String>,
    /// Length that the models were trained on, in tokens, for mitigations that are calibrated [default: what each checkpoint says]
    #[arg(long, value_name = "N", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Folder of states of prompts, for runs that ask the same again: what it knows is not computed
    #[arg(long, value_name = "DIR")]
    pub prefix_cache: Option<PathBuf>,
    /// The most MiB that the folder of states may take; what was used longest ago is removed first
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "prefix_cache")]
    pub prefix_cache_limit: u64,
    /// Folder to write to, new or empty [default: spillway-recall; spillway-recall-2 and so on when that is taken]
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
    /// Seed of the documents and the bootstrap
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Ask nothing: write the documents as JSON lines to a file, as --data reads them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "training_text"])]
    pub write_documents: Option<PathBuf>,
    /// Ask nothing: write prompts with their answers as JSON lines of text to a file, to train on; documents that are never asked about
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub training_text: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("expected a number of at least 1, found '{text}'"))
}

/// Runs `spillway recall`.
///
/// # Errors
/// [`ProgramError`] for models, mitigations, data or orders that cannot be used, and for files that cannot be written.
pub fn run(args: &RecallArgs, context: &Context) -> Result<(), ProgramError> {
    let forms = forms(args)?;
    if (args.training_text.is_some() || args.write_documents.is_some()) && !context.leads() {
        return Ok(());
    }
    if let Some(path) = &args.training_text {
        return questions::write_training(args, &forms, path, context);
    }
    if let Some(path) = &args.write_documents {
        return questions::write(args, path, context);
    }
    let stop = Stop::after(args.stop_after);
    stop.on_signal(context)?;
    ask_until(args, &forms, &stop, context)
}

/// Asks until a stop is asked for by whoever calls it; signals are not listened to.
///
/// # Errors
/// As [`run`].
pub fn ask_until(
    args: &RecallArgs,
    forms: &[PromptForm],
    stop: &Stop,
    context: &Context,
) -> Result<(), ProgramError> {
    if !context.leads() {
        stop.has_something_to_keep();
        let (setup, loaded) = Setup::load(args, forms, context)?;
        ranks::follow(context, &setup.identity(args))?;
        return setup.asking(args, forms, stop, context).help(loaded);
    }
    let mut out = OutputFolder::open(&args.output_plan(), context)?;
    let (setup, loaded) = Setup::load(args, forms, context)?;
    let mut saved = Saved::new(setup.settings.clone());
    if out.is_begun() {
        let arms = setup.subjects.iter().map(|subject| subject.trials.len()).sum();
        let (documents, forms) = (setup.questions.documents.len(), forms.len());
        saved.load(&out, resume::FILE, |runs| {
            let mut outcomes = runs.iter().flat_map(|run| &run.evaluation.outcomes);
            runs.len() <= arms && outcomes.all(|outcome| outcome.document < documents && outcome.form < forms)
        })?;
    }
    ranks::lead(context, &setup.identity(args), out.path())?;
    out.begin()?;
    stop.has_something_to_keep();
    let asking = setup.asking(args, forms, stop, context);
    let report = asking.all(loaded, &mut saved, &mut out)?;
    context.print_folder(
        out.path(),
        &["report.html", report::JSON, report::CSV, report::ANSWERS],
        json!({ "complete": report.complete, "arms": report.arms, "cells": report.cells }),
    )?;
    finish(&mut out, resume::FILE, report.complete, context)
}

/// What is asked about, and of which models.
struct Setup {
    questions: Questions,
    subjects: Vec<Subject>,
    settings: Settings,
}

impl Setup {
    /// With the model, if it is the only one.
    fn load(
        args: &RecallArgs,
        forms: &[PromptForm],
        context: &Context,
    ) -> Result<(Self, Option<Model>), ProgramError> {
        let questions = Questions::open(args, context)?;
        let (subjects, loaded) = subjects::all(args, context)?;
        let setup = Self {
            settings: Settings::new(args, &questions, forms, &subjects),
            questions,
            subjects,
        };
        Ok((setup, loaded))
    }

    /// What all ranks must have in common.
    fn identity(&self, args: &RecallArgs) -> Identity {
        let device = ("--device", args.models.loading.device.to_string());
        Identity::of_parts("recall", self.settings.parts().into_iter().chain([device]))
    }

    fn asking<'a>(
        &'a self,
        args: &'a RecallArgs,
        forms: &'a [PromptForm],
        stop: &'a Stop,
        context: &'a Context,
    ) -> Asking<'a> {
        Asking {
            args,
            context,
            questions: &self.questions,
            forms,
            subjects: &self.subjects,
            stop,
        }
    }
}

impl RecallArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a recall run",
            default: "spillway-recall",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[resume::FILE],
        }
    }

    /// L, where documents are cut.
    pub fn cut_length(&self) -> Option<usize> {
        (self.length > 0).then(|| usize::try_from(self.length).unwrap_or(usize::MAX))
    }
}
