//! The report: its content as data, and its three forms.
//!
//! `report.json` is this structure (docs/report.md describes it), the CSV files are its curves, `report.html` shows it.

pub mod csv;
pub mod figures;
pub mod html;

use super::compare::{Curves, Standing, standing};
use super::gates::Gate;
use super::head_statistics::{self, GateMeans, HeadSummary, StateStatistics};
use super::loss::{BucketLoss, Grid, LossTally, Tally, curve, mean_over};
use super::mitigated::{Mitigated, Skipped};
use super::record::SiteRecord;
use super::retention::Retention;
use super::summary;
use super::text::Stream;
use super::verdict::{self, Verdict};
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use models::model::Info;
use serde::Serialize;
use std::collections::BTreeMap;

/// Name of the JSON form.
const FORMAT: &str = "spillway-diagnosis";
/// Its version: raised when a field changes its meaning or goes away.
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
    /// Threads.
    pub threads: usize,
    /// `--seed`, if given.
    pub seed: Option<u64>,
}

/// The text that was streamed.
#[derive(Clone, Debug, Serialize)]
pub struct TextReport {
    /// Its name.
    pub name: String,
    /// Tokens before it repeats.
    pub tokens: u64,
    /// Whether a long stream is longer than the text, so that it reads some of it more than once.
    pub repeats: bool,
}

/// A diagnosis.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `spillway-diagnosis`.
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
    /// The model.
    pub model: Info,
    /// How it was diagnosed.
    #[serde(flatten)]
    pub method: Method,
    /// What the definition says of the model alone.
    pub verdict: Verdict,
    /// The model alone first, then the baseline, then the mitigations.
    pub runs: Vec<RunReport>,
    /// Mitigations, the smallest loss beyond the training length first.
    pub ranking: Vec<String>,
    /// Runs that have not read everything, in the order in which they will; none when the diagnosis is complete.
    pub remaining: Vec<Remaining>,
    /// Mitigations left out.
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
    /// Text form.
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

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Text form; `none` is the model alone.
    pub mitigation: String,
    /// What `--mitigation` takes to have the same again: the text form, or `@` and the file that holds calibrated numbers.
    pub spec: String,
    /// Whether it has read everything.
    pub complete: bool,
    /// Tokens read, over all streams.
    pub tokens: u64,
    /// Time taken.
    pub seconds: f64,
    /// tokens / seconds.
    pub tokens_per_second: f64,
    /// Largest memory of one stream's state, mitigation included.
    pub state_bytes: u64,
    /// Price and gain.
    #[serde(flatten)]
    pub standing: Standing,
    /// What the definition says of this run.
    pub verdict: Verdict,
    /// What the mitigation counted, averaged over layers and streams.
    pub counts: BTreeMap<String, f64>,
    /// Mean loss over geometric buckets, all streams.
    pub loss: Vec<BucketLoss>,
    /// Mean loss over buckets of one width, long streams.
    pub loss_fixed: Vec<BucketLoss>,
    /// Mean loss over parts of the training length, all streams.
    pub loss_inside: Vec<BucketLoss>,
    /// Geometric buckets over the long streams alone.
    #[serde(skip)]
    loss_long: Vec<BucketLoss>,
}

impl RunReport {
    fn curves(&self) -> Curves<'_> {
        Curves {
            all: &self.loss,
            long: &self.loss_long,
        }
    }
}

impl Report {
    /// Everything that follows from the runs: the model alone first, the baseline second.
    pub fn new(
        model: Info,
        method: Method,
        grid: &Grid,
        runs: &mut [Mitigated],
        skipped: Vec<Skipped>,
        threshold: f64,
    ) -> Self {
        let train_length = method.train_length;
        let records = runs.first_mut().map(Mitigated::records).unwrap_or_default();
        let mut reports: Vec<RunReport> = runs
            .iter()
            .filter(|run| run.has_begun())
            .map(|run| run_report(run, grid, method.length))
            .collect();
        judge(&mut reports, train_length, threshold);
        let mut ranking: Vec<&RunReport> = reports.iter().skip(1).collect();
        let beyond = |run: &RunReport| run.standing.beyond.unwrap_or(f64::INFINITY);
        ranking.sort_by(|a, b| beyond(a).total_cmp(&beyond(b)));
        let mut report = Self {
            format: FORMAT,
            version: VERSION,
            program: env!("CARGO_PKG_VERSION"),
            complete: runs.iter().all(Mitigated::is_done),
            summary: Vec::new(),
            try_it: None,
            model,
            verdict: reports.first().map_or_else(
                || Verdict {
                    complete: false,
                    ..verdict::judge(&[], &[], train_length, threshold)
                },
                |run| run.verdict.clone(),
            ),
            ranking: ranking.into_iter().map(|run| run.mitigation.clone()).collect(),
            runs: reports,
            remaining: runs.iter().filter(|run| !run.is_done()).map(remaining).collect(),
            skipped,
            heads: heads(&records, train_length),
            method,
            records,
        };
        report.summary = summary::sentences(&report);
        report.try_it = summary::try_it(&report);
        report
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

fn remaining(run: &Mitigated) -> Remaining {
    Remaining {
        mitigation: run.name.clone(),
        tokens: run.tokens(),
        tokens_in_all: run.tokens_in_all(),
    }
}

fn run_report(run: &Mitigated, grid: &Grid, length: u64) -> RunReport {
    let (mut all, mut long) = (LossTally::new(grid), LossTally::new(grid));
    for stream in &run.streams {
        all.merge(&stream.tally.losses);
        if stream.stream.length == length {
            long.merge(&stream.tally.losses);
        }
    }
    let tokens = run.tokens();
    let loss = curve(&grid.geometric, &all.geometric);
    RunReport {
        mitigation: run.name.clone(),
        spec: run.spec.clone(),
        complete: run.is_done(),
        tokens,
        seconds: run.seconds,
        tokens_per_second: if run.seconds > 0.0 {
            tokens as f64 / run.seconds
        } else {
            0.0
        },
        state_bytes: run
            .streams
            .iter()
            .map(|stream| stream.tally.state_bytes)
            .max()
            .unwrap_or(0),
        standing: Standing {
            inside: None,
            price: None,
            beyond: None,
            gain: None,
            excess_removed: None,
        },
        verdict: verdict::judge(&[], &[], 0, 0.0),
        counts: run.counts(),
        loss,
        loss_fixed: curve(&grid.fixed, &long.fixed),
        loss_inside: curve(&grid.inside, &all.inside),
        loss_long: curve(&grid.geometric, &long.geometric),
    }
}

/// Verdict and standing of every run, against the model alone and the baseline.
fn judge(runs: &mut [RunReport], train_length: u64, threshold: f64) {
    let Some(alone) = runs.first().cloned() else {
        return;
    };
    let baseline = runs.get(1).cloned();
    for run in runs {
        run.standing = standing(
            run.curves(),
            alone.curves(),
            baseline.as_ref().map(RunReport::curves),
            train_length,
        );
        let reference = reference(&run.loss, baseline.as_ref(), &alone, train_length);
        let is_known = baseline.as_ref().is_some_and(|baseline| baseline.complete);
        run.verdict = Verdict {
            complete: run.complete && is_known,
            ..verdict::judge(&run.loss, &reference, train_length, threshold)
        };
    }
}

/// The baseline's buckets; where an interrupted diagnosis has none yet, the model's mean over the training length.
fn reference(
    buckets: &[BucketLoss],
    baseline: Option<&RunReport>,
    alone: &RunReport,
    train_length: u64,
) -> Vec<BucketLoss> {
    let inside =
        mean_over(alone.loss.iter().filter(|bucket| bucket.start < train_length)).unwrap_or(f64::NAN);
    let same = |bucket: &BucketLoss| {
        let of_baseline = baseline?.loss.iter().find(|other| other.start == bucket.start)?;
        (of_baseline.tokens == bucket.tokens).then_some(*of_baseline)
    };
    buckets
        .iter()
        .map(|bucket| {
            same(bucket).unwrap_or(BucketLoss {
                mean: inside,
                ..*bucket
            })
        })
        .collect()
}

fn heads(records: &[SiteRecord], train_length: u64) -> Vec<HeadSummary> {
    let mut heads = Vec::new();
    for (site, record) in records.iter().enumerate() {
        for head in 0..record.heads() {
            let looks: Vec<(u64, StateStatistics)> = record
                .looks(head)
                .map(|(position, state, _)| (position, state))
                .collect();
            let Some(mean_log_decay) = record.mean_log_decay(head, train_length) else {
                continue;
            };
            let retention = Retention::new(mean_log_decay, train_length);
            let number = (record.layer(), record.first_head() + head);
            heads.push(HeadSummary {
                measure: record.measure(),
                gates: gate_means(record, head, train_length),
                place: (site, head),
                ..head_statistics::summarise(number, &looks, retention, train_length)
            });
        }
    }
    head_statistics::rank(&mut heads);
    heads
}

fn gate_means(record: &SiteRecord, head: usize, train_length: u64) -> GateMeans {
    let inside = |gate| record.gate_inside(gate, head, train_length);
    let end = |gate| {
        let filled = record.gate(gate, head).filter(|(_, tally)| tally.count() > 0);
        filled.last().map_or_else(Tally::default, |(_, tally)| *tally)
    };
    let keys = record.key_range(head);
    GateMeans {
        fastest_key_log_decay: keys.map(|(least, _)| least),
        slowest_key_log_decay: keys.map(|(_, largest)| largest),
        erase_inside: inside(Gate::Erase).mean(),
        write_inside: inside(Gate::Write).mean(),
        write_end: end(Gate::Write).mean(),
        read_out_inside: inside(Gate::ReadOut).root_mean_square(),
        read_out_end: end(Gate::ReadOut).root_mean_square(),
    }
}
