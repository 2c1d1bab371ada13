//! What an evaluation finds: how good the answers are, how sure that is, and what chance would give.

use serde::{Deserialize, Serialize};

use super::batch::TaskBatch;
use crate::evaluation::wilson;
use crate::tasks::{Answer, Answers};

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// An evaluation: of the task itself first, then of what else was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// One result for each set of examples that was asked.
    pub results: Vec<TaskResult>,
}

/// How answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of the right answers; more is better.
    Accuracy,
    /// Mean square error over the variance of the right answers; less is better.
    RelativeError,
}

/// How good the answers to one set of examples are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// What was asked; empty for the task itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Number of examples that were asked.
    pub examples: u64,
    /// How the answers are judged.
    pub metric: Metric,
    /// The metric over all answers together.
    pub value: f64,
    /// Bounds of its 95 % interval: Wilson's where an example has one class, else from the spread over examples.
    pub low: f64,
    /// Upper bound of the 95 % interval.
    pub high: f64,
    /// What the best answer gets that is always the same: the share of the most frequent class, or 1 for an error.
    pub chance: f64,
    /// Share of the examples whose answers are all right; of classes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<f64>,
    /// Mean loss of an answer.
    pub loss: f64,
}

impl TaskResult {
    /// Whether the answers are better than the best constant one, by more than the interval.
    pub fn is_better_than_chance(&self) -> bool {
        match self.metric {
            Metric::Accuracy => self.low > self.chance,
            Metric::RelativeError => self.high < self.chance,
        }
    }
}

/// Sums over the examples of an evaluation.
#[derive(Debug)]
pub(super) struct Tally {
    answer: Answer,
    /// Weight of each class, or weighted sum of each value, over the right answers.
    sums: Vec<f64>,
    weight: f64,
    /// Mean of each right value.
    mean: Vec<f64>,
    /// Of each example: what was scored (right answers, or square error), and out of what (answers, or their square distance from
    /// the mean).
    scores: Vec<(f64, f64)>,
    whole: u64,
    loss: f64,
}

impl Tally {
    /// A tally of these batches, whose answers are to be added in the same order.
    pub(super) fn of(answer: Answer, batches: &[TaskBatch]) -> Self {
        let (Answer::Class(width) | Answer::Values(width)) = answer;
        let (mut sums, mut weight) = (vec![0.0; width], 0.0);
        for batch in batches {
            for (place, of_place) in batch.weights.iter().enumerate() {
                let of_place = f64::from(*of_place);
                weight += of_place;
                match &batch.answers {
                    Answers::Classes(classes) => sums[classes[place] as usize] += of_place,
                    Answers::Values(values) => {
                        let values = &values[place * width..(place + 1) * width];
                        sums.iter_mut()
                            .zip(values)
                            .for_each(|(sum, value)| *sum += of_place * f64::from(*value));
                    }
                }
            }
        }
        let mean = sums
            .iter()
            .map(|sum| sum / weight.max(f64::MIN_POSITIVE))
            .collect();
        Self {
            answer,
            sums,
            weight,
            mean,
            scores: Vec::new(),
            whole: 0,
            loss: 0.0,
        }
    }

    /// Adds what was answered at `places` of a batch, `[places, classes or width]`, and the sum of its losses.
    pub(super) fn add(&mut self, batch: &TaskBatch, places: &[usize], outputs: &[f32], loss: f64) {
        let width = self.mean.len();
        let of_each = batch.places().max(1);
        let mut scores = vec![(0.0, 0.0); batch.sequences];
        for (place, output) in places.iter().zip(outputs.chunks_exact(width.max(1))) {
            let weight = f64::from(batch.weights[*place]);
            let score = &mut scores[place / of_each];
            match &batch.answers {
                Answers::Classes(classes) => {
                    let is_right = largest(output) == classes[*place] as usize;
                    *score = (score.0 + if is_right { weight } else { 0.0 }, score.1 + weight);
                }
                Answers::Values(values) => {
                    let right = &values[place * width..(place + 1) * width];
                    for ((found, right), mean) in output.iter().zip(right).zip(&self.mean) {
                        let right = f64::from(*right);
                        score.0 += weight * (f64::from(*found) - right).powi(2);
                        score.1 += weight * (right - mean).powi(2);
                    }
                }
            }
        }
        self.whole += scores.iter().filter(|(right, all)| right >= all).count() as u64;
        self.scores.extend(scores);
        self.loss += loss;
    }

    /// What came of it.
    pub(super) fn result(&self, name: &str) -> TaskResult {
        let examples = self.scores.len() as u64;
        let sum = |of: fn(&(f64, f64)) -> f64| self.scores.iter().map(of).sum::<f64>();
        let scored = sum(|score| score.0);
        // Right answers that do not vary leave the plain error.
        let out_of = Some(sum(|score| score.1)).filter(|sum| *sum > 0.0).unwrap_or(1.0);
        let value = scored / out_of;
        // The spread of a ratio of sums over independent examples.
        let off = self
            .scores
            .iter()
            .map(|score| (score.0 - value * score.1).powi(2));
        let half = Z * off.sum::<f64>().sqrt() / out_of;
        let once = self.weight == examples as f64;
        let (metric, (low, high), chance, whole) = match self.answer {
            Answer::Class(_) => {
                let interval = match once {
                    true => wilson::interval(scored.round() as u64, examples),
                    false => ((value - half).max(0.0), (value + half).min(1.0)),
                };
                let most = self.sums.iter().copied().fold(0.0, f64::max);
                let chance = most / self.weight.max(f64::MIN_POSITIVE);
                let whole = self.whole as f64 / (examples as f64).max(1.0);
                (Metric::Accuracy, interval, chance, Some(whole))
            }
            Answer::Values(_) => {
                let interval = ((value - half).max(0.0), value + half);
                (Metric::RelativeError, interval, 1.0, None)
            }
        };
        TaskResult {
            name: name.into(),
            examples,
            metric,
            value,
            low,
            high,
            chance,
            whole,
            loss: self.loss / self.weight.max(f64::MIN_POSITIVE),
        }
    }
}

/// The place of the largest value, the first of several.
fn largest(values: &[f32]) -> usize {
    let (mut best, mut place) = (f32::NEG_INFINITY, 0);
    for (index, value) in values.iter().enumerate() {
        if *value > best {
            (best, place) = (*value, index);
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Sequence;

    fn batch(answers: Answers, weights: Vec<f32>, sequences: usize) -> TaskBatch {
        TaskBatch {
            sequences,
            length: weights.len() / sequences,
            inputs: Sequence::Tokens(Vec::new()),
            answers,
            weights,
            steps: vec![1; sequences],
        }
    }

    #[test]
    fn accuracy_counts_what_has_weight_and_chance_is_the_most_frequent_class() {
        // Two sequences of two answers, of which the last does not count.
        let batch = batch(Answers::Classes(vec![1, 0, 1, 0]), vec![1.0, 1.0, 1.0, 0.0], 2);
        let mut tally = Tally::of(Answer::Class(2), std::slice::from_ref(&batch));
        // 1 (right), 1 (wrong), 1 (right).
        tally.add(&batch, &[0, 1, 2], &[0.0, 1.0, 0.0, 1.0, -1.0, 0.0], 6.0);
        let result = tally.result("");
        assert_eq!(
            (result.examples, result.value, result.chance),
            (2, 2.0 / 3.0, 2.0 / 3.0)
        );
        assert_eq!((result.whole, result.loss), (Some(0.5), 2.0));
        assert!(result.low < result.value && result.high > result.value);
        assert!(!result.is_better_than_chance());
    }

    #[test]
    fn the_mean_has_an_error_of_1_and_the_right_answer_of_0() {
        let values: Vec<f32> = (0..40).map(|index| (index * index % 7) as f32).collect();
        let batch = batch(Answers::Values(values.clone()), vec![1.0; 20], 20);
        let places: Vec<usize> = (0..20).collect();
        let mean = |column: usize| values.iter().skip(column).step_by(2).sum::<f32>() / 20.0;
        for (outputs, expected) in [([mean(0), mean(1)].repeat(20), 1.0), (values.clone(), 0.0)] {
            let mut tally = Tally::of(Answer::Values(2), std::slice::from_ref(&batch));
            tally.add(&batch, &places, &outputs, 0.0);
            let result = tally.result("");
            assert!(
                (result.value - expected).abs() < 1e-6,
                "{} for {expected}",
                result.value
            );
            assert_eq!(result.is_better_than_chance(), expected == 0.0);
        }
    }

    #[test]
    fn answers_that_do_not_vary_leave_the_plain_error() {
        let batch = batch(Answers::Values(vec![2.0; 4]), vec![1.0; 4], 4);
        let mut tally = Tally::of(Answer::Values(1), std::slice::from_ref(&batch));
        tally.add(&batch, &[0, 1, 2, 3], &[2.5; 4], 0.0);
        assert_eq!(tally.result("").value, 1.0);
    }
}
