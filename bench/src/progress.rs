//! How far something long has come: a bar on a terminal; elsewhere, in a log file say, a plain line every ten seconds.
//!
//! ```text
//! window:64: 120,000 of 1,048,576 tokens (11 %), 20,113 tokens/s, 46 s left
//! ```

use crate::kit::format::whole_seconds;
use crate::terminal::say;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::IsTerminal;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time from one plain line to the next.
const EVERY: Duration = Duration::from_secs(10);

/// A bar, or lines in its place; gone when it is dropped. Nothing at all with `--quiet`.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    _lines: Option<Lines>,
}

impl Progress {
    /// A bar of `(done, total)`, counted in `unit`, or a spinner for something that nobody can count.
    pub(crate) fn new(quiet: bool, counted: Option<(u64, u64)>, unit: &str) -> Self {
        let bar = match counted {
            Some((done, total)) => {
                let bar = ProgressBar::new(total).with_style(counting(unit));
                bar.set_position(done);
                // Rates are those of this run.
                bar.reset_eta();
                bar
            }
            None => ProgressBar::new_spinner(),
        };
        if quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            return Self { bar, _lines: None };
        }
        if std::io::stderr().is_terminal() {
            if counted.is_none() {
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            return Self { bar, _lines: None };
        }
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let unit = unit.to_string();
        let lines = Lines::start(bar.clone(), unit, EVERY, say);
        Self {
            bar,
            _lines: Some(lines),
        }
    }
}

impl Deref for Progress {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn counting(unit: &str) -> ProgressStyle {
    let template =
        format!("{{msg:<28}} {{bar:32}} {{human_pos}}/{{human_len}} {unit}  {{rate}}/s  {{eta}} left");
    // The template is fixed above but for the unit; if it should not parse, the plain bar still counts.
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
    })
}

/// A thread that says now and then how far a bar is, until this is dropped.
#[derive(Debug)]
struct Lines {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn start(
        bar: ProgressBar,
        unit: String,
        every: Duration,
        print: impl Fn(String) + Send + 'static,
    ) -> Self {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Arc::clone(&ended);
        let run = move || {
            let (begin, first) = (Instant::now(), bar.position());
            let mut next = begin + every;
            let mut ended = watched.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*ended {
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    if !bar.is_finished() {
                        let done = (first, begin.elapsed());
                        print(line(&bar.message(), bar.position(), bar.length(), &unit, done));
                    }
                    next += every;
                    continue;
                }
                let waited = watched.1.wait_timeout(ended, left);
                ended = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        // Without a thread there are no lines, which is no reason to stop.
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(run)
            .ok();
        Self { ended, thread }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic but printing.
            let _ = thread.join();
        }
    }
}

/// `first` was the position when the watching began, and the time since.
fn line(
    message: &str,
    position: u64,
    length: Option<u64>,
    unit: &str,
    (first, elapsed): (u64, Duration),
) -> String {
    let message = match message.trim() {
        "" => String::new(),
        message => format!("{message}: "),
    };
    let Some(length) = length.filter(|length| *length > 0) else {
        return format!("{message}{} so far", whole_seconds(elapsed.as_secs()));
    };
    let rate = position.saturating_sub(first) as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = match rate > 0.0 {
        true => {
            let seconds = length.saturating_sub(position) as f64 / rate;
            format!(", {} left", whole_seconds(seconds.min(1e9) as u64))
        }
        false => String::new(),
    };
    format!(
        "{message}{} of {} {unit} ({:.0} %), {} {unit}/s{left}",
        HumanCount(position),
        HumanCount(length),
        (100.0 * position as f64 / length as f64).floor().min(100.0),
        HumanCount(rate.round() as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_line_says_what_how_far_how_fast_and_how_long_still() {
        let since = (20_000, Duration::from_secs(10));
        assert_eq!(
            line("window:64", 120_000, Some(1_048_576), "tokens", since),
            "window:64: 120,000 of 1,048,576 tokens (11 %), 10,000 tokens/s, 1 min 32 s left"
        );
        // Nothing yet, after which nobody knows how long it takes.
        assert_eq!(
            line("", 20_000, Some(40_000), "bytes", since),
            "20,000 of 40,000 bytes (50 %), 0 bytes/s"
        );
        let since = (0, Duration::from_secs(3720));
        assert_eq!(line("loading", 0, None, "", since), "loading: 1 h 2 min so far");
    }

    #[test]
    fn lines_come_again_and_again_until_the_end() {
        let (sender, receiver) = mpsc::channel();
        let bar = ProgressBar::hidden();
        bar.set_length(100);
        bar.set_message("reading");
        let lines = Lines::start(
            bar.clone(),
            "tokens".into(),
            Duration::from_millis(1),
            move |line| {
                // The test may have heard enough.
                let _ = sender.send(line);
            },
        );
        bar.set_position(25);
        let line = receiver
            .iter()
            .find(|line| line.contains("25 of 100"))
            .expect("a line");
        assert!(line.starts_with("reading: 25 of 100 tokens (25 %), "), "{line}");
        drop(lines);
        assert!(
            receiver.iter().all(|line| line.contains("reading")),
            "no more come"
        );
    }
}
