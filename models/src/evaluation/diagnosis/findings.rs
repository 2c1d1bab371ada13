//! What follows from the runs: curves, verdicts, prices and gains, and the heads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::heads::{self, HeadSummary};
use super::loss::Grid;
use super::record::SiteRecord;
use super::run::Run;
use super::standing::{Curves, Standing, standing};
use super::verdict::{self, Verdict};
use crate::evaluation::tally::{BucketLoss, curve, mean_over};

/// What one run has given.
#[derive(Clone, Debug, Serialize)]
pub struct RunFindings {
    /// What its treatment is called.
    #[serde(skip)]
    pub name: String,
    /// Whether it has read everything.
    pub complete: bool,
    /// Tokens read, over all streams.
    pub tokens: u64,
    /// Time that the run has taken so far, in seconds.
    pub seconds: f64,
    /// Speed of the run, tokens / seconds; 0 before any time has been taken.
    pub tokens_per_second: f64,
    /// Largest memory of one stream's state, interventions included, in bytes.
    pub state_bytes: u64,
    /// What the treatment costs inside the training length, and what it gains beyond.
    #[serde(flatten)]
    pub standing: Standing,
    /// What the definition says of this run.
    pub verdict: Verdict,
    /// What the interventions counted, averaged over layers and streams.
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

/// What all runs have given.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Whether every run has read everything.
    pub complete: bool,
    /// What the definition says of the model alone.
    pub verdict: Verdict,
    /// The model alone first, then the baseline, then the others; those that have not begun are left out.
    pub runs: Vec<RunFindings>,
    /// Names of all but the model alone, the smallest loss beyond the training length first.
    pub ranking: Vec<String>,
    /// Heads, those that leave their in-window range first come first.
    pub heads: Vec<HeadSummary>,
    /// What the probe recorded, per recurrence.
    pub records: Vec<SiteRecord>,
}

impl Findings {
    /// Everything that follows from the runs so far: the model alone first, the baseline second. `length` is that of the long
    /// streams, `threshold` the factor in perplexity that counts as collapse.
    pub fn new(runs: &mut [Run], grid: &Grid, train_length: u64, length: u64, threshold: f64) -> Self {
        let records = runs.first_mut().map(Run::records).unwrap_or_default();
        let begun = runs.iter().filter(|run| run.has_begun());
        let mut found: Vec<RunFindings> = begun.map(|run| RunFindings::new(run, grid, length)).collect();
        judge(&mut found, train_length, threshold);
        let mut ranking: Vec<&RunFindings> = found.iter().skip(1).collect();
        let beyond = |run: &RunFindings| run.standing.beyond.unwrap_or(f64::INFINITY);
        ranking.sort_by(|a, b| beyond(a).total_cmp(&beyond(b)));
        let nothing = || Verdict {
            complete: false,
            ..verdict::judge(&[], &[], train_length, threshold)
        };
        Self {
            complete: runs.iter().all(Run::is_done),
            verdict: found.first().map_or_else(nothing, |run| run.verdict.clone()),
            ranking: ranking.into_iter().map(|run| run.name.clone()).collect(),
            heads: heads::heads(&records, train_length),
            runs: found,
            records,
        }
    }

    /// The run of this name.
    pub fn run(&self, name: &str) -> Option<&RunFindings> {
        self.runs.iter().find(|run| run.name == name)
    }
}

impl RunFindings {
    /// The curves; a verdict and a standing follow from several runs.
    fn new(run: &Run, grid: &Grid, length: u64) -> Self {
        let all = run.losses(grid, |_| true);
        let long = run.losses(grid, |stream| stream.length == length);
        let tokens = run.tokens();
        Self {
            name: run.name.clone(),
            complete: run.is_done(),
            tokens,
            seconds: run.seconds,
            tokens_per_second: if run.seconds > 0.0 {
                tokens as f64 / run.seconds
            } else {
                0.0
            },
            state_bytes: run.state_bytes(),
            standing: Standing::default(),
            verdict: verdict::judge(&[], &[], 0, 0.0),
            counts: run.counts(),
            loss: curve(&grid.geometric, &all.geometric),
            loss_fixed: curve(&grid.fixed, &long.fixed),
            loss_inside: curve(&grid.inside, &all.inside),
            loss_long: curve(&grid.geometric, &long.geometric),
        }
    }

    fn curves(&self) -> Curves<'_> {
        Curves {
            all: &self.loss,
            long: &self.loss_long,
        }
    }
}

/// Verdict and standing of every run, against the model alone and the baseline.
fn judge(runs: &mut [RunFindings], train_length: u64, threshold: f64) {
    let Some(alone) = runs.first().cloned() else {
        return;
    };
    let baseline = runs.get(1).cloned();
    for run in runs {
        let restarted = baseline.as_ref().map(RunFindings::curves);
        run.standing = standing(run.curves(), alone.curves(), restarted, train_length);
        let reference = reference(&run.loss, baseline.as_ref(), &alone, train_length);
        let is_known = baseline.as_ref().is_some_and(|baseline| baseline.complete);
        run.verdict = Verdict {
            complete: run.complete && is_known,
            ..verdict::judge(&run.loss, &reference, train_length, threshold)
        };
    }
}

/// The baseline's buckets; where it has not read so far yet, the model's mean over the training length.
fn reference(
    buckets: &[BucketLoss],
    baseline: Option<&RunFindings>,
    alone: &RunFindings,
    train_length: u64,
) -> Vec<BucketLoss> {
    let inside =
        mean_over(alone.loss.iter().filter(|bucket| bucket.start < train_length)).unwrap_or(f64::NAN);
    let same = |bucket: &BucketLoss| {
        let of_baseline = baseline?.loss.iter().find(|other| other.start == bucket.start)?;
        (of_baseline.tokens == bucket.tokens).then_some(*of_baseline)
    };
    let judged_by = |bucket: &BucketLoss| {
        let alone = BucketLoss {
            mean: inside,
            ..*bucket
        };
        same(bucket).unwrap_or(alone)
    };
    buckets.iter().map(judged_by).collect()
}
