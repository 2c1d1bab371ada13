//! Associative recall of vectors: each step is a key beside its value, and then keys alone.
//!
//! ```text
//! x_t = [e(k_i) | e(v_i)]      P·K steps: all K pairs, P times, each time in an order of its own
//! x_t = [e(k_i) |   0   ]      K steps: every key once more, in yet another order; answered is v_i
//! ```
//!
//! The embeddings e of V/2 keys and V/2 values are drawn once, independent of the training's seed: standard normal vectors of d numbers,
//! divided by their length. K keys and K values are drawn for each sequence without repetition, and paired by chance. With `persistent` a
//! key has one value for ever, which weights can learn, and no state is needed.
//!
//! A pair stands in one step, so that what shifts tokens, a convolution or a second layer, is not needed: a layer that adds up v kᵀ and reads
//! it by q = k solves the task, up to how far the embeddings are from orthogonal. The best answer that is always the same is right in 2/V; who
//! knows which values were told, and no more, in 1/K.
//!
//! Source: the task of this name in Zoology (Arora et al., 2312.04927), which scores an output by its products with the values' embeddings;
//! here a linear head does, of which those products are a case. Theirs keeps, where pairs are to persist, the order in which the keys and
//! values of a sequence are paired, while both are drawn anew for each.

use std::fmt;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_this_length,
};

/// The most numbers of all embeddings together.
const MOST_NUMBERS: usize = 1 << 26;

/// Associative recall of vectors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContinuousMqar {
    /// K, the pairs of a sequence.
    pub pairs: usize,
    /// V: half of it keys, half of it values.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    /// d, the numbers of an embedding; a step has twice as many.
    #[serde(default = "width")]
    pub width: usize,
    /// P, how often the pairs are told.
    #[serde(default = "one")]
    pub passes: usize,
    /// Whether a key has the same value in every sequence.
    #[serde(default)]
    pub persistent: bool,
}

fn vocab_size() -> usize {
    64
}

fn width() -> usize {
    32
}

fn one() -> usize {
    1
}

impl ContinuousMqar {
    /// The task with its embeddings.
    ///
    /// # Errors
    /// [`TaskError::Option`] for an option that is out of range.
    pub fn open(&self) -> Result<VectorPairs, TaskError> {
        for (option, found) in [
            ("pairs", self.pairs),
            ("passes", self.passes),
            ("width", self.width),
        ] {
            if found == 0 {
                return Err(TaskError::option(option, "at least 1", found));
            }
        }
        let half = self.vocab_size / 2;
        if !self.vocab_size.is_multiple_of(2) || half < self.pairs {
            let expected = format!("an even number, at least {}", self.pairs.saturating_mul(2));
            return Err(TaskError::option("vocab_size", expected, self.vocab_size));
        }
        if self
            .vocab_size
            .checked_mul(self.width)
            .is_none_or(|numbers| numbers > MOST_NUMBERS)
        {
            let expected = format!("vocab_size · width of at most {MOST_NUMBERS} numbers");
            let found = format!("{} · {}", self.vocab_size, self.width);
            return Err(TaskError::option("width", expected, found));
        }
        // The embeddings are the task, not the training: every seed has the same.
        let mut rng = StdRng::seed_from_u64(0);
        let mut embeddings = Vec::with_capacity(self.vocab_size * self.width);
        for _ in 0..self.vocab_size {
            let vector: Vec<f64> = (0..self.width).map(|_| rng.sample(StandardNormal)).collect();
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            embeddings.extend(vector.iter().map(|x| (x / length) as f32));
        }
        let mut value_of: Vec<usize> = (0..half).collect();
        value_of.shuffle(&mut rng);
        Ok(VectorPairs {
            config: self.clone(),
            embeddings: embeddings.into(),
            value_of: value_of.into(),
        })
    }
}

/// The task with its embeddings.
#[derive(Clone)]
pub struct VectorPairs {
    config: ContinuousMqar,
    /// Embeddings e, `[vocab_size, width]`: those of the keys first, then those of the values.
    embeddings: Arc<[f32]>,
    /// The value of each key where pairs persist.
    value_of: Arc<[usize]>,
}

impl fmt::Debug for VectorPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl VectorPairs {
    /// The embedding of a key, `[width]`; `key` is below V/2.
    pub fn key(&self, key: usize) -> &[f32] {
        self.embedding(key)
    }

    /// The embedding of a value, `[width]`; `value` is below V/2.
    pub fn value(&self, value: usize) -> &[f32] {
        self.embedding(self.config.vocab_size / 2 + value)
    }

    fn embedding(&self, id: usize) -> &[f32] {
        &self.embeddings[id * self.config.width..(id + 1) * self.config.width]
    }
}

impl Task for VectorPairs {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        let ContinuousMqar { pairs, passes, .. } = self.config;
        let steps = passes.saturating_add(1).saturating_mul(pairs);
        expect_this_length(
            length,
            steps,
            "the pairs as often as they are told, and a step for each question",
        )
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(2 * self.config.width),
            answer: Answer::Class(self.config.vocab_size / 2),
            when: When::AtEveryStep,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let ContinuousMqar {
            pairs,
            vocab_size,
            width,
            passes,
            persistent,
        } = self.config;
        let keys = sample(rng, vocab_size / 2, pairs).into_vec();
        let values = match persistent {
            true => keys.iter().map(|key| self.value_of[*key]).collect(),
            false => sample(rng, vocab_size / 2, pairs).into_vec(),
        };
        let mut inputs = Vec::with_capacity(2 * width * length);
        let mut answers = vec![0; length];
        let mut order: Vec<usize> = (0..pairs).collect();
        for _ in 0..passes {
            order.shuffle(rng);
            for pair in &order {
                inputs.extend_from_slice(self.key(keys[*pair]));
                inputs.extend_from_slice(self.value(values[*pair]));
            }
        }
        order.shuffle(rng);
        for (question, pair) in order.iter().enumerate() {
            inputs.extend_from_slice(self.key(keys[*pair]));
            inputs.extend(std::iter::repeat_n(0.0, width));
            answers[passes * pairs + question] = values[*pair] as u32;
        }
        let mut weights = vec![0.0; length];
        weights[passes * pairs..].fill(1.0);
        Example {
            inputs: Sequence::Values(inputs),
            answers: Answers::Classes(answers),
            weights,
            steps: length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: ContinuousMqar = ContinuousMqar {
        pairs: 6,
        vocab_size: 40,
        width: 64,
        passes: 2,
        persistent: false,
    };

    /// A sequence's steps `[key | value]`, and its answers.
    fn drawn(task: &VectorPairs, seed: u64) -> (Vec<Vec<f32>>, Vec<u32>) {
        let config = &task.config;
        let length = (config.passes + 1) * config.pairs;
        task.check(length).unwrap();
        let example = task.example(length, Item::training(0), &mut StdRng::seed_from_u64(seed));
        let (Sequence::Values(values), Answers::Classes(answers)) = (example.inputs, example.answers) else {
            panic!("vectors and classes");
        };
        assert_eq!(values.len(), length * 2 * config.width);
        let told = config.passes * config.pairs;
        assert!(example.weights[..told].iter().all(|weight| *weight == 0.0));
        assert!(example.weights[told..].iter().all(|weight| *weight == 1.0));
        let steps = values.chunks(2 * config.width).map(<[f32]>::to_vec).collect();
        (steps, answers)
    }

    #[test]
    fn a_table_of_what_was_told_answers_everything_and_one_value_for_all_answers_by_chance() {
        let task = TASK.open().unwrap();
        let (width, told) = (TASK.width, TASK.passes * TASK.pairs);
        let (mut constant, mut member, mut asked) = (0, 0, 0);
        for seed in 0..200 {
            let (steps, answers) = drawn(&task, seed);
            let mut keys = Vec::new();
            for (step, answer) in steps[told..].iter().zip(&answers[told..]) {
                assert!(step[width..].iter().all(|x| *x == 0.0));
                let pair = steps[..told]
                    .iter()
                    .find(|pair| pair[..width] == step[..width])
                    .unwrap();
                assert_eq!(pair[width..], *task.value(*answer as usize));
                keys.push(step[..width].iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                constant += usize::from(*answer == 7);
                member += usize::from(pair == &steps[0]);
                asked += 1;
            }
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), TASK.pairs, "every key is asked once");
            // The second reading has the same pairs.
            let sorted = |steps: &[Vec<f32>]| {
                let bits = steps
                    .iter()
                    .map(|step| step.iter().map(|x| x.to_bits()).collect());
                let mut all: Vec<Vec<u32>> = bits.collect();
                all.sort();
                all
            };
            assert_eq!(sorted(&steps[..told / 2]), sorted(&steps[told / 2..told]));
        }
        // 1,200 questions: 2/V = 1/20 of 60 ± 7.5, and exactly one of K is the first pair that was told.
        assert!((30..90).contains(&constant), "{constant} of {asked}");
        assert_eq!(member * TASK.pairs, asked);
    }

    #[test]
    fn a_sum_of_outer_products_answers_nearly_everything() {
        let task = TASK.open().unwrap();
        let (d, told) = (TASK.width, TASK.passes * TASK.pairs);
        let (mut right, mut asked) = (0, 0);
        for seed in 0..100 {
            let (steps, answers) = drawn(&task, seed);
            let mut memory = vec![0.0f64; d * d];
            for step in &steps[..told] {
                for (k, v) in (0..d).flat_map(|k| (0..d).map(move |v| (k, v))) {
                    memory[k * d + v] += f64::from(step[k]) * f64::from(step[d + v]);
                }
            }
            for (step, answer) in steps[told..].iter().zip(&answers[told..]) {
                let read = |v: usize| (0..d).map(|k| f64::from(step[k]) * memory[k * d + v]).sum();
                let read: Vec<f64> = (0..d).map(read).collect();
                let score = |value: usize| -> f64 {
                    let of_value = task.value(value).iter();
                    of_value.zip(&read).map(|(x, y)| f64::from(*x) * y).sum()
                };
                let best = (0..TASK.vocab_size / 2).max_by(|a, b| score(*a).total_cmp(&score(*b)));
                right += usize::from(best == Some(*answer as usize));
                asked += 1;
            }
        }
        // Five other pairs disturb by products of unit vectors in 64 dimensions, each around 1/8 · 1/8.
        assert!(right * 100 >= asked * 99, "{right} of {asked}");
    }

    #[test]
    fn pairs_that_persist_are_the_same_in_every_sequence_and_others_are_not() {
        let pairs = |persistent: bool| {
            let task = ContinuousMqar { persistent, ..TASK }.open().unwrap();
            let told = TASK.passes * TASK.pairs;
            let mut found = std::collections::BTreeSet::new();
            for seed in 0..100 {
                let (steps, answers) = drawn(&task, seed);
                for (step, answer) in steps[told..].iter().zip(&answers[told..]) {
                    let key: Vec<u32> = step[..TASK.width].iter().map(|x| x.to_bits()).collect();
                    found.insert((key, *answer));
                }
            }
            found.len()
        };
        assert_eq!(pairs(true), 20);
        assert!(pairs(false) > 200);
    }

    #[test]
    fn options_and_lengths_out_of_range_are_refused_by_name() {
        let error = |task: ContinuousMqar| task.open().expect_err("out of range").to_string();
        for (task, name) in [
            (ContinuousMqar { pairs: 0, ..TASK }, "pairs"),
            (ContinuousMqar { passes: 0, ..TASK }, "passes"),
            (ContinuousMqar { width: 0, ..TASK }, "width"),
            (
                ContinuousMqar {
                    width: usize::MAX,
                    ..TASK
                },
                "width",
            ),
            (
                ContinuousMqar {
                    vocab_size: 10,
                    ..TASK
                },
                "vocab_size",
            ),
            (
                ContinuousMqar {
                    vocab_size: 41,
                    ..TASK
                },
                "vocab_size",
            ),
        ] {
            assert!(error(task).contains(name));
        }
        let task = TASK.open().unwrap();
        for length in [17, 19] {
            let error = task.check(length).expect_err("another length").to_string();
            assert!(error.contains("length") && error.contains("18"), "{error}");
        }
    }
}
