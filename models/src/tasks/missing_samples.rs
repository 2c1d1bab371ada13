//! A signal with gaps, to be filled.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, Waves, When, expect_length,
};

/// A signal of [`Waves`] of which each sample is missing with probability `missing`. Two numbers are read at every step: the sample and
/// 1, or 0 and 0 where it is missing. What is answered there is the signal; only missing samples count.
///
/// The answer at a step follows from what came before it: it is a forecast from an irregular past.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MissingSamples {
    /// The probability that a sample is missing.
    #[serde(default = "missing")]
    pub missing: f64,
    /// How the signals with gaps are drawn and sampled.
    #[serde(default)]
    pub waves: Waves,
}

fn missing() -> f64 {
    0.3
}

impl Task for MissingSamples {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        if !(self.missing > 0.0 && self.missing < 1.0) {
            let expected = "a number between 0 and 1";
            return Err(TaskError::option("missing", expected, self.missing));
        }
        self.waves.check()?;
        expect_length(length, 2, "a signal")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(2),
            answer: Answer::Values(1),
            when: When::AtEveryStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let wave = self.waves.draw(length, rng);
        let answers = (0..length).map(|step| wave.sample(step, 0.0)).collect();
        let samples = self.waves.read(&wave, length, rng);
        let missing: Vec<bool> = samples.iter().map(|_| rng.random_bool(self.missing)).collect();
        let read = samples.iter().zip(&missing);
        let read = read.flat_map(|(sample, missing)| if *missing { [0.0, 0.0] } else { [*sample, 1.0] });
        Example {
            inputs: Sequence::Values(read.collect()),
            answers: Answers::Values(answers),
            weights: missing.iter().map(|missing| f32::from(*missing)).collect(),
            steps: length,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_and_not_shown() {
        let task = MissingSamples {
            missing: 0.25,
            waves: Waves::default(),
        };
        task.check(1000).unwrap();
        let example = task.example(1000, Item::training(0), &mut StdRng::seed_from_u64(4));
        let (Sequence::Values(inputs), Answers::Values(answers)) = (&example.inputs, &example.answers) else {
            panic!("values");
        };
        for (step, weight) in example.weights.iter().enumerate() {
            let read = [inputs[2 * step], inputs[2 * step + 1]];
            match *weight == 1.0 {
                true => assert_eq!(read, [0.0, 0.0]),
                false => assert_eq!((read, *weight), ([answers[step], 1.0], 0.0)),
            }
        }
        let missing: f32 = example.weights.iter().sum();
        assert!((200.0..300.0).contains(&missing), "{missing} of 1000");
    }
}
