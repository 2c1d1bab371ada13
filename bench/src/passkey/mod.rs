//! `spillway passkey`: up to which length, and where in the text, does a model still find five digits?
//!
//! | room | what is in it |
//! |---|---|
//! | [`prompt`] | the task: the four strings, the number of blocks, the place of the passkey |
//! | [`evaluate`] | asking every prompt, with the states of common beginnings shared |
//! | [`calibration`] | numbers for the mitigations that are calibrated |
//! | [`report`], [`heatmap`] | files, table and picture |
//! | [`lengths`] | lists of lengths as they are typed |

pub mod calibration;
pub mod evaluate;
pub mod heatmap;
pub mod lengths;
pub mod prompt;
pub mod report;

use crate::cli::parse_tokens;
use crate::context::Context;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::output::{Existing, OutputFolder};
use crate::trial::Trial;
use clap::Args;
use lengths::{Lengths, parse_lengths};
use mitigations::Mitigation;
use models::Model;
use prompt::{Case, Template};
use report::{Report, Run, VERSION};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// Options of `spillway passkey`.
#[derive(Debug, Args)]
#[command(after_help = "\
Five digits are hidden in a line of filler text, and the model is asked for them at the end. Every length is asked at
--depths × --samples places spread evenly from the beginning to the end of the text; --depths 10 --samples 20 are the 200 places
of the published experiment. The answer is greedy, and right if the five digits occur in it.

Writes passkey.csv (with Wilson 95 % intervals), passkey.json and one heat map per mitigation.

Examples:
  spillway passkey mamba2-130m --lengths 1k..16k
  spillway passkey mamba2-130m --mitigation none --mitigation rri:0.9999,0.75 --out passkey-rri")]
pub struct PasskeyArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Context lengths in tokens: a list (1k,2k,5000), or a range that doubles (1k..64k)
    #[arg(long, value_name = "LIST", default_value = "1k..64k", value_parser = parse_lengths)]
    pub lengths: Lengths,
    /// Rows of the heat map
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub depths: u16,
    /// Prompts per cell of the heat map
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub samples: u16,
    /// Mitigation to try; give it several times to compare [default: none]
    #[arg(long = "mitigation", value_name = "SPEC")]
    pub mitigations: Vec<Mitigation>,
    /// Length that the model was trained on, in tokens: marked in the heat map [default: what the checkpoint says]
    #[arg(long, value_name = "N", value_parser = parse_tokens)]
    pub train_length: Option<u64>,
    /// Folder to write to; it must not hold anything yet
    #[arg(long, value_name = "DIR", default_value = "spillway-passkey")]
    pub out: PathBuf,
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
    let model = args.model.load()?;
    let train_length = args.train_length.or(model.info().train_length);
    let mitigations = prepared(args, &model, train_length)?;
    let cases = all_cases(args, &model)?;
    let mut out = OutputFolder::create(&args.out, Existing::Refuse)?;
    let mut report = Report {
        version: VERSION,
        model: model.info(),
        train_length,
        seed: args.seed,
        lengths: &args.lengths.0,
        depths: usize::from(args.depths),
        samples: usize::from(args.samples),
        runs: Vec::new(),
    };
    context.print_line(format_args!(
        "passkey retrieval, {}: share of passkeys found, {} prompts a cell",
        report.model.name, args.samples
    ))?;
    for mitigation in &mitigations {
        let run = run_one(args, context, &model, mitigation, &cases)?;
        let picture = picture_name(&run.mitigation);
        let cause = |cause| ProgramError::Picture {
            picture: picture.clone(),
            cause,
        };
        let svg = heatmap::svg(&run, &report.model.name, train_length).map_err(cause)?;
        print_run(context, &run)?;
        report.runs.push(run);
        out.write(&picture, |file| file.write_all(svg.as_bytes()))?;
        out.write("passkey.csv", |file| report::write_csv(&report.runs, file))?;
        out.write_json("passkey.json", &report)?;
        out.keep();
    }
    context.remark(format_args!("written to {}", out.path().display()));
    Ok(())
}

/// The mitigations asked for, each known to fit the model before hours of work begin.
fn prepared(
    args: &PasskeyArgs,
    model: &Model,
    train_length: Option<u64>,
) -> Result<Vec<Mitigation>, ProgramError> {
    let none = [Mitigation::none()];
    let asked = if args.mitigations.is_empty() {
        &none[..]
    } else {
        &args.mitigations
    };
    let ready = |mitigation| {
        let mitigation = calibration::calibrated(mitigation, model, train_length)?;
        Trial::of(&mitigation).expect_possible(model)?;
        Ok(mitigation)
    };
    asked.iter().map(ready).collect()
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

fn run_one(
    args: &PasskeyArgs,
    context: &Context,
    model: &Model,
    mitigation: &Mitigation,
    cases: &[Case],
) -> Result<Run, ProgramError> {
    let bar = context.progress(cases.iter().map(|case| case.length).sum(), "tokens");
    bar.set_message(mitigation.to_string());
    let begin = Instant::now();
    let on_tokens = |tokens| {
        bar.inc(tokens);
        ControlFlow::Continue(())
    };
    let evaluation = evaluate::evaluate(model, &Trial::of(mitigation), cases, on_tokens)?;
    let Some(evaluation) = evaluation else {
        return Err(ProgramError::Failed("interrupted".into()));
    };
    bar.finish_and_clear();
    let (rows, seconds) = (usize::from(args.depths), begin.elapsed().as_secs_f64());
    Ok(Run::new(
        mitigation.to_string(),
        cases,
        &evaluation,
        rows,
        seconds,
    ))
}

fn print_run(context: &Context, run: &Run) -> Result<(), ProgramError> {
    let recall = match run.recall_length {
        Some(length) => format!("more than 95 % found up to {length} tokens"),
        None => "not more than 95 % found at any length".into(),
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
