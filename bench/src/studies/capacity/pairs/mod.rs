//! How many pairs of keys and values a state holds, and how far they are found: the form of recall in which the state is full.
//!
//! A model is asked for every key of sequences of K pairs, at several K and lengths. From the share of right answers a(K, L) two thresholds
//! follow, with A the accuracy asked for:
//!
//! ```text
//! pairs held            K_A = the largest K with a(K′, T) ≥ A for all K′ ≤ K that were tried, at the training length T
//! T_recall of K pairs       = the longest L with a(K, L′) ≥ A for all L′ ≤ L that were tried
//! ```
//!
//! Both are known as intervals up to the next number or length that was tried. Laws are fitted to pairs held against bytes of state, and to
//! T_recall against the training length. A training that does not answer the fewest pairs has not learned the task: it tells of the training and
//! not of the state, so that it is counted and left out of the laws.
//!
//! | module | what is in it |
//! |---|---|
//! | [`held`] | both thresholds, and the laws fitted to them |
//! | [`arms`] | tasks that are held against one another, training by training |
//! | [`findings`] | what the numbers support, and what would falsify it |
//! | [`page`] | tables; the pictures are with the others of the study |

pub mod arms;
pub mod findings;
pub mod held;
pub mod page;

#[cfg(test)]
mod tests;

use super::analysis::Resampling;
use super::result::RunResult;
use super::task::Task;
use arms::Arm;
use held::TaskPairs;
use serde::Serialize;
use spillway_models::train::data::PairsInFiller;

/// What of a task that asks for pairs the page says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairsSetting {
    /// Share of right answers from which on pairs are held.
    pub accuracy: f64,
    /// Number of different keys.
    pub keys: usize,
    /// Number of different values.
    pub values: usize,
    /// The task that this one is an arm beside.
    pub against: Option<String>,
}

impl PairsSetting {
    /// What a task says; none if it does not ask for pairs.
    pub fn of(task: &Task) -> Option<Self> {
        let (config, data) = (task.pairs.as_ref()?, task.pairs_in_filler()?);
        Some(Self {
            accuracy: config.accuracy,
            keys: data.keys,
            values: data.values,
            against: task.against.clone(),
        })
    }

    /// Share of right answers of who remembers the values of `pairs` pairs but not their keys.
    pub fn chance(&self, pairs: usize) -> f64 {
        PairsInFiller {
            values: self.values,
            ..PairsInFiller::new(vec![pairs])
        }
        .chance(pairs)
    }
}

/// Everything that was found about pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PairsReport {
    /// Each task that asks for pairs, in the order of the configuration.
    pub tasks: Vec<TaskPairs>,
    /// Each task that is held against another one.
    pub arms: Vec<Arm>,
}

impl PairsReport {
    /// What `runs` say of the tasks `asked` that ask for pairs.
    pub fn new(asked: &[(&str, &PairsSetting)], runs: &[RunResult], resampling: Resampling) -> Self {
        let found = asked
            .iter()
            .filter_map(|(task, setting)| TaskPairs::new(task, setting, runs, resampling));
        let arms = asked.iter().filter_map(|(task, setting)| {
            let against = setting.against.as_ref()?;
            Arm::new(task, against, runs)
        });
        Self {
            tasks: found.collect(),
            arms: arms.collect(),
        }
    }

    /// Whether no task asks for pairs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}
