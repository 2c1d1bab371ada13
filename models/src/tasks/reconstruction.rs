//! The last stretch of a signal, from the last state.

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::delay::limit;
use super::white_signal::{expect_limit, white_signal};
use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_length};

/// After the last step of a [`white_signal`](super::white_signal()), its last `window` samples, all at once: y = (u(T − window + 1), …,
/// u(T)). What the answer is read from is one state.
///
/// Source: Gu et al., *How to Train Your HiPPO* (2206.12037), section 4.3.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reconstruction {
    /// Samples to be reconstructed.
    pub window: usize,
    /// Highest frequency of the signal, in cycles per step.
    #[serde(default = "limit")]
    pub limit: f64,
}

impl Task for Reconstruction {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        if self.window == 0 {
            return Err(TaskError::option("window", "at least 1", 0));
        }
        expect_length(length, self.window.max(2), "the window")?;
        expect_limit(self.limit, length)
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(1),
            answer: Answer::Values(self.window),
            when: When::AtTheLastStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let signal = white_signal(length, self.limit, rng);
        let window = signal[length - self.window..].to_vec();
        Example::once(Sequence::Values(signal), Answers::Values(window), length)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_answer_is_the_end_of_the_signal() {
        let task = Reconstruction {
            window: 8,
            limit: 0.1,
        };
        let example = task.example(64, Item::training(0), &mut StdRng::seed_from_u64(3));
        let (Sequence::Values(signal), Answers::Values(answers)) = (&example.inputs, &example.answers) else {
            panic!("values");
        };
        assert_eq!(answers[..], signal[56..]);
        assert!(task.check(8).is_err(), "a limit of 0.1 needs 10 steps");
        assert!(task.check(64).is_ok() && Reconstruction { window: 65, ..task }.check(64).is_err());
    }
}
