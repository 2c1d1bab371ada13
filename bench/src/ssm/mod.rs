//! `spillway ssm`: what a linear system with a state of N numbers is, hears and remembers.
//!
//! x′ = A x + B u. HiPPO's measures and S4D's initialisations are choices of A and B; this shows what each choice does to one
//! signal, in pictures that ask for no theory. The mathematics is [`spillway_ssm_core::state_space`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`system`] | the systems by their names |
//! | [`signal`] | the signal: a file, or the built-in one |
//! | [`history`] | states of a system along a signal, and the past of least energy that a state tells of |
//! | [`functions`] | what each number of the state weighs the past by |
//! | [`spectrum`], [`window_modes`] | eigenvalues before and after the system is made discrete; those that a solver cannot find |
//! | [`memory`] | what a state remembers, and how well by age |
//! | [`views`] | one output by three ways to compute it, and at other sampling rates |
//! | [`report`], `files` | all of this of every system, as a table and as JSON; the files |
//! | [`figures`], [`page`] | the pictures; the page and its explanations |

pub mod figures;
mod files;
pub mod functions;
pub mod history;
pub mod memory;
pub mod page;
pub mod report;
pub mod signal;
pub mod spectrum;
pub mod system;
pub mod views;
pub mod window_modes;

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::ink::MOST;
use crate::kit::provenance::Provenance;
use crate::output::{OutputFolder, OutputPlan};
use clap::Args;
use report::Report;
use signal::{DEFAULT_SAMPLES, SAMPLES, Signal};
use spillway_ssm_core::state_space::{Discretisation, StateSpaceError};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use system::Named;

/// N: matrices of N × N are multiplied, and their exponentials taken.
const STATES: RangeInclusive<usize> = 1..=256;
/// Units of a system's time over the whole signal, where no step is asked for: two windows of `legt` and `fourier`.
const UNITS_OF_TIME: f64 = 4.0;
/// The files that it writes.
const OWN: &[&str] = &[
    "report.html",
    "systems.json",
    "functions.csv",
    "eigenvalues.csv",
    "memory.csv",
    "errors.csv",
    "outputs.csv",
];

/// Options of `spillway ssm`.
#[derive(Debug, Args)]
#[command(after_help = "\
Measures of the past (HiPPO): legs, legsd, legt, lmu, lagt, tlagt, glagt, fourier (fout), fourier2, fourier_decay,
fourier_diag (foud). Initialisations of S4D: lin, inv, inv2, quad, real, rand, and diag-legs. The state is looked at while it
listens to a signal; without --signal that is smooth noise with a step in it.

Examples:
  spillway ssm legs --out legs
  spillway ssm --compare legs,legt,lagt,lin --out measures
  spillway ssm fout --states 64 --rule bilinear --signal temperatures.csv --column 2 --out temperatures
  spillway ssm real --step 0.01 --json

With --out, report.html has the pictures and says what to look for in each; the figures lie beside it as CSV and JSON.")]
pub struct SsmArgs {
    /// The system: a measure, or an initialisation of S4D [default: legs]
    #[arg(value_name = "MEASURE")]
    pub measure: Option<String>,
    /// Several systems in one report, with commas between them, at most 7
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub compare: Vec<String>,
    /// N, the length of the state: numbers that it holds [default: 32]
    #[arg(long, value_name = "N")]
    pub states: Option<usize>,
    /// Δ, the step from sample to sample in the system's own time [default: 4 over the length of the signal]
    #[arg(long, value_name = "DELTA", allow_negative_numbers = true)]
    pub step: Option<f64>,
    /// How the system is made discrete: zoh, bilinear, backward, forward, mixed (Mamba's) or trapezoidal
    #[arg(long, value_name = "RULE", default_value = "zoh")]
    pub rule: String,
    /// A file of numbers, one to a line or in a table [default: a built-in signal]
    #[arg(long, value_name = "FILE")]
    pub signal: Option<PathBuf>,
    /// Place of the column to read from the file, the first being 1 [default: the only one]
    #[arg(long, value_name = "N", requires = "signal")]
    pub column: Option<usize>,
    /// Length of the signal in samples [default: the whole file; 1000]
    #[arg(long, value_name = "SAMPLES")]
    pub length: Option<usize>,
    /// Seed of the built-in signal, and of systems that are drawn at random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for report.html, CSV and JSON, new or empty [default: nothing is written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: a report in it is replaced, all other files stay
    #[arg(long, requires = "out")]
    pub force: bool,
}

/// What is the same for every system.
#[derive(Clone, Debug)]
pub struct Setting {
    /// N, how many numbers a state has.
    pub states: usize,
    /// Δ, the time from one sample to the next.
    pub step: f64,
    /// The rule that makes systems discrete.
    pub rule: Discretisation,
    /// Seed of what is drawn at random.
    pub seed: u64,
}

/// Runs the subcommand.
///
/// # Errors
/// [`ProgramError`]: a name or a number that there cannot be, a signal that cannot be read, a folder that cannot be written.
pub fn run(args: &SsmArgs, context: &Context) -> Result<(), ProgramError> {
    args.check()?;
    let systems = args.systems()?;
    let states = args.states_of(&systems)?;
    let rule = rule(&args.rule)?;
    let mut folder = match args.place() {
        Some(place) => Some(OutputFolder::open(&place, context)?),
        None => None,
    };
    let signal = match &args.signal {
        Some(path) => Signal::read(path, args.column, args.length)?,
        None => Signal::built_in(args.length.unwrap_or(DEFAULT_SAMPLES), args.seed),
    };
    let setting = Setting {
        states,
        step: args.step.unwrap_or(UNITS_OF_TIME / signal.samples.len() as f64),
        rule,
        seed: args.seed,
    };
    let report = Report::measure(&systems, setting, signal, context)?;
    context.print_line(report.table())?;
    let json = report.json();
    let Some(folder) = &mut folder else {
        return context.print_json(&json);
    };
    report.write(folder, &Provenance::here(context.threads()))?;
    folder.keep();
    context.print_folder(folder.path(), OWN, json)?;
    context.remark(format_args!("\nreport: {}", folder.file("report.html").display()));
    Ok(())
}

impl SsmArgs {
    /// Refuses numbers that no system takes.
    fn check(&self) -> Result<(), ProgramError> {
        if let Some(length) = self.length.filter(|length| !SAMPLES.contains(length)) {
            let expected = format!("from {} to {} samples", SAMPLES.start(), SAMPLES.end());
            return Err(ProgramError::usage("--length", expected, length.to_string()));
        }
        match self.step.filter(|step| !(1e-9..=1e3).contains(step)) {
            Some(step) => {
                let expected = "a time above 0, from 1e-9 to 1000";
                Err(ProgramError::usage("--step", expected, step.to_string()))
            }
            None => Ok(()),
        }
    }

    /// The systems that are asked for, each once.
    fn systems(&self) -> Result<Vec<Named>, ProgramError> {
        let first = self.measure.iter().map(|name| ("MEASURE", name));
        let others = self.compare.iter().map(|name| ("--compare", name));
        let mut systems = Vec::new();
        for (option, name) in first.chain(others) {
            let named = Named::parse(option, name)?;
            if !systems.contains(&named) {
                systems.push(named);
            }
        }
        if systems.is_empty() {
            systems.push(Named::parse("MEASURE", "legs")?);
        }
        match systems.len() <= MOST {
            true => Ok(systems),
            false => {
                let expected = format!("at most {MOST} systems, which is what pictures tell apart");
                Err(ProgramError::usage(
                    "--compare",
                    expected,
                    systems.len().to_string(),
                ))
            }
        }
    }

    fn states_of(&self, systems: &[Named]) -> Result<usize, ProgramError> {
        let states = self.states.unwrap_or(32);
        if !STATES.contains(&states) {
            let expected = format!("from {} to {} numbers", STATES.start(), STATES.end());
            return Err(ProgramError::usage("--states", expected, states.to_string()));
        }
        match systems
            .iter()
            .find(|named| named.has_pairs() && !states.is_multiple_of(2))
        {
            Some(named) => {
                let expected = format!("an even number, since {} has its numbers in pairs", named.name());
                Err(ProgramError::usage("--states", expected, states.to_string()))
            }
            None => Ok(states),
        }
    }

    fn place(&self) -> Option<OutputPlan<'_>> {
        let named = self.out.as_deref()?;
        Some(OutputPlan {
            what: "a report",
            default: "spillway-ssm",
            named: Some(named),
            force: self.force,
            resume: false,
            own: OWN,
            marks: &[],
        })
    }
}

fn rule(name: &str) -> Result<Discretisation, ProgramError> {
    Discretisation::from_name(name).map_err(|error| match error {
        StateSpaceError::Name { known, .. } => {
            let near = spillway_mitigations::registry::nearest_word(name, known.split(", "));
            let meant = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
            ProgramError::usage("--rule", format!("one of {known}{meant}"), name)
        }
        other => failed(other),
    })
}

/// What the theory refuses beyond what the command line is checked for.
fn failed(error: StateSpaceError) -> ProgramError {
    ProgramError::Failed(error.to_string())
}
