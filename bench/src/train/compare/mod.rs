//! `spillway train-compare`: trainings that differ in a few settings, and in their seeds, held against each other.
//!
//! Run folders of `spillway train` whose configurations differ in the seed alone are one arm. Losses are compared in ranges of position
//! that all evaluations have in common, hence on the same tokens; differences are taken seed by seed.
//!
//! | room | what is in it |
//! |---|---|
//! | [`runs`] | run folders, arms, and whether they can be compared |
//! | [`estimate`] | means over seeds with intervals |
//! | [`report`], [`factorial`] | what the arms give; effects of two settings and of both |
//! | [`findings`] | what the numbers support, in sentences |
//! | [`figures`], [`page`] | pictures and pages |

pub mod estimate;
pub mod factorial;
pub mod figures;
pub mod findings;
pub mod page;
pub mod report;
pub mod runs;

use crate::context::Context;
use crate::error::ProgramError;
use crate::output::{Existing, OutputFolder};
use clap::Args;
use report::Report;
use runs::Training;
use std::path::PathBuf;

/// Options of `spillway train-compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the folders of finished trainings that were evaluated on the same text. Trainings that differ in their seeds alone are one arm, named as \
their folders are without the seed at the end; arms are compared seed by seed in the positions that all evaluations have in common.

Writes report.html, RESULTS.md, results.json, results.csv and figures/.

Examples:
  spillway train bench/configs/training/train-longer/t64.toml --seed 1 --out runs/t64-1
  spillway train bench/configs/training/train-longer/t256.toml --seed 1 --out runs/t256-1
  spillway train-compare runs/t64-1 runs/t256-1 --out comparison")]
pub struct TrainCompareArgs {
    /// Folders that spillway train has written
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Arm that the others are compared with [default: that of the first folder]
    #[arg(long, value_name = "ARM")]
    pub reference: Option<String>,
    /// Folder to write to; it must not hold anything yet
    #[arg(long, value_name = "DIR", default_value = "spillway-train-compare")]
    pub out: PathBuf,
}

/// Runs `spillway train-compare`.
///
/// # Errors
/// [`ProgramError`] for folders that are no trainings, or none that can be compared, and files that cannot be written.
pub fn run(args: &TrainCompareArgs, context: &Context) -> Result<(), ProgramError> {
    let trainings = args.runs.iter().map(|folder| Training::read(folder));
    let mut arms = runs::arms(trainings.collect::<Result<_, _>>()?)?;
    if let Some(reference) = &args.reference {
        let Some(index) = arms.iter().position(|arm| arm.name == *reference) else {
            let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
            let expected = format!("one of {}", names.join(", "));
            return Err(ProgramError::usage("--reference", expected, reference));
        };
        arms[..=index].rotate_right(1);
    }
    let ranges = runs::common_ranges(&arms)?;
    let report = Report::new(&arms, ranges, command(args));
    let pictures = figures::pictures(&report)?;
    let mut out = OutputFolder::create(&args.out, Existing::Refuse)?;
    out.write_json("results.json", &report)?;
    out.write("results.csv", |file| page::write_csv(&report, file))?;
    out.write("RESULTS.md", |file| {
        file.write_all(page::markdown(&report, &pictures).as_bytes())
    })?;
    out.write("report.html", |file| {
        file.write_all(page::page(&report, &pictures).as_bytes())
    })?;
    let mut figures = OutputFolder::create(&args.out.join("figures"), Existing::Refuse)?;
    for picture in &pictures {
        figures.write(&format!("{}.svg", picture.name), |file| {
            file.write_all(picture.figure.svg.as_bytes())
        })?;
    }
    figures.keep();
    out.keep();
    for (title, sentences) in [
        ("What the trainings support", &report.findings.supported),
        ("What they do not support", &report.findings.unsupported),
    ] {
        context.print_line(format_args!("\n{title}"))?;
        sentences
            .iter()
            .try_for_each(|sentence| context.print_line(format_args!("- {sentence}")))?;
    }
    context.remark(format_args!(
        "\nreport: {}",
        args.out.join("report.html").display()
    ));
    Ok(())
}

/// The command that makes this comparison.
fn command(args: &TrainCompareArgs) -> String {
    let runs: Vec<String> = args.runs.iter().map(|run| run.display().to_string()).collect();
    let reference = args
        .reference
        .as_ref()
        .map_or(String::new(), |reference| format!(" --reference {reference}"));
    format!(
        "spillway train-compare {}{reference} --out {}",
        runs.join(" "),
        args.out.display()
    )
}
