//! The `spillway` program: where does a recurrent model collapse, in which heads, why, what cures it, at what cost.
//!
//! The program is a thin shell over the other crates, and this library is the program without its `main`, so that tests and
//! benchmarks can reach its parts.
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`], [`values`] | the command line: every subcommand and its help text; values as they are typed |
//! | [`context`], [`progress`], [`terminal`] | what every subcommand shares: threads, printing; how far something long has come |
//! | [`error`] | the one error type, and the exit code that follows from it |
//! | [`output`], [`stop`] | files that are whole or absent, and output folders; stopping on a signal |
//! | [`answers`] | what an interrupted run of questions goes on from |
//! | [`calibration`], [`mitigation_file`] | numbers for the mitigations that are calibrated, and the file that keeps them |
//! | [`trial`], [`choice`] | what is tried on a model: a mitigation, or starting it again; which of them |
//! | [`text`], [`settings`] | the text that `--text` names; what an interrupted run goes on under |
//! | [`model_args`], [`prompt`], [`encoder`], [`costs`] | which model; a prompt of any length, and how an encoder reads it; what a token costs at least |
//! | [`ranks`] | several processes for one command, under `mpirun` |
//! | [`machine`], `process` | what the system tells about the machine and its limits, and about this process |
//! | [`kit`] | everything made for eyes: pages, tables, charts, numbers |
//! | [`diagnose`] | `spillway diagnose` |
//! | [`passkey`] | `spillway passkey` |
//! | [`recall`] | `spillway recall` |
//! | [`leaderboard`] | `spillway compare` |
//! | [`train`] | `spillway train` |
//! | [`studies`] | `spillway capacity`, `spillway frontier`, `spillway train-compare`, `spillway train-table`, `spillway state-precision`: experiments of many trainings or runs |
//! | [`ssm`] | `spillway ssm`: what a linear system hears, and what its state remembers |
//! | [`catalogue`], [`doctor`] | `spillway mitigations`; `spillway doctor` |
//! | `sound` | what is generated as a WAV file |
//! | [`shell`] | `spillway completions`, `spillway man` |
//! | [`pull`] | `spillway pull`, and names on a hub in the place of paths |
//! | [`generate`], [`inspect`], [`init`], [`convert`], [`tokens`], [`speed`] | the subcommands of these names; [`speed`] is `spillway bench` |
//!
//! Exit codes: 0 done, 1 something failed, 2 the command line asks for something impossible.

pub mod answers;
pub mod calibration;
pub mod catalogue;
pub mod chat;
pub mod choice;
pub mod cli;
pub mod context;
pub mod convert;
pub mod costs;
pub mod diagnose;
pub mod doctor;
pub mod encoder;
pub mod error;
pub mod generate;
mod generation_args;
pub mod init;
pub mod inspect;
pub mod kit;
pub mod leaderboard;
pub mod machine;
pub mod mitigation_file;
pub mod model_args;
pub mod output;
pub mod passkey;
mod process;
pub mod progress;
pub mod prompt;
pub mod pull;
pub mod ranks;
pub mod recall;
#[cfg(feature = "serve")]
pub mod serve;
pub mod settings;
pub mod shell;
mod sound;
mod speculation;
pub mod speed;
pub mod ssm;
pub mod stop;
pub mod studies;
pub mod terminal;
pub mod text;
pub mod tokens;
pub mod train;
pub mod trial;
pub mod values;

use clap::Parser;
use clap::error::ErrorKind;
use error::ProgramError;
use spillway_models::message::shown;
use std::ffi::OsString;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

/// Runs the example of a mitigation of one's own as a test.
#[cfg(doctest)]
#[doc = concat!("```standalone_crate\n", include_str!("../examples/own_mitigation.rs"), "\n```")]
struct OwnMitigation;

/// Runs the program with these arguments, the program's name first, and gives its exit code.
///
/// Every error is one line on standard error, starting with `spillway: `, as [`shown`] makes it.
///
/// A program that has mitigations of its own registers them before ([`spillway_mitigations::register`]); every command then takes them.
/// `examples/own_mitigation.rs` is such a program.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(without_help_of_help(arguments)) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| cli.run()))
        .unwrap_or_else(|cause| Err(ProgramError::Internal(panic_message(cause.as_ref()))));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output went away, as in `spillway inspect X | head`: there is nobody left to complain to.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            terminal::say(format_args!("spillway: {}", shown(&error.to_string())));
            ExitCode::from(error.exit_code())
        }
    }
}

/// `spillway help --help` as `spillway help`: clap takes what follows `help` for the name of a subcommand.
fn without_help_of_help(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|first| first == "help") {
        arguments.retain(|argument| argument != "--help" && argument != "-h");
    }
    arguments
}

/// Help and version go out as clap formats them; everything else becomes one line and exit code 2.
fn report_usage(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(
        error.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // A closed standard output leaves nothing to report to.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let rendered = error.to_string();
    let message: Vec<&str> = rendered
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Usage:"))
        .collect();
    let message = message
        .join(" ")
        .replace("For more information, try '--help'.", "(try --help)");
    terminal::say(format_args!(
        "spillway: {}",
        shown(message.trim_start_matches("error: "))
    ));
    ExitCode::from(2)
}

fn panic_message(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_string()
}
