//! The report: its content as data, and its three forms.
//!
//! `report.json` is this structure (docs/report.md describes it), the CSV files are its curves, `report.html` shows it.

pub mod csv;
pub mod figures;
pub mod html;

use crate::choice::Skipped;
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use crate::trial;
use serde::Serialize;
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::findings::{Findings, RunFindings};
use spillway_models::evaluation::diagnosis::heads::HeadSummary;
use spillway_models::evaluation::diagnosis::part::{FailingPart, failing_part};
use spillway_models::evaluation::diagnosis::record::SiteRecord;
use spillway_models::evaluation::diagnosis::run::Run;
use spillway_models::evaluation::diagnosis::text::Stream;
use spillway_models::evaluation::diagnosis::verdict::Verdict;
use spillway_models::model::Info;

/// Name of the JSON form.
const FORMAT: &str = "spillway-diagnosis";
/// Version of the JSON form: raised when a field changes its meaning or goes away.
const VERSION: u32 = 1;

/// How the diagnosis was made.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// Training length in tokens.
    pub train_length: u64,
    /// Who says so: `--train-length`, `checkpoint`, or `assumed`.
    pub train_length_source: &'static str,
    /// Text that was streamed.
    pub text: TextReport,
    /// Length of the long streams.
    pub length: u64,
    /// The run that verdicts hold the others against: `reset:T`, or `restart:T` where layers attend.
    pub baseline: String,
    /// Every stream, the long ones first.
    pub streams: Vec<Stream>,
    /// `spillway generate` with this model and a prompt, to add a mitigation to.
    #[serde(skip)]
    pub generate: String,
    /// Type of the weights in memory.
    pub dtype: String,
    /// Number of threads that the model was computed with.
    pub threads: usize,
    /// Seed that `--seed` gave; `None` if it gave none.
    pub seed: Option<u64>,
}

/// The text that was streamed.
#[derive(Clone, Debug, Serialize)]
pub struct TextReport {
    /// Name of the text.
    pub name: String,
    /// Tokens before it repeats.
    pub tokens: u64,
    /// Whether a long stream is longer than the text, so that it reads some of it more than once.
    pub repeats: bool,
}

/// Everything that a diagnosis has found: the content of `report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct DiagnosisReport {
    /// Name of the file's format, `spillway-diagnosis`.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// Whether every run has read everything; an interrupted diagnosis can be gone on with.
    pub complete: bool,
    /// The findings in sentences.
    pub summary: Vec<String>,
    /// A command that continues a prompt with the cure in place, where there is one.
    #[serde(rename = "try")]
    pub try_it: Option<String>,
    /// The model that was diagnosed.
    pub model: Info,
    /// How the diagnosis was made.
    #[serde(flatten)]
    pub method: Method,
    /// What the definition says of the model alone.
    pub verdict: Verdict,
    /// Which part of a hybrid that collapses fails; nothing for other models, and where `reset:T` or `restart-attention:T` was not
    /// tried.
    pub failing_part: Option<FailingPart>,
    /// The model alone first, then the baseline, then the mitigations.
    pub runs: Vec<RunReport>,
    /// Mitigations, the smallest loss beyond the training length first.
    pub ranking: Vec<String>,
    /// Runs that have not read everything, in the order in which they will; none when the diagnosis is complete.
    pub remaining: Vec<Remaining>,
    /// Mitigations of the default set that were left out, each with the reason.
    pub skipped: Vec<Skipped>,
    /// Heads, those that leave their in-window range first come first; JSON holds the first [`HEADS_IN_JSON`].
    #[serde(serialize_with = "first_heads")]
    pub heads: Vec<HeadSummary>,
    /// What the probe recorded, per recurrence.
    #[serde(skip)]
    pub records: Vec<SiteRecord>,
}

/// A run that an interrupted diagnosis has still to do, or to finish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remaining {
    /// Text form of the mitigation under which the run reads.
    pub mitigation: String,
    /// Tokens read, over all streams.
    pub tokens: u64,
    /// Tokens to read in all.
    pub tokens_in_all: u64,
}

/// Heads in JSON: models whose channels are heads have tens of thousands.
pub const HEADS_IN_JSON: usize = 4096;

fn first_heads<S: serde::Serializer>(heads: &[HeadSummary], serializer: S) -> Result<S::Ok, S::Error> {
    heads[..heads.len().min(HEADS_IN_JSON)].serialize(serializer)
}

/// A run: the model under one treatment.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Text form; `none` is the model alone.
    pub mitigation: String,
    /// What `--mitigation` takes to have the same again: the text form, or `@` and the file that holds calibrated numbers.
    pub spec: String,
    /// What the run has given: its losses and verdict, what the treatment costs and what it gains.
    #[serde(flatten)]
    pub found: RunFindings,
}

impl DiagnosisReport {
    /// The report of what was found; `specs` are what `--mitigation` takes for each run, in their order. The
    /// sentences are left to [`summary`](super::summary).
    pub fn new(
        found: Findings,
        specs: Vec<String>,
        method: Method,
        remaining: Vec<Remaining>,
        skipped: Vec<Skipped>,
        model: &Model,
    ) -> Self {
        let run = |(found, spec): (RunFindings, String)| RunReport {
            mitigation: found.name.clone(),
            spec,
            found,
        };
        let of = |name: String| found.run(&name).map(|run| &run.verdict);
        let parts = of(format!("reset:{}", method.train_length))
            .zip(of(trial::attention_restart(method.train_length)));
        Self {
            format: FORMAT,
            version: VERSION,
            program: env!("CARGO_PKG_VERSION"),
            complete: found.complete,
            failing_part: parts
                .and_then(|(recurrences, attention)| failing_part(&found.verdict, recurrences, attention)),
            summary: Vec::new(),
            try_it: None,
            model: model.info().clone(),
            method,
            verdict: found.verdict,
            runs: found.runs.into_iter().zip(specs).map(run).collect(),
            ranking: found.ranking,
            remaining,
            skipped,
            heads: found.heads,
            records: found.records,
        }
    }

    /// The run with this text form.
    pub fn run(&self, mitigation: &str) -> Option<&RunReport> {
        self.runs.iter().find(|run| run.mitigation == mitigation)
    }

    /// The recurrence that a head belongs to, and its number there.
    pub fn record(&self, head: &HeadSummary) -> Option<(&SiteRecord, usize)> {
        Some((self.records.get(head.place.0)?, head.place.1))
    }

    /// Writes all files.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn write(&self, folder: &mut OutputFolder) -> Result<(), ProgramError> {
        csv::write(self, folder)?;
        folder.write_json("report.json", self)?;
        let made = Provenance::here(self.method.threads).of(&self.model);
        let page = html::page(self, &made);
        folder.write("report.html", |file| file.write_all(page.as_bytes()))
    }
}

/// The runs that have not read everything.
pub fn remaining(runs: &[Run]) -> Vec<Remaining> {
    let left = |run: &Run| Remaining {
        mitigation: run.name.clone(),
        tokens: run.tokens(),
        tokens_in_all: run.tokens_in_all(),
    };
    runs.iter().filter(|run| !run.is_done()).map(left).collect()
}
