//! A task that is held against another one: models of the same size, training length and seed, pair by pair.
//!
//! What is compared is the mean share of right answers at the training length, over all numbers of pairs that it has room for: a number
//! that two models do not share with each other by falling into the same interval. Differences are taken seed by seed, because a seed
//! has the same data in both tasks where these differ in the beginning only.

use super::super::result::{RunResult, StateSize};
use super::held::bytes;
use crate::studies::estimate::Estimate;
use serde::Serialize;

/// A task held against another one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Arm {
    /// Name of the task.
    pub task: String,
    /// Name of the one that it is held against.
    pub against: String,
    /// Each state size and training length that both have, the smallest state first.
    pub differences: Vec<Difference>,
}

/// By how much the models of one size and training length differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Sizes of the models.
    pub state: StateSize,
    /// Bytes of their recurrent state in f32.
    pub bytes: u64,
    /// Training length in tokens.
    pub train_length: u64,
    /// Mean share of right answers of the arm.
    pub arm: f64,
    /// Mean share of right answers of the task that it is held against.
    pub against: f64,
    /// Arm minus the other one, seed by seed.
    pub difference: Estimate,
}

impl Arm {
    /// Compares what both tasks have; none if that is nothing.
    pub fn new(task: &str, against: &str, runs: &[RunResult]) -> Option<Self> {
        let of = |name: &str| {
            let runs = runs.iter().filter(|run| run.task == name);
            let shares = runs.filter_map(|run| Some((key(run), mean_share(run)?)));
            shares.collect::<Vec<_>>()
        };
        let (ours, theirs) = (of(task), of(against));
        let both = ours.iter().filter_map(|(place, share)| {
            let other = theirs.iter().find(|other| other.0 == *place)?;
            Some((*place, *share, other.1))
        });
        let mut both: Vec<(Key, f64, f64)> = both.collect();
        both.sort_by_key(|pair| pair.0);
        let groups = both.chunk_by(|a, b| (a.0.state, a.0.train_length) == (b.0.state, b.0.train_length));
        let difference = |group: &[(Key, f64, f64)]| {
            let Key {
                state, train_length, ..
            } = group[0].0;
            let mean =
                |of: fn(&(Key, f64, f64)) -> f64| group.iter().map(of).sum::<f64>() / group.len() as f64;
            Difference {
                state,
                bytes: bytes(&state),
                train_length,
                arm: mean(|pair| pair.1),
                against: mean(|pair| pair.2),
                difference: Estimate::of(group.iter().map(|pair| pair.1 - pair.2).collect()),
            }
        };
        let differences: Vec<Difference> = groups.map(difference).collect();
        (!differences.is_empty()).then(|| Self {
            task: task.into(),
            against: against.into(),
            differences,
        })
    }
}

/// What two trainings must have in common to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    state: StateSize,
    train_length: u64,
    seed: u64,
}

fn key(run: &RunResult) -> Key {
    Key {
        state: run.state,
        train_length: run.train_length,
        seed: run.seed,
    }
}

/// Mean share of right answers at the training length; none where nothing was asked there.
fn mean_share(run: &RunResult) -> Option<f64> {
    let cells = run.pairs.iter().flat_map(|pairs| &pairs.cells);
    let shares = cells.filter(|cell| cell.length == run.train_length);
    let shares: Vec<f64> = shares.map(|cell| cell.accuracy()).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}
