//! How far back, and at what length, a model still finds five digits: questions as ids, answers read off greedily.
//!
//! Questions of one length and depth go through the model together. What they have in common with the *stem*, the question that
//! shares most with another, is computed once for all: one state walks along the stem, and questions go on from copies of it
//! where they first differ. Two states are alive at any time.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use spillway_ssm_core::Chain;

use super::wilson;
use crate::error::ModelError;
use crate::model::{Logits, Model};
use crate::sampling::first_of_largest;
use crate::state::ModelState;

/// Accuracy above which a length counts as recalled. Source: Chen et al., *Stuffed Mamba* (2410.07145), section 5.
pub const RECALLED: f64 = 0.95;
/// Questions that are asked side by side.
const TOGETHER: usize = 32;

/// A prompt that hides something and asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Tokens of context, as asked for.
    pub length: u64,
    /// Where the passkey is: 0 at the beginning, 1 at the end.
    pub depth: f64,
    /// The prompt, which ends with the question.
    pub ids: Vec<u32>,
    /// The only right answer.
    pub answer: Vec<u32>,
}

/// Correct answers in one place of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Tokens of context of the questions, as asked for.
    pub length: u64,
    /// Where the passkey is; `None` over all depths.
    pub depth: Option<f64>,
    /// Number of questions that were answered rightly.
    pub correct: u64,
    /// Number of questions that were asked.
    pub samples: u64,
    /// Share of right answers, correct / samples.
    pub accuracy: f64,
    /// Wilson 95 % interval of the accuracy, lower end first.
    pub wilson: [f64; 2],
}

/// What came of all questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PasskeyReport {
    /// Length by length, depth by depth, both ascending.
    pub cells: Vec<Cell>,
    /// All depths of each length together, lengths ascending.
    pub lengths: Vec<Cell>,
    /// Longest of the lengths at which, and at all shorter ones, more than 95 % of the answers were right: T_recall.
    pub recall_length: Option<u64>,
    /// Prompt tokens that went through the model.
    pub computed_tokens: u64,
    /// Prompt tokens of all questions together.
    pub prompt_tokens: u64,
}

/// The questions of a grid: `samples` at each of `depths` depths (r + ½)/`depths` of each length. `prompt` makes one of a length,
/// a depth and its number, which no other question has.
///
/// # Errors
/// The first that `prompt` gives.
pub fn questions<E>(
    lengths: &[u64],
    depths: usize,
    samples: usize,
    mut prompt: impl FnMut(u64, f64, u64) -> Result<(Vec<u32>, Vec<u32>), E>,
) -> Result<Vec<Question>, E> {
    let mut questions = Vec::new();
    for length in lengths {
        for row in 0..depths {
            let depth = (row as f64 + 0.5) / depths as f64;
            for _ in 0..samples {
                let (ids, answer) = prompt(*length, depth, questions.len() as u64)?;
                questions.push(Question {
                    length: *length,
                    depth,
                    ids,
                    answer,
                });
            }
        }
    }
    Ok(questions)
}

/// Asks every question; the answer is what is likeliest, token by token, and right if all of it is. A model whose logits are not
/// numbers any more is wrong.
///
/// # Errors
/// [`ModelError::EmptyPrompt`] for a question without tokens; as [`Model::logits_batched`].
pub fn passkey(model: &Model, questions: &[Question]) -> Result<PasskeyReport, ModelError> {
    if questions.iter().any(|question| question.ids.is_empty()) {
        return Err(ModelError::EmptyPrompt);
    }
    let Some(stem) = stem(questions) else {
        return Ok(PasskeyReport::default());
    };
    let mut walk = Walk {
        model,
        ids: &questions[stem].ids,
        state: model.start(&Chain::default(), 1)?,
        position: 0,
    };
    let mut correct = vec![false; questions.len()];
    let mut computed = 0;
    for (shared, group) in groups(questions, &questions[stem].ids, model.encoder_length()) {
        let members: Vec<&Question> = group.iter().map(|index| &questions[*index]).collect();
        computed += shared - walk.position + members.iter().map(|q| q.ids.len() - shared).sum::<usize>();
        let state = walk.state_at(shared)?;
        for (index, right) in group.iter().zip(ask(model, state, shared, &members)?) {
            correct[*index] = right;
        }
    }
    Ok(report(questions, &correct, computed as u64))
}

/// A state that walks along the stem.
struct Walk<'a> {
    model: &'a Model,
    ids: &'a [u32],
    state: ModelState,
    position: usize,
}

impl Walk<'_> {
    /// The state after `position` tokens, which is not before the last one asked for.
    fn state_at(&mut self, position: usize) -> Result<ModelState, ModelError> {
        if self.position == 0 && position > 0 {
            self.model.begin_prompt(position, &mut self.state);
        }
        self.model
            .advance(&self.ids[self.position..position], &mut self.state)?;
        self.position = position;
        Ok(self.state.clone())
    }
}

/// The question that has the longest beginning in common with another; of one that is like another, the first.
fn stem(questions: &[Question]) -> Option<usize> {
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by(|a, b| questions[*a].ids.cmp(&questions[*b].ids));
    // In this order, a question shares most with a neighbour.
    let pairs = order.windows(2);
    let longest = pairs.max_by_key(|pair| common(&questions[pair[0]].ids, &questions[pair[1]].ids));
    longest.map(|pair| pair[0]).or(order.first().copied())
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Questions that are asked together, and the number of tokens that all of them share with the stem, ascending. At least one
/// token of each is left to take in, so that there are logits to answer from. What an `encoder` of so many tokens reads is shared as a
/// whole or not at all.
fn groups(questions: &[Question], stem: &[u32], encoder: usize) -> Vec<(usize, Vec<usize>)> {
    let mut alike: BTreeMap<(u64, u64, usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, question) in questions.iter().enumerate() {
        // Depths are not negative, so their bits are in their order.
        let place = (
            question.length,
            question.depth.to_bits(),
            question.ids.len(),
            question.answer.len(),
        );
        alike.entry(place).or_default().push(index);
    }
    let groups = alike.values().flat_map(|alike| alike.chunks(TOGETHER));
    let mut groups: Vec<(usize, Vec<usize>)> = groups
        .map(|group| {
            let shared = group.iter().map(|index| {
                let ids = &questions[*index].ids;
                common(ids, stem).min(ids.len() - 1)
            });
            let shared = shared.min().filter(|shared| *shared >= encoder);
            (shared.unwrap_or(0), group.to_vec())
        })
        .collect();
    groups.sort_by_key(|(shared, _)| *shared);
    groups
}

/// Whether each of these questions, of one number of tokens, is answered from the state after their first `shared` ones.
fn ask(
    model: &Model,
    state: ModelState,
    shared: usize,
    questions: &[&Question],
) -> Result<Vec<bool>, ModelError> {
    let mut state = state.select(&vec![0; questions.len()])?;
    if shared == 0 {
        // All questions of a group have one number of tokens.
        let tokens = questions.first().map_or(0, |question| question.ids.len());
        model.begin_prompt(tokens, &mut state);
    }
    let rest: Vec<u32> = questions
        .iter()
        .flat_map(|question| &question.ids[shared..])
        .copied()
        .collect();
    let logits = model.logits_batched(&rest, &mut state, Logits::Last)?;
    let mut logits = logits.squeeze_dim::<2>(1).narrow(1, 0, model.info().vocab_size);
    let mut right = vec![true; questions.len()];
    let tokens = questions
        .iter()
        .map(|question| question.answer.len())
        .max()
        .unwrap_or(0);
    for token in 0..tokens {
        let likeliest = likeliest(logits.clone());
        for ((right, id), question) in right.iter_mut().zip(&likeliest).zip(questions) {
            *right &= id.is_some() && *id == question.answer.get(token).copied();
        }
        if token + 1 == tokens || !right.contains(&true) {
            break;
        }
        // What is wrong stays wrong, whatever it goes on with.
        let ids: Vec<u32> = likeliest.iter().map(|id| id.unwrap_or(0)).collect();
        logits = model.decode_batch(&ids, &mut state)?;
    }
    Ok(right)
}

/// The likeliest id of each row, the first of equals; `None` where a logit is NaN.
fn likeliest(logits: Tensor<2>) -> Vec<Option<u32>> {
    let width = logits.dims()[1].max(1);
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows = values.chunks(width);
    let rows = rows.map(|row| match row.iter().any(|logit| logit.is_nan()) {
        true => None,
        false => first_of_largest(row),
    });
    rows.collect()
}

fn report(questions: &[Question], correct: &[bool], computed_tokens: u64) -> PasskeyReport {
    let mut cells: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    let mut lengths: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (question, correct) in questions.iter().zip(correct) {
        let cell = cells
            .entry((question.length, question.depth.to_bits()))
            .or_default();
        let length = lengths.entry(question.length).or_default();
        for counts in [cell, length] {
            *counts = (counts.0 + u64::from(*correct), counts.1 + 1);
        }
    }
    let lengths: Vec<Cell> = lengths
        .iter()
        .map(|(length, counts)| cell(*length, None, *counts))
        .collect();
    let recalled = lengths.iter().take_while(|cell| cell.accuracy > RECALLED);
    PasskeyReport {
        recall_length: recalled.last().map(|cell| cell.length),
        cells: cells
            .iter()
            .map(|((length, depth), counts)| cell(*length, Some(f64::from_bits(*depth)), *counts))
            .collect(),
        lengths,
        computed_tokens,
        prompt_tokens: questions.iter().map(|question| question.ids.len() as u64).sum(),
    }
}

fn cell(length: u64, depth: Option<f64>, (correct, samples): (u64, u64)) -> Cell {
    Cell {
        length,
        depth,
        correct,
        samples,
        accuracy: correct as f64 / samples.max(1) as f64,
        wilson: wilson::interval(correct, samples).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(length: u64, depth: f64, ids: &[u32]) -> Question {
        let (ids, answer) = (ids.to_vec(), vec![1]);
        Question {
            length,
            depth,
            ids,
            answer,
        }
    }

    #[test]
    fn questions_share_what_they_have_in_common_with_the_stem() {
        let all = [
            question(4, 0.1, &[7, 1, 8, 9]),
            question(4, 0.9, &[7, 8, 1, 9]),
            question(6, 0.9, &[7, 8, 7, 8, 1, 9]),
            question(6, 0.9, &[7, 8, 7, 8, 2, 9]),
        ];
        assert_eq!(stem(&all), Some(2));
        let found = groups(&all, &all[2].ids, 0);
        assert_eq!(found, [(1, vec![0]), (2, vec![1]), (4, vec![2, 3])]);
        // An encoder that reads three tokens has not read two of them.
        let found = groups(&all, &all[2].ids, 3);
        assert_eq!(found, [(0, vec![0]), (0, vec![1]), (4, vec![2, 3])]);
        assert_eq!(stem(&all[..1]), Some(0));
        assert_eq!(stem(&[]), None);
    }

    #[test]
    fn a_report_counts_cells_and_lengths_and_stops_at_the_first_length_that_fails() {
        let at = |length, depth| question(length, depth, &[0]);
        let all = [at(8, 0.25), at(8, 0.75), at(16, 0.25), at(16, 0.75), at(32, 0.25)];
        let found = report(&all, &[true, true, true, false, true], 3);
        let counts: Vec<_> = found
            .lengths
            .iter()
            .map(|c| (c.length, c.correct, c.samples))
            .collect();
        assert_eq!(counts, [(8, 2, 2), (16, 1, 2), (32, 1, 1)]);
        assert_eq!(found.recall_length, Some(8));
        assert_eq!(found.cells.len(), 5);
        assert_eq!((found.cells[3].depth, found.cells[3].accuracy), (Some(0.75), 0.0));
        assert!(found.cells[3].wilson[1] > 0.5 && found.cells[3].wilson[0] == 0.0);
        assert_eq!((found.computed_tokens, found.prompt_tokens), (3, 5));
    }

    #[test]
    fn the_first_of_equal_logits_is_taken_and_nan_answers_nothing() {
        let rows = [
            [0.5, 2.0, 2.0],
            [f32::NAN, 1.0, 0.0],
            [f32::NEG_INFINITY, -1.0, -2.0],
        ];
        let logits = Tensor::<2>::from_data(rows, &burn::tensor::Device::flex());
        assert_eq!(likeliest(logits), [Some(1), None, Some(1)]);
    }
}
