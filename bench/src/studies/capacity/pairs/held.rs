//! Pairs held, T_recall of a number of pairs, and their laws.

use super::super::analysis::{Laws, Resampling, UNIT};
use super::super::result::{PairsCell, RunResult, StateSize};
use super::PairsSetting;
use crate::studies::results::distinct;
use serde::Serialize;
use spillway_models::evaluation::laws::{Observation, Point};

/// Bytes of an element of the state, f32.
const ELEMENT: u64 = 4;

/// What one task says about pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskPairs {
    /// Name of the task.
    pub task: String,
    /// Share of right answers from which on pairs are held, and the keys and values there are.
    pub setting: PairsSetting,
    /// Pairs held by the models of each training length, the shortest first.
    pub held: Vec<HeldAt>,
    /// T_recall of each state size and number of pairs.
    pub reach: Vec<Reach>,
}

/// Pairs held by the models that were trained at one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldAt {
    /// Training length T in tokens, at which the models are asked.
    pub train_length: u64,
    /// One for each state size and seed.
    pub models: Vec<Held>,
    /// The laws of the models that have learned the task: sizes in thousands of bytes, "lengths" in pairs.
    pub laws: Laws,
}

/// Pairs that one model holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// Sizes of the model.
    pub state: StateSize,
    /// Bytes of its recurrent state in f32.
    pub bytes: u64,
    /// Seed of the training.
    pub seed: u64,
    /// (K, share of right answers) at the training length, the fewest pairs first.
    pub shares: Vec<(usize, f64)>,
    /// Where the number of pairs held lies: at least the lower end, below the upper one.
    pub interval: Observation,
}

impl Held {
    /// Whether the model answers the fewest pairs that were tried.
    pub fn has_learned(&self) -> bool {
        is_reached(self.interval)
    }

    /// Mean share of right answers over all numbers of pairs.
    pub fn mean_share(&self) -> f64 {
        let sum: f64 = self.shares.iter().map(|(_, share)| share).sum();
        sum / self.shares.len().max(1) as f64
    }
}

/// How far the models of one state size find a number of pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reach {
    /// Sizes of the models.
    pub state: StateSize,
    /// Bytes of their recurrent state in f32.
    pub bytes: u64,
    /// Number K of pairs.
    pub pairs: usize,
    /// One for each training length and seed.
    pub models: Vec<Reached>,
    /// The laws of the models that find so many pairs at any length: "sizes" are training lengths in thousands of tokens, lengths in tokens.
    pub laws: Laws,
}

/// How far one model finds its pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    /// Training length T in tokens.
    pub train_length: u64,
    /// Seed of the training.
    pub seed: u64,
    /// Where T_recall lies: at least the lower end, below the upper one.
    pub interval: Observation,
}

/// Bytes of the recurrent state of a size in f32; what the short convolutions keep is not counted.
pub fn bytes(state: &StateSize) -> u64 {
    ELEMENT * state.elements()
}

/// Whether anything was reached at all.
pub fn is_reached(interval: Observation) -> bool {
    matches!(interval, Observation::Within { low, .. } if low > 0.0)
}

/// The interval of a threshold: from the last of the values in a row, from the first on, that pass, to the next one.
fn threshold(tried: impl Iterator<Item = (u64, bool)>) -> Observation {
    let (mut low, mut high) = (0.0, None);
    for (value, passes) in tried {
        if !passes {
            high = Some(value as f64);
            break;
        }
        low = value as f64;
    }
    Observation::Within { low, high }
}

impl TaskPairs {
    /// What the runs of a task say; none if there are none that were asked for pairs.
    pub fn new(
        task: &str,
        setting: &PairsSetting,
        runs: &[RunResult],
        resampling: Resampling,
    ) -> Option<Self> {
        let runs: Vec<&RunResult> = runs
            .iter()
            .filter(|run| run.task == task && run.pairs.is_some())
            .collect();
        let lengths = distinct(runs.iter().map(|run| run.train_length));
        let held = lengths.iter().map(|length| {
            let at = runs.iter().filter(|run| run.train_length == *length);
            HeldAt::new(*length, at.copied(), setting.accuracy, resampling)
        });
        let mut groups: Vec<(StateSize, usize)> = runs
            .iter()
            .flat_map(|run| cells(run).map(|cell| (run.state, cell.pairs)))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let reach = groups.into_iter().map(|(state, pairs)| {
            let of_size = runs.iter().filter(|run| run.state == state);
            Reach::new((state, pairs), of_size.copied(), setting.accuracy, resampling)
        });
        (!runs.is_empty()).then(|| Self {
            task: task.into(),
            setting: setting.clone(),
            held: held.collect(),
            reach: reach.collect(),
        })
    }

    /// All models, whatever their training length.
    pub fn models(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().flat_map(|held| &held.models)
    }
}

fn cells(run: &RunResult) -> impl Iterator<Item = &PairsCell> {
    run.pairs.iter().flat_map(|pairs| &pairs.cells)
}

impl HeldAt {
    fn new<'a>(
        train_length: u64,
        runs: impl Iterator<Item = &'a RunResult>,
        accuracy: f64,
        resampling: Resampling,
    ) -> Self {
        let mut models: Vec<Held> = runs.map(|run| held(run, accuracy)).collect();
        models.sort_by_key(|model| (model.state, model.seed));
        let learned = models.iter().filter(|model| model.has_learned());
        let points = learned.map(|model| Point {
            size: model.bytes as f64 / UNIT,
            length: model.interval,
        });
        Self {
            train_length,
            laws: Laws::new(points.collect(), resampling),
            models,
        }
    }
}

fn held(run: &RunResult, accuracy: f64) -> Held {
    let asked = cells(run).filter(|cell| cell.length == run.train_length);
    let mut shares: Vec<(usize, f64)> = asked.map(|cell| (cell.pairs, cell.accuracy())).collect();
    shares.sort_unstable_by_key(|share| share.0);
    let tried = shares
        .iter()
        .map(|(pairs, share)| (*pairs as u64, *share >= accuracy));
    Held {
        state: run.state,
        bytes: bytes(&run.state),
        seed: run.seed,
        interval: threshold(tried),
        shares,
    }
}

impl Reach {
    fn new<'a>(
        (state, pairs): (StateSize, usize),
        runs: impl Iterator<Item = &'a RunResult>,
        accuracy: f64,
        resampling: Resampling,
    ) -> Self {
        let reached = |run: &RunResult| {
            let mut asked: Vec<&PairsCell> = cells(run).filter(|cell| cell.pairs == pairs).collect();
            asked.sort_unstable_by_key(|cell| cell.length);
            let tried = asked
                .iter()
                .map(|cell| (cell.length, cell.accuracy() >= accuracy));
            Reached {
                train_length: run.train_length,
                seed: run.seed,
                interval: threshold(tried),
            }
        };
        let mut models: Vec<Reached> = runs.map(reached).collect();
        models.sort_by_key(|model| (model.train_length, model.seed));
        let points = models.iter().filter(|model| is_reached(model.interval));
        let points = points.map(|model| Point {
            size: model.train_length as f64 / UNIT,
            length: model.interval,
        });
        // There is one of these for each state size and number of pairs: intervals are those of the profile.
        let none = Resampling {
            resamples: 0,
            ..resampling
        };
        Self {
            state,
            bytes: bytes(&state),
            pairs,
            laws: Laws::new(points.collect(), none),
            models,
        }
    }

    /// Training lengths of the models.
    pub fn lengths(&self) -> Vec<u64> {
        distinct(self.models.iter().map(|model| model.train_length))
    }
}
