//! What every subcommand shares: threads, progress, and printing to standard output.

use crate::error::ProgramError;
pub use crate::progress::Progress;
use crate::terminal::say;
use serde::Serialize;
use serde_json::{Value, json};
use spillway_models::parallel::{Communicator, launch};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// More threads than any machine has cores are a slip of the keyboard.
pub const MOST_THREADS: usize = 1024;

/// What every subcommand shares.
#[derive(Debug)]
pub struct Context {
    threads: usize,
    printing: Printing,
    ranks: Option<Arc<dyn Communicator>>,
}

/// Whether progress and remarks are printed, and whether results are text or one JSON document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Printing {
    /// No progress bars and remarks.
    pub quiet: bool,
    /// Results are one JSON document on standard output, and no text.
    pub json: bool,
}

impl Context {
    /// Builds the thread pool that every kernel runs on, of this thread and `threads` − 1 others. `None` takes every available
    /// core.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for 0 threads or absurdly many, [`ProgramError::Failed`] when the system refuses the threads.
    pub fn new(threads: Option<usize>, printing: Printing) -> Result<Self, ProgramError> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match threads {
            Some(threads) if !(1..=MOST_THREADS).contains(&threads) => {
                let expected = format!("a number from 1 to {MOST_THREADS}");
                return Err(ProgramError::usage("--threads", expected, threads.to_string()));
            }
            Some(threads) => threads,
            // Those of a launcher share the cores of a machine.
            None => (available() / launch::local_size()).max(1),
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            // Or this thread would sleep through every product, and have to be woken after it.
            .use_current_thread()
            .build_global()
            .map_err(|error| ProgramError::Failed(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self {
            threads,
            printing,
            ranks: None,
        })
    }

    /// For a program that calls parts of this one from a pool of `threads` of its own: starts none.
    pub fn within(threads: usize, printing: Printing) -> Self {
        Self {
            threads,
            printing,
            ranks: None,
        }
    }

    /// This context on one of several ranks: all but rank 0 are silent.
    #[must_use]
    pub fn on(mut self, ranks: Option<Arc<dyn Communicator>>) -> Self {
        self.printing.quiet |= ranks.as_ref().is_some_and(|ranks| ranks.rank() > 0);
        Self { ranks, ..self }
    }

    /// The ranks, where there are several.
    pub fn ranks(&self) -> Option<&dyn Communicator> {
        self.ranks.as_deref()
    }

    /// As [`Self::ranks`], to be kept.
    pub fn shared_ranks(&self) -> Option<Arc<dyn Communicator>> {
        self.ranks.clone()
    }

    /// Whether this is rank 0, or the only process: the one that has the output folder.
    pub fn leads(&self) -> bool {
        self.ranks().is_none_or(|ranks| ranks.rank() == 0)
    }

    /// Whether progress and remarks are left out.
    pub fn is_quiet(&self) -> bool {
        self.printing.quiet
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How far something long has come, on standard error; see [`Progress`]. `unit` names what is counted, in the plural:
    /// `tokens`.
    pub fn progress(&self, total: u64, unit: &str) -> Progress {
        self.progress_from(0, total, unit)
    }

    /// [`Self::progress`] of which `done` is done already.
    pub fn progress_from(&self, done: u64, total: u64, unit: &str) -> Progress {
        Progress::new(self.printing.quiet, Some((done, total)), unit)
    }

    /// That something goes on of which nobody knows how long it takes, such as loading a model.
    pub fn waiting(&self, what: &str) -> Progress {
        let progress = Progress::new(self.printing.quiet, None, "");
        progress.set_message(what.to_string());
        progress
    }

    /// Whether standard output is for one JSON document.
    pub fn is_json(&self) -> bool {
        self.printing.json
    }

    /// Prints to standard output and flushes, so that streamed text appears at once; nothing where JSON is wanted.
    ///
    /// # Errors
    /// [`ProgramError::Stdout`]; a reader that went away ends the program quietly.
    pub fn print(&self, text: impl fmt::Display) -> Result<(), ProgramError> {
        match self.printing.json {
            true => Ok(()),
            false => self.write(text),
        }
    }

    fn write(&self, text: impl fmt::Display) -> Result<(), ProgramError> {
        if !self.leads() {
            return Ok(());
        }
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

    /// Prints the one JSON document, indented, and a line end; nothing where text is wanted.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), ProgramError> {
        if !self.printing.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| ProgramError::Internal(format!("JSON: {error}")))?;
        self.write(format_args!("{text}\n"))
    }

    /// The JSON document of a command that writes a folder: the folder, these of its files with their paths, and `more`.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn print_folder(&self, folder: &Path, files: &[&str], more: Value) -> Result<(), ProgramError> {
        let paths: Vec<String> = files
            .iter()
            .map(|name| folder.join(name).display().to_string())
            .collect();
        let mut document = json!({ "folder": folder.display().to_string(), "files": paths });
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        self.print_json(&document)
    }

    /// A remark on standard error, such as which file was written; left out with `--quiet`.
    pub fn remark(&self, text: impl fmt::Display) {
        if !self.printing.quiet {
            say(text);
        }
    }
}
