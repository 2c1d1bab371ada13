//! The sum of two marked values.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_length};

/// Two numbers at every step: a value from [0, 1), and 1 at two places, one in each half, 0 elsewhere. At the end, the sum of the two
/// values at these places. The best constant answer, 1, has a mean square error of 1/6, the variance of the sum.
///
/// Source: Hochreiter and Schmidhuber, *Long Short-Term Memory* (1997); the form with one place in each half is that of Arjovsky, Shah and
/// Bengio (1511.06464).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Adding {}

impl Task for Adding {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        expect_length(length, 2, "two values")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(2),
            answer: Answer::Values(1),
            when: When::AtTheLastStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let mut inputs: Vec<f32> = (0..length).flat_map(|_| [rng.random(), 0.0]).collect();
        let half = length / 2;
        let marked = [rng.random_range(0..half), rng.random_range(half..length)];
        let sum = marked.iter().map(|place| inputs[2 * place]).sum();
        for place in marked {
            inputs[2 * place + 1] = 1.0;
        }
        Example::once(Sequence::Values(inputs), Answers::Values(vec![sum]), length)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn one_value_in_each_half_is_marked_and_the_answer_is_their_sum() {
        let (mut mean, mut square) = (0.0, 0.0);
        for seed in 0..2000 {
            let length = 2 + seed as usize % 9;
            let example = Adding {}.example(length, Item::training(0), &mut StdRng::seed_from_u64(seed));
            let (Sequence::Values(inputs), Answers::Values(answers)) = (&example.inputs, &example.answers)
            else {
                panic!("values");
            };
            let steps: Vec<&[f32]> = inputs.chunks(2).collect();
            let marks = |steps: &[&[f32]]| steps.iter().map(|step| step[1]).sum::<f32>();
            assert_eq!(
                (marks(&steps[..length / 2]), marks(&steps[length / 2..])),
                (1.0, 1.0)
            );
            let sum: f32 = steps.iter().map(|step| step[0] * step[1]).sum();
            assert_eq!(answers[..], [sum]);
            mean += f64::from(sum) / 2000.0;
            square += f64::from(sum).powi(2) / 2000.0;
        }
        assert!((mean - 1.0).abs() < 0.05 && (square - mean * mean - 1.0 / 6.0).abs() < 0.02);
    }
}
