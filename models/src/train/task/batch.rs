//! Examples side by side.

use serde_json::{Value, json};

use crate::tasks::{Answers, Item, Sequence, Split, Task};
use crate::train::data::DataError;
use crate::train::data::permutation::Permutation;
use crate::train::data::seed::{generator, mix};

/// Examples of one length, one after another.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::train) struct TaskBatch {
    /// Number of sequences in the batch.
    pub(in crate::train) sequences: usize,
    /// Steps of each sequence, its padding included.
    pub(in crate::train) length: usize,
    /// What is read, `[sequences, length]` or `[sequences, length, width]`.
    pub(super) inputs: Sequence,
    /// What is right, `[sequences, 1 or length]` or `[sequences, 1 or length, width]`.
    pub(super) answers: Answers,
    /// Weights of the answers, `[sequences, 1 or length]`.
    pub(super) weights: Vec<f32>,
    /// Steps of each sequence before its padding.
    pub(super) steps: Vec<usize>,
}

impl TaskBatch {
    /// The examples `items` of a task, each drawn by a generator of its own seed.
    fn of(task: &dyn Task, length: usize, items: impl Iterator<Item = (Item, u64)>) -> Self {
        let mut batch = Self {
            sequences: 0,
            length,
            inputs: Sequence::Tokens(Vec::new()),
            answers: Answers::Classes(Vec::new()),
            weights: Vec::new(),
            steps: Vec::new(),
        };
        for (item, seed) in items {
            let example = task.example(length, item, &mut generator(seed, 0, 0));
            // All examples of a task are of one kind: that of the first.
            match (&mut batch.inputs, example.inputs) {
                (Sequence::Tokens(all), Sequence::Tokens(more)) => all.extend(more),
                (Sequence::Values(all), Sequence::Values(more)) => all.extend(more),
                (all, first) => *all = first,
            }
            match (&mut batch.answers, example.answers) {
                (Answers::Classes(all), Answers::Classes(more)) => all.extend(more),
                (Answers::Values(all), Answers::Values(more)) => all.extend(more),
                (all, first) => *all = first,
            }
            batch.weights.extend(example.weights);
            batch.steps.push(example.steps);
            batch.sequences += 1;
        }
        batch
    }

    /// Answers of each sequence.
    pub(super) fn places(&self) -> usize {
        self.weights.len() / self.sequences.max(1)
    }
}

/// The batches of a training, without an end: always the same for the same task, seed and position.
///
/// Of a task with N examples every one comes once in each N, in an order of its own each time.
#[derive(Debug)]
pub(super) struct TaskStream {
    pub(super) task: Box<dyn Task>,
    pub(super) length: usize,
    sequences: usize,
    seed: u64,
    batches: u64,
}

impl TaskStream {
    pub(super) fn new(task: Box<dyn Task>, length: usize, sequences: usize, seed: u64) -> Self {
        Self {
            task,
            length,
            sequences,
            seed,
            batches: 0,
        }
    }

    pub(super) fn next(&mut self) -> TaskBatch {
        let first = self.batches.wrapping_mul(self.sequences as u64);
        self.batches += 1;
        let count = self.task.count(Split::Training);
        let items = (0..self.sequences as u64).map(|row| {
            let number = first.wrapping_add(row);
            let index = match count {
                Some(count) => {
                    let (round, place) = (number / count, number % count);
                    Permutation::new(count, mix(self.seed, 1, round)).at(place)
                }
                None => number,
            };
            (Item::training(index), mix(self.seed, 2, number))
        });
        TaskBatch::of(self.task.as_ref(), self.length, items)
    }

    /// Where the stream is.
    pub(super) fn position(&self) -> Value {
        json!({
            "batches": self.batches,
            "sequences": self.sequences,
            "length": self.length,
            "examples": self.task.count(Split::Training),
        })
    }

    /// Goes to a position of a stream of the same task and seed.
    pub(super) fn seek(&mut self, position: &Value) -> Result<(), DataError> {
        let ours = self.position();
        for field in ["sequences", "length", "examples"] {
            if position[field] != ours[field] {
                return Err(DataError::Position {
                    field,
                    expected: ours[field].to_string(),
                    found: position[field].to_string(),
                });
            }
        }
        let batches = position["batches"].as_u64().filter(|batches| *batches < 1 << 62);
        self.batches = batches.ok_or_else(|| DataError::Position {
            field: "batches",
            expected: "a whole number below 2^62".into(),
            found: position["batches"].to_string(),
        })?;
        Ok(())
    }
}

/// `examples` examples that no training with this seed reads, in batches of at most `sequences`; fewer where fewer are held out.
pub(super) fn held_out(
    task: &dyn Task,
    length: usize,
    (examples, sequences): (u64, usize),
    seed: u64,
) -> Vec<TaskBatch> {
    let examples = task
        .count(Split::HeldOut)
        .map_or(examples, |count| count.min(examples));
    let starts = (0..examples).step_by(sequences.max(1));
    let batches = starts.map(|start| {
        let end = examples.min(start + sequences.max(1) as u64);
        let items = (start..end).map(|index| (Item::held_out(index), mix(!seed, 3, index)));
        TaskBatch::of(task, length, items)
    });
    batches.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::tasks::TaskData;

    fn stream(text: &str, length: usize, sequences: usize, seed: u64) -> TaskStream {
        let data: TaskData = toml::from_str(text).unwrap();
        TaskStream::new(data.open(Path::new(""), length).unwrap(), length, sequences, seed)
    }

    #[test]
    fn a_position_gives_the_same_batches_and_another_seed_others() {
        for (text, length) in [
            ("kind = \"digits-with-gap\"\ngap = 6", 70),
            ("kind = \"adding\"", 9),
        ] {
            let mut first = stream(text, length, 3, 1);
            first.next();
            let position = first.position();
            let next = first.next();
            let mut second = stream(text, length, 3, 1);
            second.seek(&position).unwrap();
            assert_eq!(second.next(), next);
            let mut other = stream(text, length, 3, 2);
            other.seek(&position).unwrap();
            assert_ne!(other.next(), next);
            assert!(stream(text, length, 2, 1).seek(&position).is_err());
        }
    }

    #[test]
    fn every_image_comes_once_in_each_round_and_none_that_is_held_out() {
        let mut digits = stream("kind = \"digits\"\nheld_out = 0.9", 64, 10, 5);
        let image = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let mut round = || {
            let mut seen = Vec::new();
            // 180 images, in 18 batches of 10.
            for _ in 0..18 {
                let Sequence::Values(values) = digits.next().inputs else {
                    panic!("values");
                };
                seen.extend(values.chunks(64).map(image));
            }
            seen
        };
        let (first, second) = (round(), round());
        assert_ne!(first, second);
        let set = |list: &[Vec<u32>]| list.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!((set(&first).len(), set(&first)), (180, set(&second)));
        let batches = held_out(digits.task.as_ref(), 64, (100_000, 64), 5);
        assert_eq!(batches.iter().map(|batch| batch.sequences).sum::<usize>(), 1617);
        for batch in batches {
            let Sequence::Values(values) = batch.inputs else {
                panic!("values");
            };
            assert!(
                values
                    .chunks(64)
                    .all(|values| !set(&first).contains(&image(values)))
            );
        }
    }
}
