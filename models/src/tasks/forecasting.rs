//! What a signal will be.

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, Waves, When, expect_length,
};

/// At every step, the value that a signal of [`Waves`] will have `horizon` training steps later: y(t) = u(rate·t + horizon), without the
/// noise in what is read. The first steps cannot be foretold, and count all the same.
///
/// At another `rate` the same question is asked of the same signals sampled differently: a model that has been trained at rate 1 can be
/// evaluated at 2 without further training.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forecasting {
    /// How far ahead, in training steps.
    #[serde(default = "horizon")]
    pub horizon: f64,
    /// How the signals to be forecast are drawn and sampled.
    #[serde(default)]
    pub waves: Waves,
}

fn horizon() -> f64 {
    8.0
}

impl Task for Forecasting {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        if !(self.horizon.is_finite() && self.horizon >= 0.0) {
            return Err(TaskError::option("horizon", "a number from 0 on", self.horizon));
        }
        self.waves.check()?;
        expect_length(length, 2, "a signal")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(1),
            answer: Answer::Values(1),
            when: When::AtEveryStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let wave = self.waves.draw(length, rng);
        let answers = (0..length).map(|step| wave.sample(step, self.horizon));
        Example {
            answers: Answers::Values(answers.collect()),
            inputs: Sequence::Values(self.waves.read(&wave, length, rng)),
            weights: vec![1.0; length],
            steps: length,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_answer_is_read_horizon_steps_later() {
        let task = Forecasting {
            horizon: 6.0,
            waves: Waves::default(),
        };
        let values = |task: &Forecasting, length| {
            task.check(length).unwrap();
            let example = task.example(length, Item::training(0), &mut StdRng::seed_from_u64(9));
            match (example.inputs, example.answers) {
                (Sequence::Values(inputs), Answers::Values(answers)) => (inputs, answers),
                _ => panic!("values"),
            }
        };
        let (inputs, answers) = values(&task, 50);
        assert!((0..44).all(|step| (answers[step] - inputs[step + 6]).abs() < 1e-5));
        // At rate 2 the horizon is three samples.
        let coarse = Forecasting {
            waves: Waves {
                rate: 2.0,
                ..Waves::default()
            },
            ..task
        };
        let (inputs, answers) = values(&coarse, 25);
        assert!((0..22).all(|step| (answers[step] - inputs[step + 3]).abs() < 1e-5));
    }
}
