//! `spillway capacity`: how much does a state of a given size hold, and how long must a model be trained to learn to forget?
//!
//! Models of several state sizes are trained at several lengths, several times each. T_forget is the shortest training length at which
//! a model does not collapse beyond it, T_recall the longest context in which it finds a passkey; laws are fitted to both, beside the
//! published ones. Source: Chen et al., *Stuffed Mamba: Oversized States Lead to the Inability to Forget* (2410.07145), section 5.
//!
//! | room | what is in it |
//! |---|---|
//! | [`config`], [`initial`] | the sweep's configuration and each training's; initial values |
//! | [`sweep`], [`training`], [`measure`] | many trainings at once, in pieces; one; what is asked of the trained model |
//! | [`result`], [`threshold`] | what one training gives; T_forget and T_recall from many |
//! | [`fit`] | laws fitted to intervals: likelihood, AIC, bootstrap, profile; the published points |
//! | [`analysis`], [`findings`], [`report`] | the laws of our thresholds; what the numbers support; everything as data |
//! | [`figures`], [`maps`], [`chart`], [`grid`], [`page`] | pictures and pages |

pub mod analysis;
pub mod chart;
pub mod config;
pub mod figures;
pub mod findings;
pub mod fit;
pub mod grid;
pub mod initial;
pub mod maps;
pub mod measure;
pub mod page;
pub mod report;
pub mod result;
pub mod sweep;
pub mod threshold;
pub mod training;

#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::diagnose::stop_on_signal;
use crate::diagnose::stream::Stop;
use crate::error::ProgramError;
use crate::output::{Existing, OutputFolder};
use clap::Args;
use config::SweepConfig;
use std::path::PathBuf;
use sweep::Sweep;

/// Options of `spillway capacity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Trains models of several state sizes at several lengths, as many at a time as there are threads, and fits laws to the training length at
which a model stops to collapse (T_forget) and to the longest context in which it finds a passkey (T_recall).

Writes report.html, RESULTS.md, results.json, results.csv, figures/ and a folder for each training under runs/. Ctrl-C finishes the steps
under way and saves; --resume goes on from there to the same bits, and takes in whatever the configuration has gained meanwhile.

Examples:
  spillway capacity bench/configs/capacity/small.toml --out capacity
  spillway capacity bench/configs/capacity/small.toml --out capacity --resume
  spillway capacity bench/configs/capacity/small.toml --out bench/results/capacity-small --figures-only")]
pub struct CapacityArgs {
    /// What to sweep over
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Folder to write to; it must not hold anything yet
    #[arg(long, value_name = "DIR", default_value = "spillway-capacity")]
    pub out: PathBuf,
    /// Go on with the sweep in the output folder: finished trainings are kept, half ones resumed
    #[arg(long)]
    pub resume: bool,
    /// Train nothing; draw the figures and write the pages again from the results in the output folder
    #[arg(long, conflicts_with = "resume")]
    pub figures_only: bool,
    /// Stop after this many steps of all trainings together, as Ctrl-C would
    #[arg(long, value_name = "STEPS", conflicts_with = "figures_only")]
    pub stop_after: Option<u64>,
}

/// Runs `spillway capacity`.
///
/// # Errors
/// [`ProgramError`] for a configuration that cannot be used, a training that fails, files that cannot be written, and an
/// interruption, after which the sweep can be resumed.
pub fn run(args: &CapacityArgs, context: &Context) -> Result<(), ProgramError> {
    let (config, text) = SweepConfig::load(&args.config)?;
    let sweep = Sweep {
        config: &config,
        path: &args.config,
        text: &text,
        out: &args.out,
        command: format!(
            "spillway capacity {} --out {}",
            args.config.display(),
            args.out.display()
        ),
    };
    if args.figures_only {
        if !sweep::has_results(&args.out) {
            let expected = format!("a folder with results of trainings under {}", sweep::RUNS);
            return Err(ProgramError::usage(
                "--out",
                expected,
                args.out.display().to_string(),
            ));
        }
        return finish(&sweep, context);
    }
    let existing = if args.resume {
        Existing::Resume
    } else {
        Existing::Refuse
    };
    OutputFolder::create(&args.out, existing)?.keep();
    let stop = Stop::after(args.stop_after);
    stop_on_signal(&stop)?;
    let complete = sweep.train(context, &stop)?;
    finish(&sweep, context)?;
    match complete {
        true => Ok(()),
        false => Err(ProgramError::Failed(
            "interrupted; the same command with --resume goes on".into(),
        )),
    }
}

/// Writes the pages and prints what was found.
fn finish(sweep: &Sweep<'_>, context: &Context) -> Result<(), ProgramError> {
    let report = sweep.write(context)?;
    for (title, sentences) in [
        ("What the trainings support", &report.findings.supported),
        ("What they do not support", &report.findings.unsupported),
    ] {
        context.print_line(format_args!("\n{title}"))?;
        sentences
            .iter()
            .try_for_each(|sentence| context.print_line(format_args!("- {sentence}")))?;
    }
    Ok(())
}
