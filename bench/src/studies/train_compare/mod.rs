//! `spillway train-compare`: trainings that differ in a few settings, and in their seeds, held against each other.
//!
//! Run folders of `spillway train` whose configurations differ in the seed alone are one arm. Losses are compared in ranges of position
//! that all evaluations have in common, hence on the same tokens; differences are taken seed by seed.
//!
//! | module | what is in it |
//! |---|---|
//! | [`runs`] | run folders, arms, and whether they can be compared |
//! | [`arm`], [`report`], [`factorial`] | what one arm gives, and all of them; effects of two settings and of both |
//! | [`findings`] | what the numbers support, in sentences |
//! | [`figures`], [`page`] | pictures and pages |

pub mod arm;
pub mod factorial;
pub mod figures;
pub mod findings;
pub mod page;
pub mod report;
pub mod runs;

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::{OutputFolder, OutputPlan};
use crate::studies::results::{Pages, print_results};
use clap::Args;
use runs::Training;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The files that this command writes.
const OWN: &[&str] = &[
    "results.json",
    "results.csv",
    "RESULTS.md",
    "report.html",
    "figures/*.svg",
];

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
    /// Folder to write to, new or empty [default: spillway-train-compare; spillway-train-compare-2 and so on when that is
    /// taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a comparison of trainings in it is replaced, all other files stay
    #[arg(long)]
    pub force: bool,
}

/// Runs `spillway train-compare`.
///
/// # Errors
/// [`ProgramError`] for folders that are no trainings, or none that can be compared, and files that cannot be written.
pub fn run(args: &TrainCompareArgs, context: &Context) -> Result<(), ProgramError> {
    let mut out = OutputFolder::open(&args.output_plan(), context)?;
    let waiting = context.waiting("comparing");
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
    let report = findings::report(&arms, ranges, command(args, out.path()));
    let pictures = figures::pictures(&report);
    drop(waiting);
    let pages = Pages {
        report: &report,
        csv: page::write_csv,
        markdown: page::markdown(&report, &pictures),
        page: page::page(&report, &pictures, &Provenance::here(context.threads())),
        pictures: &pictures,
    };
    pages.write(&mut out)?;
    out.keep();
    let document = json!({ "findings": report.findings });
    let findings = [&report.findings.supported[..], &report.findings.unsupported];
    print_results(context, findings, out.path(), document)
}

impl TrainCompareArgs {
    fn output_plan(&self) -> OutputPlan<'_> {
        OutputPlan {
            what: "a comparison of trainings",
            default: "spillway-train-compare",
            named: self.out.as_deref(),
            force: self.force,
            resume: false,
            own: OWN,
            marks: &[],
        }
    }
}

/// The command that makes this comparison.
fn command(args: &TrainCompareArgs, out: &Path) -> String {
    let runs: Vec<String> = args.runs.iter().map(|run| run.display().to_string()).collect();
    let reference = args
        .reference
        .as_ref()
        .map_or(String::new(), |reference| format!(" --reference {reference}"));
    format!(
        "spillway train-compare {}{reference} --out {}",
        runs.join(" "),
        out.display()
    )
}
