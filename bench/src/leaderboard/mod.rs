//! `spillway compare`: every mitigation of the catalogue on one model, beside the model alone and the model started again.
//!
//! Each row is one mitigation: what it costs inside the training length T, its loss at 2 T, 4 T, … and what that is over the
//! baseline at the same tokens, passkeys found, speed and memory. The streams and losses are those of
//! [`spillway_models::evaluation::diagnosis`], the prompts those of [`crate::passkey`].
//!
//! The first eighth of the text is for calibration and fitting only; what is evaluated never reads from it. A finished row
//! is written at once, and an interrupted comparison goes on after its last finished row. Speeds are measured when all rows are there.
//!
//! | module | what is in it |
//! |---|---|
//! | [`row`] | what is known of one mitigation |
//! | [`measure`] | how it is measured |
//! | [`sharing`] | measuring all rows, shared out among ranks |
//! | [`page`], [`files`] | table and page; the files |

pub mod files;
pub mod measure;
pub mod page;
pub mod row;
pub mod sharing;

use crate::calibration::Calibrator;
use crate::choice::{self, Choice};
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
use crate::values::{MOST_STREAMS, parse_tokens, quoted};
use clap::Args;
use measure::{Bench, Passkeys};
use row::{FILE, Leaderboard};
use serde_json::json;
use sharing::Sharing;
use spillway_mitigations::state_dtype::StateDtype;
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::loss::Grid;
use spillway_models::evaluation::diagnosis::text::{Stream, StreamOptions, Text, streams};
use std::path::PathBuf;

/// Share of the text that is kept for calibration.
const CALIBRATION_SHARE: f64 = 0.125;
/// The longest length, in training lengths, and with `--quick`.
const LONGEST: [u64; 2] = [128, 8];
/// The files that a comparison writes.
const OWN: &[&str] = &[
    FILE,
    "leaderboard.html",
    "leaderboard.csv",
    mitigation_file::FILES,
];

/// Try every mitigation on one model, and rank them by the loss far beyond its training length
#[derive(Debug, Args)]
#[command(after_help = "\
The model alone and the model started again every training length are always among the rows. Rows are sorted by the mean loss
over the last training length of the longest length; differences are over the same tokens.

Examples:
  spillway compare --quick
  spillway compare mamba2-130m --train-length 2048 --out mamba2-mitigations
  spillway compare rwkv6-1b6 --mitigation window-exact:4096 --mitigation forget:0.9999 --longest 16

Ctrl-C keeps the finished rows; the same command with --resume goes on, after a crash or a kill as well. docs/leaderboard.md describes leaderboard.json.")]
pub struct CompareArgs {
    /// The model to compare mitigations on
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to read: a text file, `ids:FILE` with token ids, `random` ids, or `newlines` [default: the text that comes with
    /// Spillway]
    #[arg(long, value_name = "FILE|ids:FILE|random|newlines")]
    pub text: Option<String>,
    /// Length the model was trained on, in tokens [default: what the checkpoint says, else 2048]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Mitigation to try, such as `window:8192`; may be repeated [default: the whole catalogue, scaled to the training length]
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Vec<String>,
    /// Type that states are stored in after every token: f32, bf16, f16, fp8-e4m3, fp8-e5m2 or int8, with options as in
    /// `int8,scale=row,rounding=stochastic`; may be repeated, and is short for --mitigation state-dtype:TYPE [default: states as
    /// they are computed, f32]
    #[arg(long, value_name = "TYPE")]
    pub state_dtype: Vec<StateDtype>,
    /// The longest length, in training lengths: a power of two [default: 128; 8 with --quick]
    #[arg(long, value_name = "N")]
    pub longest: Option<u64>,
    /// Fewer lengths, prompts and repetitions
    #[arg(long)]
    pub quick: bool,
    /// Folder for leaderboard.html, leaderboard.json and leaderboard.csv, new or empty [default: spillway-comparison;
    /// spillway-comparison-2 and so on when that is taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a comparison in it is replaced, all other files stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Places of the text to start reading at [default: 1 to 8, fewer the larger the model]
    #[arg(long, value_name = "N")]
    pub streams: Option<u64>,
    /// Start reading at random places of the text, drawn by this seed, and ask for other passkeys [default: places spread
    /// evenly from its beginning]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Go on with the interrupted comparison in the output folder, under the same options
    #[arg(long)]
    pub resume: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// [`ProgramError`]: an impossible option, a file that cannot be read or written, or an interruption, after which the rows so far
/// are there.
pub fn run(args: &CompareArgs, context: &Context) -> Result<(), ProgramError> {
    let stop = Stop::after(None);
    stop.on_signal(context)?;
    run_until(args, &stop, context)
}

/// As [`run`], until a stop is asked for by whoever calls it; signals are not listened to.
///
/// # Errors
/// As [`run`].
pub fn run_until(args: &CompareArgs, stop: &Stop, context: &Context) -> Result<(), ProgramError> {
    let factors = args.factors()?;
    if !context.leads() {
        stop.has_something_to_keep();
        let (comparison, board) = Comparison::prepare(args, factors, context)?;
        ranks::follow(context, &comparison.identity(&board))?;
        let bench = comparison.bench(stop);
        return Sharing::new(&bench, &comparison.trials, context).help();
    }
    let mut folder = OutputFolder::open(&args.output_plan(), context)?;
    let (comparison, mut board) = Comparison::prepare(args, factors, context)?;
    if folder.is_begun() {
        board.resume(&folder.file(FILE))?;
    }
    ranks::lead(context, &comparison.identity(&board), folder.path())?;
    folder.begin()?;
    stop.has_something_to_keep();
    for skipped in &board.skipped {
        context.remark(format_args!(
            "left out {}: {}",
            skipped.mitigation, skipped.reason
        ));
    }
    let bench = comparison.bench(stop);
    board.complete = Sharing::new(&bench, &comparison.trials, context).measure(&mut board, &mut folder)?;
    files::write(&board, &mut folder)?;
    folder.keep();
    context.print_line(page::table(&board))?;
    let command = args.model.generate(&comparison.model);
    let best = board.best();
    let command = best.map(|best| format!("{command} --mitigation {}", quoted(&best.spec)));
    for sentence in page::losing_recall(&board) {
        context.print_line(format_args!("\n{sentence}"))?;
    }
    match &command {
        Some(command) => context.print_line(format_args!("\nTry this first:  {command}"))?,
        None => context
            .print_line("\nNo mitigation does better than the model alone and keeps what it recalls.")?,
    }
    context.print_folder(
        folder.path(),
        &["leaderboard.html", FILE, "leaderboard.csv"],
        json!({ "complete": board.complete, "try": command, "baseline": board.baseline, "rows": board.rows }),
    )?;
    let report = folder.file("leaderboard.html");
    context.remark(format_args!("\nleaderboard: {}", report.display()));
    match board.complete {
        true => Ok(()),
        false => Err(ProgramError::Failed(format!(
            "interrupted; the finished rows are in {}, and the same command with --resume goes on",
            folder.path().display()
        ))),
    }
}

/// A comparison: everything that is fixed before the first row.
struct Comparison {
    model: Model,
    text: Text,
    calibration: Text,
    streams: Vec<Stream>,
    grid: Grid,
    trials: Vec<Trial>,
    passkeys: Option<Passkeys>,
    factors: Vec<u64>,
    train_length: u64,
    quick: bool,
}

impl Comparison {
    /// With the board that has no rows yet.
    fn prepare(
        args: &CompareArgs,
        factors: Vec<u64>,
        context: &Context,
    ) -> Result<(Self, Leaderboard), ProgramError> {
        let waiting = context.waiting("loading the model");
        let model = args.model.load()?;
        let (train_length, source) = train_length(args.train_length, &model)?;
        waiting.set_message("reading the text");
        let whole = text::open(args.text.as_deref(), &model).map_err(|error| error.with_option("--text"))?;
        let (calibration, text) = whole.split(CALIBRATION_SHARE)?;
        drop(waiting);
        let length = train_length * factors.last().copied().unwrap_or(1);
        let streams = streams(
            &text,
            &StreamOptions {
                length,
                train_length,
                long: args.streams,
                operations_per_token: model.info().flops_per_token,
                seed: args.seed,
            },
        );
        let choice = Choice {
            asked: &choice::with_state_dtypes(&args.mitigation, &args.state_dtype),
            defaults: &choice::catalogue(train_length, length),
            train_length,
        };
        let calibrator = Calibrator::new(&model, &calibration, train_length);
        let (trials, skipped) = choice::choose(&choice, &mut calibrator.watched(context))?;
        let passkeys = Passkeys::new(&model, train_length, length, args.quick, args.seed.unwrap_or(0));
        if passkeys.is_none() {
            context.remark("no passkeys: they are asked for in words, and there is no tokenizer or no room");
        }
        let lengths = Lengths {
            train_length,
            length,
            streams: &streams,
        };
        let settings = Settings::new(
            &model,
            args.model.loading.device.to_string(),
            &whole,
            lengths,
            &trials,
        );
        let board = Leaderboard {
            baseline: trial::baseline(&model, train_length),
            threads: context.threads(),
            train_length_source: source.into(),
            text: whole.name().into(),
            text_tokens: text.tokens(),
            calibration_tokens: calibration.tokens(),
            factors: factors.clone(),
            skipped,
            ..Leaderboard::new(model.info(), settings)
        };
        let comparison = Self {
            grid: Grid::windows(train_length, &factors),
            quick: args.quick,
            model,
            text,
            calibration,
            streams,
            trials,
            passkeys,
            factors,
            train_length,
        };
        Ok((comparison, board))
    }

    /// What all ranks must have in common.
    fn identity(&self, board: &Leaderboard) -> Identity {
        let identity = board.settings.identity("compare", &self.model);
        identity.and("--quick", self.quick.to_string())
    }

    fn bench<'a>(&'a self, stop: &'a Stop) -> Bench<'a> {
        Bench {
            model: &self.model,
            text: &self.text,
            calibration: &self.calibration,
            streams: &self.streams,
            grid: &self.grid,
            factors: &self.factors,
            train_length: self.train_length,
            passkeys: self.passkeys.as_ref(),
            quick: self.quick,
            stop,
        }
    }
}

impl CompareArgs {
    /// 2, 4, … up to the longest.
    fn factors(&self) -> Result<Vec<u64>, ProgramError> {
        if let Some(found) = self
            .streams
            .filter(|streams| !(1..=MOST_STREAMS).contains(streams))
        {
            let expected = format!("from 1 to {MOST_STREAMS}");
            return Err(ProgramError::usage("--streams", expected, found.to_string()));
        }
        let longest = self.longest.unwrap_or(LONGEST[usize::from(self.quick)]);
        if !longest.is_power_of_two() || !(2..=1 << 20).contains(&longest) {
            let expected = "a power of two from 2 on: lengths double";
            return Err(ProgramError::usage("--longest", expected, longest.to_string()));
        }
        let doubled = std::iter::successors(Some(2), |factor| Some(2 * factor));
        Ok(doubled.take_while(|factor| *factor <= longest).collect())
    }

    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a comparison",
            default: "spillway-comparison",
            named: self.out.as_deref(),
            force: self.force,
            resume: self.resume,
            own: OWN,
            marks: &[FILE],
        }
    }
}
