//! What one arm gives: its settings, and the losses of all its trainings.

use crate::studies::estimate::Estimate;
use serde::Serialize;

/// A setting that is not the same in all arms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Path of the setting in the configuration: `carry.carry`.
    pub field: String,
    /// Value of the setting, as JSON; `none` if it is absent.
    pub value: String,
}

/// What one arm gives: its settings, and its losses over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmReport {
    /// Name of the arm.
    pub name: String,
    /// The settings in which arms differ.
    pub settings: Vec<Setting>,
    /// Training length T of the arm, in tokens.
    pub train_length: u64,
    /// Whether the weights were random at first.
    pub from_random: bool,
    /// Whether the learning rate stays as it is once it is warm.
    pub constant_rate: bool,
    /// The seeds: every [`Estimate`] has its values in this order.
    pub seeds: Vec<u64>,
    /// Losses after the last step in the arm's own buckets.
    pub curve: Vec<Bucket>,
    /// Every evaluation that all its trainings had.
    pub points: Vec<Point>,
    /// The arm's trainings, one per seed.
    pub trainings: Vec<TrainingReport>,
}

/// Losses in a bucket of positions, in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// First position of the bucket, in tokens.
    pub start: u64,
    /// Position after the last.
    pub end: u64,
    /// The state carried from position to position.
    pub loss: Estimate,
    /// Loss less that of the same model with the state emptied every T tokens, where that was evaluated.
    pub excess: Option<Estimate>,
}

/// An evaluation of an arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Training steps done before the evaluation.
    pub step: u64,
    /// Tokens that each training has read before the evaluation.
    pub tokens: u64,
    /// Loss in each of [`ComparisonReport::ranges`](super::report::ComparisonReport::ranges).
    pub losses: Vec<Estimate>,
    /// Loss inside the arm's own training length.
    pub inside: Estimate,
    /// Loss in the last of the ranges less that of the same model with the state emptied every T tokens.
    pub excess: Option<Estimate>,
    /// Largest bucket beyond T over the largest inside, in perplexity.
    pub perplexity_ratio: Estimate,
    /// Trainings whose ratio is over the threshold of their configuration.
    pub collapsed: usize,
}

/// One training of an arm: how it was made, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingReport {
    /// Name of its folder.
    pub name: String,
    /// Seed of the training.
    pub seed: u64,
    /// The command that made it.
    pub command: String,
    /// Time of its steps and evaluations.
    pub seconds: f64,
}

/// A loss by which arms are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Loss in the first of the ranges.
    Near,
    /// Loss in the last of the ranges.
    Far,
    /// Loss over that of an emptied state: [`Point::excess`].
    Excess,
}

impl Measure {
    /// All measures.
    pub const ALL: [Self; 3] = [Self::Near, Self::Far, Self::Excess];

    /// The measure's estimate at an evaluation.
    pub fn of(self, point: &Point) -> Option<&Estimate> {
        match self {
            Self::Near => point.losses.first(),
            Self::Far => point.losses.last(),
            Self::Excess => point.excess.as_ref(),
        }
    }
}

impl ArmReport {
    /// The arm's last evaluation.
    pub fn end(&self) -> Option<&Point> {
        self.points.last()
    }

    /// The model that training began with, where it was not random.
    pub fn before(&self) -> Option<&Point> {
        self.points
            .first()
            .filter(|point| point.step == 0 && !self.from_random)
    }

    /// The evaluations but that of random weights.
    pub fn trained(&self) -> impl Iterator<Item = &Point> {
        self.points
            .iter()
            .filter(|point| point.step > 0 || !self.from_random)
    }

    /// Values of `measure` at the last evaluation, as (seed, value).
    pub fn at_end(&self, measure: Measure) -> Option<Vec<(u64, f64)>> {
        let estimate = measure.of(self.end()?)?;
        Some(
            self.seeds
                .iter()
                .copied()
                .zip(estimate.values.iter().copied())
                .collect(),
        )
    }

    /// Tokens that each training of the arm has read by its last evaluation.
    pub fn tokens(&self) -> u64 {
        self.end().map_or(0, |point| point.tokens)
    }
}
