//! What every subcommand shares: threads, progress bars, and printing to standard output.

use crate::error::ProgramError;
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};

/// More threads than any machine has cores are a slip of the keyboard.
pub const MOST_THREADS: usize = 1024;

/// What every subcommand shares.
#[derive(Debug)]
pub struct Context {
    threads: usize,
    quiet: bool,
}

impl Context {
    /// Builds the thread pool that every kernel runs on, of this thread and `threads` − 1 others. `None` takes every available
    /// core.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for 0 threads or absurdly many, [`ProgramError::Failed`] when the system refuses the threads.
    pub fn new(threads: Option<usize>, quiet: bool) -> Result<Self, ProgramError> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match threads {
            Some(threads) if !(1..=MOST_THREADS).contains(&threads) => {
                let expected = format!("a number from 1 to {MOST_THREADS}");
                return Err(ProgramError::usage("--threads", expected, threads.to_string()));
            }
            Some(threads) => threads,
            None => available(),
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            // Or this thread would sleep through every product, and have to be woken after it.
            .use_current_thread()
            .build_global()
            .map_err(|error| ProgramError::Failed(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self { threads, quiet })
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A progress bar on standard error; invisible with `--quiet` and when standard error is not a terminal.
    /// `unit` names what is counted, in the plural: `tokens`.
    pub fn progress(&self, total: u64, unit: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let template =
            format!("{{msg:<28}} {{bar:32}} {{human_pos}}/{{human_len}} {unit}  {{rate}}/s  {{eta}} left");
        // The template is fixed above but for the unit; if it should not parse, the plain bar still counts.
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
        });
        ProgressBar::new(total).with_style(style)
    }

    /// Prints to standard output and flushes, so that streamed text appears at once.
    ///
    /// # Errors
    /// [`ProgramError::Stdout`]; a reader that went away ends the program quietly.
    pub fn print(&self, text: impl fmt::Display) -> Result<(), ProgramError> {
        let mut stdout = io::stdout().lock();
        write!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .map_err(ProgramError::Stdout)
    }

    /// [`Self::print`] and a line end.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn print_line(&self, text: impl fmt::Display) -> Result<(), ProgramError> {
        self.print(format_args!("{text}\n"))
    }

    /// Prints indented JSON and a line end.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), ProgramError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| ProgramError::Internal(format!("JSON: {error}")))?;
        self.print_line(text)
    }

    /// A remark on standard error, such as which file was written; left out with `--quiet`.
    pub fn remark(&self, text: impl fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }
}
