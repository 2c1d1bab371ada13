//! What a study of trainings says of itself, at the head of all its pages.

use crate::context::Context;
use crate::kit::format::{counted, day, duration};
use crate::kit::provenance::{Provenance, machine};
use crate::train::record::Record;
use serde::Serialize;

/// The head of `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// `spillway-` and the command's name.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// The command that makes the study.
    pub command: String,
    /// Title of the study.
    pub title: String,
    /// What the study asks, in a sentence or two.
    pub question: String,
    /// Trainings that are finished, and all.
    pub trainings: [usize; 2],
    /// Time that the trainings took one after another, in seconds.
    pub seconds: f64,
    /// When the first and the last training began, in seconds since 1970; 0 where none has.
    pub started: [u64; 2],
}

impl About {
    /// A study without a training.
    pub fn new(format: &'static str, command: String, title: &str, question: &str) -> Self {
        Self {
            format,
            version: 1,
            program: env!("CARGO_PKG_VERSION"),
            command,
            title: title.into(),
            question: question.into(),
            trainings: [0, 0],
            seconds: 0.0,
            started: [0, 0],
        }
    }

    /// With the logs of the trainings that are finished, of `all`; `seconds` is what each took.
    pub fn of<'a>(
        self,
        finished: impl Iterator<Item = &'a Record> + Clone,
        all: usize,
        seconds: impl Fn(&Record) -> f64,
    ) -> Self {
        let started = finished.clone().map(|record| record.start.started);
        Self {
            trainings: [started.clone().count(), all],
            seconds: finished.map(seconds).sum(),
            started: [started.clone().min().unwrap_or(0), started.max().unwrap_or(0)],
            ..self
        }
    }

    /// How many trainings there are, when they were begun, and how long what is `timed` of them took, on one line.
    pub fn facts(&self, timed: &str) -> String {
        let [done, all] = self.trainings;
        let of_all = match done == all {
            true => counted(all as u64, "training"),
            false => format!("{done} of {}", counted(all as u64, "training")),
        };
        let [first, last] = self.started.map(day);
        let days = match (done, first == last) {
            (0, _) => String::new(),
            (_, true) => format!(", {first}"),
            (_, false) => format!(", {first} to {last}"),
        };
        format!(
            "{of_all}{days}, {} of {timed} one after another",
            duration(self.seconds)
        )
    }

    /// The question, where there is one.
    pub fn summary(&self) -> Vec<String> {
        Some(self.question.clone())
            .filter(|question| !question.is_empty())
            .into_iter()
            .collect()
    }

    /// The head of `RESULTS.md`, with `facts` on a line.
    pub fn markdown(&self, facts: &str) -> String {
        let question: String = self
            .summary()
            .iter()
            .map(|question| format!("{question}\n\n"))
            .collect();
        format!(
            "# {}\n\n    {}\n\n{question}{facts}; {}.\n\n",
            self.title,
            self.command,
            machine()
        )
    }

    /// Where the pages come from: of this process, but the command that makes them anew.
    pub fn made(&self, context: &Context) -> Provenance {
        Provenance {
            command: self.command.clone(),
            ..Provenance::here(context.threads())
        }
    }
}
