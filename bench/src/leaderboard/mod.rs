//! `spillway compare`: every mitigation of the catalogue on one model, beside the model alone and the model started again.
//!
//! Each row is one mitigation: what it costs inside the training length T, its loss at 2 T, 4 T, … and what that is over the
//! baseline at the same tokens, passkeys found, speed and memory. The streams and losses are those of
//! [`crate::diagnose`], the prompts those of [`crate::passkey`].
//!
//! The first eighth of the text is for calibration and fitting only; what is evaluated never reads from it. A finished row
//! is written at once, and an interrupted comparison goes on after its last finished row.
//!
//! | room | what is in it |
//! |---|---|
//! | [`row`] | what is known of one mitigation |
//! | [`measure`] | how it is measured |
//! | [`page`] | table and page |

pub mod measure;
pub mod page;
pub mod row;

use crate::calibration::Calibrator;
use crate::cli::parse_tokens;
use crate::context::Context;
use crate::diagnose::loss::Grid;
use crate::diagnose::mitigated::{self, Choice};
use crate::diagnose::resume::Settings;
use crate::diagnose::stream::Stop;
use crate::diagnose::text::{self, Stream, StreamOptions, Text};
use crate::diagnose::{stop_on_signal, train_length};
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::output::{Existing, OutputFolder};
use crate::trial::{self, Trial};
use clap::Args;
use measure::{Bench, Passkeys};
use models::Model;
use row::Leaderboard;
use std::path::{Path, PathBuf};

/// Share of the text that is kept for calibration.
const CALIBRATION_SHARE: f64 = 0.125;
/// The longest length, in training lengths, and with `--quick`.
const LONGEST: [u64; 2] = [128, 8];
/// The file that holds the rows.
const FILE: &str = "leaderboard.json";

/// Try every mitigation on one model, and rank them by the loss far beyond its training length
#[derive(Debug, Args)]
#[command(after_help = "\
The model alone and the model started again every training length are always among the rows. Rows are sorted by the mean loss
over the last training length of the longest length; differences are over the same tokens.

Examples:
  spillway compare --quick
  spillway compare mamba2-130m --train-length 2048 --out mamba2-mitigations
  spillway compare rwkv6-1b6 --mitigation window-exact:4096 --mitigation forget:0.9999 --longest 16

Ctrl-C keeps the finished rows; the same command with --resume goes on. docs/leaderboard.md describes leaderboard.json.")]
pub struct CompareArgs {
    /// Which model
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to read: a text file, `ids:FILE` with token ids, `random` ids, or `newlines` [default: the text that comes with
    /// Spillway]
    #[arg(long, value_name = "FILE|ids:FILE|random|newlines")]
    pub text: Option<String>,
    /// Length the model was trained on [default: what the checkpoint says, else 2048]
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Mitigation to try, such as `window:8192`; may be repeated [default: the whole catalogue, scaled to the training length]
    #[arg(long, value_name = "SPEC")]
    pub mitigation: Vec<String>,
    /// The longest length, in training lengths: a power of two [default: 128; 8 with --quick]
    #[arg(long, value_name = "N")]
    pub longest: Option<u64>,
    /// Fewer lengths, prompts and repetitions
    #[arg(long)]
    pub quick: bool,
    /// Folder for leaderboard.html, leaderboard.json and leaderboard.csv
    #[arg(long, value_name = "DIR", default_value = "spillway-comparison")]
    pub out: PathBuf,
    /// Places of the text to start reading at [default: 1 to 8, fewer the larger the model]
    #[arg(long, value_name = "N")]
    pub streams: Option<u64>,
    /// Start reading at random places of the text, and ask for other passkeys
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
    let mut comparison = Comparison::prepare(args, context)?;
    let mut folder = args.folder(&mut comparison.board)?;
    let stop = Stop::after(None);
    stop_on_signal(&stop)?;
    for skipped in &comparison.board.skipped {
        context.remark(format_args!(
            "left out {}: {}",
            skipped.mitigation, skipped.reason
        ));
    }
    comparison.measure(&mut folder, &stop, context)?;
    context.print_line(page::table(&comparison.board))?;
    let report = folder.file("leaderboard.html");
    context.remark(format_args!("\nleaderboard: {}", report.display()));
    match comparison.board.complete {
        true => Ok(()),
        false => Err(ProgramError::Failed(format!(
            "interrupted; the finished rows are in {}, and the same command with --resume goes on",
            folder.path().display()
        ))),
    }
}

/// Everything that is fixed before the first row, and the rows.
struct Comparison {
    model: Model,
    text: Text,
    calibration: Text,
    streams: Vec<Stream>,
    grid: Grid,
    trials: Vec<Trial>,
    passkeys: Option<Passkeys>,
    quick: bool,
    board: Leaderboard,
}

impl Comparison {
    fn prepare(args: &CompareArgs, context: &Context) -> Result<Self, ProgramError> {
        let factors = args.factors()?;
        let model = args.model.load()?;
        let (train_length, source) = train_length(args.train_length, &model)?;
        let whole = Text::open(args.text.as_deref(), &model).map_err(as_text_option)?;
        let (calibration, text) = whole.split(CALIBRATION_SHARE)?;
        let length = train_length * factors.last().copied().unwrap_or(1);
        let streams = text::streams(
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
            asked: &args.mitigation,
            defaults: &mitigated::catalogue(train_length, length),
            train_length,
        };
        let (trials, skipped) =
            mitigated::choose(&choice, &mut Calibrator::new(&model, &calibration, train_length))?;
        let passkeys = Passkeys::new(&model, train_length, length, args.quick, args.seed.unwrap_or(0));
        if passkeys.is_none() {
            context.remark("no passkeys: they are asked for in words, and there is no tokenizer or no room");
        }
        let settings = settings(&model, &whole, (train_length, length), &streams, &trials);
        let board = Leaderboard {
            baseline: trial::baseline(&model, train_length),
            threads: context.threads(),
            train_length_source: source.into(),
            text: whole.name().into(),
            text_tokens: text.tokens(),
            calibration_tokens: calibration.tokens(),
            factors,
            skipped,
            ..Leaderboard::new(model.info(), settings)
        };
        Ok(Self {
            grid: Grid::windows(train_length, &board.factors),
            quick: args.quick,
            model,
            text,
            calibration,
            streams,
            trials,
            passkeys,
            board,
        })
    }

    /// Measures the rows that are missing, and writes all files after each.
    fn measure(
        &mut self,
        folder: &mut OutputFolder,
        stop: &Stop,
        context: &Context,
    ) -> Result<(), ProgramError> {
        let bench = Bench {
            model: &self.model,
            text: &self.text,
            calibration: &self.calibration,
            streams: &self.streams,
            grid: &self.grid,
            factors: &self.board.factors.clone(),
            train_length: self.board.settings.train_length,
            passkeys: self.passkeys.as_ref(),
            quick: self.quick,
            stop,
        };
        for (index, trial) in self.trials.iter().enumerate() {
            if self.board.rows.iter().any(|row| row.mitigation == trial.name()) {
                continue;
            }
            let progress = format!("{} of {}: {}", index + 1, self.trials.len(), trial.name());
            let Some(row) = bench.row(trial, &progress, context)? else {
                break;
            };
            self.board.add(row);
            self.board.write(folder)?;
            folder.keep();
        }
        self.board.complete = self.board.rows.len() == self.trials.len();
        self.board.write(folder)?;
        folder.keep();
        Ok(())
    }
}

/// Everything that decides the numbers.
fn settings(
    model: &Model,
    text: &Text,
    (train_length, length): (u64, u64),
    streams: &[Stream],
    trials: &[Trial],
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
        length,
        train_length,
        streams: streams.to_vec(),
        mitigations: trials.iter().map(|trial| trial.name().to_string()).collect(),
    }
}

/// Errors about the text name the option that this subcommand has for it.
fn as_text_option(error: ProgramError) -> ProgramError {
    match error {
        ProgramError::Failed(message) => ProgramError::Failed(format!("--text: {message}")),
        other => other,
    }
}

impl CompareArgs {
    /// 2, 4, … up to the longest.
    fn factors(&self) -> Result<Vec<u64>, ProgramError> {
        if self.streams == Some(0) {
            return Err(ProgramError::usage("--streams", "at least 1", "0"));
        }
        let longest = self.longest.unwrap_or(LONGEST[usize::from(self.quick)]);
        if !longest.is_power_of_two() || !(2..=1 << 20).contains(&longest) {
            let expected = "a power of two from 2 on: lengths double";
            return Err(ProgramError::usage("--longest", expected, longest.to_string()));
        }
        let doubled = std::iter::successors(Some(2), |factor| Some(2 * factor));
        Ok(doubled.take_while(|factor| *factor <= longest).collect())
    }

    /// The output folder: a new one, or that of the interrupted comparison, whose rows go into `board`.
    fn folder(&self, board: &mut Leaderboard) -> Result<OutputFolder, ProgramError> {
        let path = self.out.join(FILE);
        if self.resume {
            if !path.is_file() {
                let expected = "the folder of an interrupted comparison (--out)";
                return Err(ProgramError::usage(
                    "--resume",
                    expected,
                    self.out.display().to_string(),
                ));
            }
            board.resume(&path)?;
            return OutputFolder::create(&self.out, Existing::Resume);
        }
        OutputFolder::create(&self.out, Existing::Refuse).map_err(|error| interrupted_before(error, &path))
    }
}

fn interrupted_before(error: ProgramError, path: &Path) -> ProgramError {
    match error {
        ProgramError::FolderExists(folder) if path.is_file() => {
            let expected = "a new folder, or --resume to go on with the comparison in this one";
            ProgramError::usage("--out", expected, folder.display().to_string())
        }
        other => other,
    }
}
