//! The value of a nested expression.

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_length};

/// What stands after the end.
const PADDING: u32 = 0;
/// The digit 0; the others follow.
const ZERO: u32 = 1;
/// The first of the operators, each with its opening bracket.
const OPERATORS: u32 = 11;
/// Id of the closing bracket.
const CLOSE: u32 = 15;
/// The end of the expression.
const END: u32 = 16;
const VOCAB_SIZE: usize = 17;
/// Expressions that are drawn before one that is too short or too long is taken as it is.
const ATTEMPTS: usize = 10_000;

/// An expression of operators on digits, as `[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]`; its value, from 0 to 9, is the class.
///
/// ```text
/// expression ← operator with 2 to `arguments` arguments       MIN, MAX, MED (the median, rounded down), SM (the sum mod 10)
/// argument   ← expression with probability `nested` above depth `depth`, else a digit
/// ```
///
/// Expressions of `shortest` to T − 1 tokens are kept; an operator and its bracket are one token, the closing bracket is one, and so is the
/// end. Source: Nangia and Bowman, *ListOps* (1804.06028), with the sizes of Tay et al., *Long Range Arena* (2011.04006).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListOps {
    /// Most arguments of an operator.
    #[serde(default = "ten")]
    pub arguments: usize,
    /// Deepest nesting of operators; at 1, arguments are digits only.
    #[serde(default = "ten")]
    pub depth: usize,
    /// Probability that an argument is an expression.
    #[serde(default = "nested")]
    pub nested: f64,
    /// Fewest tokens of an expression without its end. Default: a quarter of the length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest: Option<usize>,
}

fn ten() -> usize {
    10
}

fn nested() -> f64 {
    0.25
}

impl Default for ListOps {
    fn default() -> Self {
        Self {
            arguments: ten(),
            depth: ten(),
            nested: nested(),
            shortest: None,
        }
    }
}

impl ListOps {
    /// Tokens of an expression without its end, from the fewest to the most.
    fn lengths(&self, length: usize) -> (usize, usize) {
        (self.shortest.unwrap_or(length / 4), length - 1)
    }

    /// Appends an expression of at most `most` tokens in all, and gives its value; `None` when there would be more.
    fn expression(&self, depth: usize, most: usize, rng: &mut StdRng, into: &mut Vec<u32>) -> Option<u32> {
        let operator = rng.random_range(0..4);
        into.push(OPERATORS + operator);
        let count = rng.random_range(2..=self.arguments);
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            if depth < self.depth && rng.random_bool(self.nested) {
                values.push(self.expression(depth + 1, most, rng, into)?);
            } else {
                let digit = rng.random_range(0..10);
                into.push(ZERO + digit);
                values.push(digit);
            }
            if into.len() >= most {
                return None;
            }
        }
        into.push(CLOSE);
        Some(apply(operator, &mut values))
    }

    /// An expression of a length between the two, and its value.
    fn drawn(&self, (shortest, most): (usize, usize), rng: &mut StdRng) -> (Vec<u32>, u32) {
        for _ in 0..ATTEMPTS {
            let mut tokens = Vec::new();
            if let Some(value) = self.expression(1, most, rng, &mut tokens)
                && tokens.len() >= shortest
            {
                return (tokens, value);
            }
        }
        // A single list without another in it, which always fits.
        let flat = Self {
            arguments: most - 2,
            nested: 0.0,
            ..self.clone()
        };
        let mut tokens = Vec::new();
        let value = flat.expression(1, most, rng, &mut tokens).unwrap_or(0);
        (tokens, value)
    }
}

/// The value of an operator; `values` are not empty and are left in order.
fn apply(operator: u32, values: &mut [u32]) -> u32 {
    values.sort_unstable();
    let (count, middle) = (values.len(), values.len() / 2);
    match operator {
        0 => values[0],
        1 => values[count - 1],
        2 if count.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2,
        2 => values[middle],
        _ => values.iter().sum::<u32>() % 10,
    }
}

impl Task for ListOps {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        expect_length(length, 6, "an operator, two digits, a bracket and the end")?;
        if self.arguments < 2 {
            return Err(TaskError::option("arguments", "at least 2", self.arguments));
        }
        if !(1..=1000).contains(&self.depth) {
            return Err(TaskError::option("depth", "1 to 1000", self.depth));
        }
        if !(0.0..=1.0).contains(&self.nested) {
            return Err(TaskError::option("nested", "a probability", self.nested));
        }
        let (shortest, most) = self.lengths(length);
        if shortest > most {
            let expected = format!("at most {most}, the length without the end");
            return Err(TaskError::option("shortest", expected, shortest));
        }
        Ok(())
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Tokens(VOCAB_SIZE),
            answer: Answer::Class(10),
            when: When::AtTheEnd,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let (mut tokens, value) = self.drawn(self.lengths(length), rng);
        tokens.push(END);
        let steps = tokens.len();
        tokens.resize(length, PADDING);
        Example::once(Sequence::Tokens(tokens), Answers::Classes(vec![value]), steps)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// The value of the expression that begins at `at`, which moves behind it; by reading the tokens.
    fn value(tokens: &[u32], at: &mut usize) -> u32 {
        let token = tokens[*at];
        *at += 1;
        if (ZERO..OPERATORS).contains(&token) {
            return token - ZERO;
        }
        let mut arguments = Vec::new();
        while tokens[*at] != CLOSE {
            arguments.push(value(tokens, at));
        }
        *at += 1;
        match token - OPERATORS {
            0 => *arguments.iter().min().unwrap(),
            1 => *arguments.iter().max().unwrap(),
            2 => {
                let mut sorted = arguments.clone();
                sorted.sort_unstable();
                let count = sorted.len();
                (sorted[(count - 1) / 2] + sorted[count / 2]) / 2
            }
            _ => arguments.iter().sum::<u32>() % 10,
        }
    }

    #[test]
    fn the_answer_is_the_value_of_what_is_read_and_lengths_are_kept() {
        for (length, task) in [
            (64, ListOps::default()),
            (6, ListOps::default()),
            (
                500,
                ListOps {
                    shortest: Some(400),
                    ..ListOps::default()
                },
            ),
            (
                40,
                ListOps {
                    arguments: 3,
                    depth: 3,
                    nested: 0.6,
                    shortest: Some(0),
                },
            ),
        ] {
            task.check(length).unwrap();
            for seed in 0..30 {
                let example = task.example(length, Item::training(0), &mut StdRng::seed_from_u64(seed));
                let (Sequence::Tokens(tokens), Answers::Classes(answers)) =
                    (&example.inputs, &example.answers)
                else {
                    panic!("tokens");
                };
                let mut at = 0;
                assert_eq!(answers[..], [value(tokens, &mut at)], "{tokens:?}");
                assert_eq!((tokens[at], at + 1), (END, example.steps));
                assert!(tokens[at + 1..].iter().all(|token| *token == PADDING));
                assert!(at >= task.lengths(length).0 && at < length);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let task = ListOps::default();
        assert!(task.check(5).is_err());
        assert!(
            ListOps {
                arguments: 1,
                ..task.clone()
            }
            .check(50)
            .is_err()
        );
        assert!(
            ListOps {
                shortest: Some(50),
                ..task.clone()
            }
            .check(50)
            .is_err()
        );
        assert!(
            ListOps {
                nested: f64::NAN,
                ..task
            }
            .check(50)
            .is_err()
        );
    }
}
