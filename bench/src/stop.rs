//! Stopping: on a signal, or after a number of tokens.

use crate::context::Context;
use crate::error::ProgramError;
use crate::output;
use crate::terminal::say;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Tells a run to stop: on Ctrl-C, or after a number of tokens.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    saves: Arc<AtomicBool>,
    tokens_left: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
}

impl Stop {
    /// Never stops by itself, or after about `tokens`.
    pub fn after(tokens: Option<u64>) -> Self {
        let tokens_left = Arc::new(AtomicU64::new(tokens.unwrap_or(u64::MAX)));
        Self {
            asked: Arc::new(AtomicBool::new(tokens == Some(0))),
            saves: Arc::new(AtomicBool::new(false)),
            tokens_left,
            counted: Arc::default(),
        }
    }

    /// Listens for Ctrl-C and the system's wish to end. While there is nothing to keep, that ends the program at once, and with it
    /// goes what it has made; after [`Self::has_something_to_keep`] the first signal asks for a stop at the next place to go on
    /// from, and the second ends the program at once.
    ///
    /// # Errors
    /// [`ProgramError::Failed`] when the system does not let signals be heard.
    pub fn on_signal(&self, context: &Context) -> Result<(), ProgramError> {
        let (stop, quiet) = (self.clone(), context.is_quiet());
        let ask = move || {
            let again = stop.ask();
            if again || !stop.saves.load(Ordering::Relaxed) {
                output::abandon();
                if !again {
                    say(format_args!("spillway: {}", ProgramError::Interrupted));
                }
                std::process::exit(130);
            }
            if !quiet {
                say("stopping at the next place to go on from; a second Ctrl-C ends the program at once");
            }
        };
        ctrlc::set_handler(ask)
            .map_err(|error| ProgramError::Failed(format!("cannot listen for Ctrl-C: {error}")))
    }

    /// Says that there is something to keep from now on: the first signal asks for a stop, and only the second ends the program.
    pub fn has_something_to_keep(&self) {
        self.saves.store(true, Ordering::Relaxed);
    }

    /// Asks every run to stop; gives whether that had been asked before.
    pub fn ask(&self) -> bool {
        self.asked.swap(true, Ordering::Relaxed)
    }

    /// Whether a stop has been asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.is_asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// What has been counted so far.
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// Counts tokens, or steps, towards the number after which to stop.
    pub fn count(&self, tokens: u64) {
        self.counted.fetch_add(tokens, Ordering::Relaxed);
        let left = |left: u64| {
            Some(if left == u64::MAX {
                left
            } else {
                left.saturating_sub(tokens)
            })
        };
        // The update always gives a value, so this cannot fail.
        let _ = self
            .tokens_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        if self.tokens_left.load(Ordering::Relaxed) == 0 {
            self.ask();
        }
    }
}
