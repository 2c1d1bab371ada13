//! Prompts of different lengths in one batch, and tokens decoded side by side.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::Tensor;
use spillway_ssm_core::Chain;

use super::run::SEGMENT;
use super::{Logits, Model};
use crate::error::ModelError;
use crate::state::ModelState;
use crate::state::batch::expect_one_length;

/// Sequences that came to their end together.
struct Finished {
    rows: Vec<usize>,
    logits: Tensor<3>,
    state: ModelState,
}

impl Model {
    /// Takes in one prompt per sequence, of any lengths: the logits after the last token of each, `[batch, vocab_size]`, and the
    /// state of all of them, from which [`Model::decode_batch`] goes on.
    ///
    /// Every sequence goes through the layers in the same pieces of 256 tokens as it would alone, so its rounding does not
    /// depend on its neighbours' lengths. Whole pieces go together, and the last pieces of sequences that end alike.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for no prompts or an empty one, [`ModelError::Id`], [`ModelError::Incompatible`];
    /// [`ModelError::Batch`] for different lengths under an intervention that acts at positions.
    pub fn prefill_batch(
        &self,
        prompts: &[&[u32]],
        chain: &Chain,
    ) -> Result<(Tensor<2>, ModelState), ModelError> {
        if prompts.is_empty() || prompts.iter().any(|prompt| prompt.is_empty()) {
            return Err(ModelError::EmptyPrompt);
        }
        prompts.iter().try_for_each(|prompt| self.check_ids(prompt))?;
        expect_one_length(chain, prompts.iter().map(|prompt| prompt.len() as u64))?;
        let mut live: Vec<usize> = (0..prompts.len()).collect();
        let mut state = self.start(chain, live.len())?;
        let mut finished = Vec::new();
        let mut begin = 0;
        while !live.is_empty() {
            let end = begin + SEGMENT;
            for (last, rows) in ending(prompts, &live, end) {
                let mut own = rows_of(&state, &live, &rows)?;
                let ids = pieces(prompts, &rows, begin..last);
                let logits = self.logits_batched(&ids, &mut own, Logits::Last)?;
                finished.push(Finished {
                    rows,
                    logits,
                    state: own,
                });
            }
            let going: Vec<usize> = live
                .iter()
                .copied()
                .filter(|row| prompts[*row].len() > end)
                .collect();
            if !going.is_empty() {
                state = rows_of(&state, &live, &going)?;
                self.advance(&pieces(prompts, &going, begin..end), &mut state)?;
            }
            (live, begin) = (going, end);
        }
        self.in_order(finished)
    }

    /// Takes in one token per sequence of the state: the logits after each, `[batch, vocab_size]`.
    ///
    /// # Errors
    /// As [`Model::logits_batched`]; [`ModelError::Count`] unless there is an id per sequence.
    pub fn decode_batch(&self, ids: &[u32], state: &mut ModelState) -> Result<Tensor<2>, ModelError> {
        if ids.len() != state.batch() {
            return Err(ModelError::Count {
                what: "ids",
                expected: format!("{}, one per sequence", state.batch()),
                found: ids.len(),
            });
        }
        Ok(self.rows(self.logits_batched(ids, state, Logits::Last)?))
    }

    /// `[batch, 1, padded_vocab_size]` without the padding.
    fn rows(&self, logits: Tensor<3>) -> Tensor<2> {
        logits.squeeze_dim::<2>(1).narrow(1, 0, self.info().vocab_size)
    }

    /// Joins what finished at different times into one batch, in the order of the prompts: logits `[batch, vocab_size]` and state.
    fn in_order(&self, mut finished: Vec<Finished>) -> Result<(Tensor<2>, ModelState), ModelError> {
        if finished.len() == 1 {
            // All at once, and so in order.
            let Finished { logits, state, .. } = finished.swap_remove(0);
            return Ok((self.rows(logits), state));
        }
        let order: Vec<usize> = finished.iter().flat_map(|part| part.rows.clone()).collect();
        let mut places = vec![0; order.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(place, row)| places[*row] = place);
        let states: Vec<&ModelState> = finished.iter().map(|part| &part.state).collect();
        let state = ModelState::cat(&states)?.select(&places)?;
        let logits = finished.iter().flat_map(|part| {
            let rows = 0..part.rows.len();
            rows.map(|row| part.logits.clone().narrow(0, row, 1))
        });
        let logits: Vec<Tensor<3>> = logits.collect();
        let logits = places.iter().map(|place| logits[*place].clone()).collect();
        Ok((self.rows(Tensor::cat(logits, 0)), state))
    }
}

/// Live sequences that end at or before `end`, by where they end.
fn ending(prompts: &[&[u32]], live: &[usize], end: usize) -> BTreeMap<usize, Vec<usize>> {
    let mut ending: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for row in live.iter().copied().filter(|row| prompts[*row].len() <= end) {
        ending.entry(prompts[row].len()).or_default().push(row);
    }
    ending
}

/// The states of `rows`, where `state` is that of the sequences `live`.
fn rows_of(state: &ModelState, live: &[usize], rows: &[usize]) -> Result<ModelState, ModelError> {
    if rows == live {
        return Ok(state.clone());
    }
    let places = live.iter().enumerate().filter(|(_, row)| rows.contains(row));
    state.select(&places.map(|(place, _)| place).collect::<Vec<_>>())
}

fn pieces(prompts: &[&[u32]], rows: &[usize], range: Range<usize>) -> Vec<u32> {
    let pieces = rows.iter().map(|row| &prompts[*row][range.clone()]);
    pieces.collect::<Vec<_>>().concat()
}
