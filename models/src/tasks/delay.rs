//! A signal, and what it was some steps ago.

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::white_signal::{expect_limit, white_signal};
use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_length};

/// At every step, what [`white_signal`](super::white_signal()) was `lag`, 2 `lag`, … steps ago: y_j(t) = u(t − j·lag), j = 1 to `lags`,
/// and 0 before the signal began.
///
/// A system of N states remembers the last 2·lag·limit oscillations only if N is larger than their number. Source: Gu et al., *How to
/// Train Your HiPPO* (2206.12037), section 4.2.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Steps between the copies.
    pub lag: usize,
    /// Copies: the width of the answer.
    #[serde(default = "one")]
    pub lags: usize,
    /// Highest frequency of the signal, in cycles per step.
    #[serde(default = "limit")]
    pub limit: f64,
}

fn one() -> usize {
    1
}

pub(super) fn limit() -> f64 {
    0.05
}

impl Task for Delay {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        if self.lags == 0 {
            return Err(TaskError::option("lags", "at least 1", 0));
        }
        let longest = self.lag.checked_mul(self.lags);
        let Some(longest) = longest.filter(|longest| *longest < length) else {
            let found = format!("{} · {}", self.lag, self.lags);
            let expected = format!("lag · lags below the length {length}");
            return Err(TaskError::option("lag", expected, found));
        };
        expect_length(length, longest + 2, "a signal and its longest delay")?;
        expect_limit(self.limit, length)
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(1),
            answer: Answer::Values(self.lags),
            when: When::AtEveryStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let signal = white_signal(length, self.limit, rng);
        let ago = |time: usize, steps: usize| time.checked_sub(steps).map_or(0.0, |time| signal[time]);
        let answers = (0..length).flat_map(|time| (1..=self.lags).map(move |lag| (time, lag * self.lag)));
        let answers = answers.map(|(time, steps)| ago(time, steps)).collect();
        Example {
            answers: Answers::Values(answers),
            weights: vec![1.0; length],
            steps: length,
            inputs: Sequence::Values(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_answer_is_the_signal_so_many_steps_ago() {
        let task = Delay {
            lag: 5,
            lags: 3,
            limit: 0.1,
        };
        task.check(40).unwrap();
        let example = task.example(40, Item::training(0), &mut StdRng::seed_from_u64(3));
        let (Sequence::Values(signal), Answers::Values(answers)) = (&example.inputs, &example.answers) else {
            panic!("values");
        };
        for time in 0..40 {
            for lag in 1..=3 {
                let expected = if time < 5 * lag {
                    0.0
                } else {
                    signal[time - 5 * lag]
                };
                assert_eq!(answers[time * 3 + lag - 1], expected);
            }
        }
        assert!(
            task.check(15).is_err()
                && Delay {
                    lags: 0,
                    ..task.clone()
                }
                .check(40)
                .is_err()
        );
        assert!(Delay { limit: 0.6, ..task }.check(40).is_err());
    }
}
