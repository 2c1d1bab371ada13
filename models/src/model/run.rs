//! Running a model: logits, losses, or just moving on, from any state and over any number of tokens.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use spillway_ssm_core::operators::cross_entropy;
use spillway_ssm_core::{Chain, Prefix};

use super::Model;
use crate::awake::awake;
use crate::budget::{self, product};
use crate::error::ModelError;
use crate::network::expect_ids;
use crate::state::ModelState;

/// Tokens that go through the layers at a time: enough for matrix products at full speed, little enough that the memory of a
/// prefill does not depend on its length.
pub(crate) const SEGMENT: usize = 256;
/// Tokens in a call, over all sequences, up to which it waits for memory rather than computes.
const DECODED_AT_ONCE: usize = 16;
/// Memory that a block of logits may take while losses are computed.
const LOGIT_BYTES: usize = 4 << 20;

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Logits after the last token only.
    Last,
    /// Logits after every token.
    All,
}

impl Model {
    /// Takes in `ids` and returns the logits after the last or after all of them, `[1 or time, vocab_size]`; `state` moves on.
    ///
    /// Any number of ids: a prefill, one decoded token, or anything between, from any state. Memory does not grow with their
    /// number, but for the logits asked for. After an error the state is not to be used.
    ///
    /// # Errors
    /// [`ModelError::Id`] beyond the vocabulary, [`ModelError::EmptyPrompt`] for the last of no tokens,
    /// [`ModelError::State`] for a state of another model or batch size, [`ModelError::Layer`] from an intervention.
    pub fn logits(
        &self,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<2>, ModelError> {
        self.expect_batch(state, 1)?;
        let logits = self.logits_batched(ids, state, which)?;
        Ok(logits.squeeze_dim::<2>(0).narrow(1, 0, self.info.vocab_size))
    }

    /// As [`Model::logits`] for all sequences of the state, over the padded vocabulary: `[batch, 1 or time, padded_vocab_size]`.
    /// `ids` holds the sequences one after another.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`ModelError::Count`] when the ids do not divide into sequences of one length.
    pub fn logits_batched(
        &self,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<3>, ModelError> {
        let time = self.check(ids, state)?;
        if time == 0 && which == Logits::Last {
            return Err(ModelError::EmptyPrompt);
        }
        // The products of a prompt are long enough for threads to be woken for each.
        match ids.len() {
            1..=DECODED_AT_ONCE => awake(|| self.checked_logits(ids, time, state, which)),
            _ => self.checked_logits(ids, time, state, which),
        }
    }

    fn checked_logits(
        &self,
        ids: &[u32],
        time: usize,
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<3>, ModelError> {
        if which == Logits::All {
            let values = [ids.len() as u64, self.info.padded_vocab_size as u64, 4];
            let advice =
                "ask for those after the last token, or for losses, or take in fewer tokens at a time";
            budget::ask("the logits after every token", product(values), advice)?;
        }
        let mut logits = Vec::new();
        for segment in segments(time, state) {
            let last = segment.end == time;
            let normed = self.advance_segment(ids, segment, state)?;
            match which {
                Logits::All => logits.push(self.network.logits(normed)?),
                Logits::Last if last => {
                    let end = normed.dims()[1] - 1;
                    logits.push(self.network.logits(normed.narrow(1, end, 1))?);
                }
                Logits::Last => {}
            }
        }
        match (logits.pop(), logits.is_empty()) {
            (None, _) => Ok(Tensor::zeros(
                [state.batch(), 0, self.info.padded_vocab_size],
                &self.device,
            )),
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                logits.push(last);
                Ok(Tensor::cat(logits, 1))
            }
        }
    }

    /// Logits of the tokens of `batch` whole sequences where they stand, hidden ones included, by a model whose layers see later tokens:
    /// `[batch, time, padded_vocab_size]`. `ids` holds the sequences one after another.
    ///
    /// # Errors
    /// [`ModelError::SeesNoLater`] for a model that foretells the next token; [`ModelError::Count`] when the ids do not divide into
    /// sequences of one length, or are more than the model has places for; [`ModelError::Id`] beyond the vocabulary.
    pub fn logits_in_place(&self, ids: &[u32], batch: usize) -> Result<Tensor<3>, ModelError> {
        if !self.network.sees_later_tokens() {
            return Err(ModelError::SeesNoLater);
        }
        let mut state = self.start(&Chain::default(), batch)?;
        self.check(ids, &state)?;
        let values = [ids.len() as u64, self.info.padded_vocab_size as u64, 4];
        budget::ask(
            "the logits of every token",
            product(values),
            "take in fewer sequences at a time",
        )?;
        let normed = self.network.advance(ids, &mut state)?;
        self.network.answers(normed)
    }

    /// Takes in `ids` without computing any logits.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn advance(&self, ids: &[u32], state: &mut ModelState) -> Result<(), ModelError> {
        let time = self.check(ids, state)?;
        segments(time, state).try_for_each(|segment| self.advance_segment(ids, segment, state).map(drop))
    }

    /// −log p(`targets[i]` | everything up to `ids[i]`) in nats, over the vocabulary without its padding; `state` moves on.
    ///
    /// Logits are made a few rows at a time, so that memory does not grow with the number of tokens.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`ModelError::Count`] unless there is a target per id, [`ModelError::Id`] for a target beyond the
    /// vocabulary.
    pub fn losses(
        &self,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Vec<f32>, ModelError> {
        self.expect_batch(state, 1)?;
        self.losses_batched(ids, targets, state)
    }

    /// As [`Model::losses`] for all sequences of the state; ids, targets and losses hold the sequences one after another.
    ///
    /// # Errors
    /// As [`Model::losses`].
    pub fn losses_batched(
        &self,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Vec<f32>, ModelError> {
        let time = self.check_losses(ids, targets, state)?;
        let mut losses = vec![0.0; ids.len()];
        for segment in segments(time, state) {
            let normed = self.advance_segment(ids, segment.clone(), state)?;
            for row in 0..state.batch() {
                let range = row * time + segment.start..row * time + segment.end;
                let normed = normed.clone().narrow(0, row, 1);
                self.losses_of(normed, &targets[range.clone()], &mut losses[range])?;
            }
        }
        Ok(losses)
    }

    /// Checks all that losses need before the state is touched; the number of tokens per sequence.
    pub(crate) fn check_losses(
        &self,
        ids: &[u32],
        targets: &[u32],
        state: &ModelState,
    ) -> Result<usize, ModelError> {
        let time = self.check(ids, state)?;
        if targets.len() != ids.len() {
            return Err(ModelError::Count {
                what: "targets",
                expected: format!("{}, one per id", ids.len()),
                found: targets.len(),
            });
        }
        self.check_ids(targets)?;
        if let Some(prefix) = state.prefix() {
            return Err(ModelError::State {
                what: "losses of a text that follows a prefix",
                expected: "no losses inside of a prefix, whose tokens have been seen: read it by `advance`, and ask for the losses of what follows".into(),
                found: format!("a prefix of {} tokens", prefix.tokens()),
            });
        }
        Ok(time)
    }

    /// −log p of one sequence's targets from what its layers give, `[1, time, model_dim]`.
    pub(crate) fn losses_of(
        &self,
        normed: Tensor<3>,
        targets: &[u32],
        losses: &mut [f32],
    ) -> Result<(), ModelError> {
        let rows = (LOGIT_BYTES / (4 * self.info.padded_vocab_size)).clamp(1, SEGMENT);
        let blocks = targets.chunks(rows).zip(losses.chunks_mut(rows));
        for (block, (targets, losses)) in blocks.enumerate() {
            let normed = normed.clone().narrow(1, block * rows, targets.len());
            let logits = self
                .network
                .logits(normed)?
                .reshape([targets.len(), self.info.padded_vocab_size]);
            let found = cross_entropy(logits, Arc::from(targets), self.info.vocab_size)?.into_data();
            losses
                .iter_mut()
                .zip(found.iter::<f32>())
                .for_each(|(loss, found)| *loss = found);
        }
        Ok(())
    }

    /// Takes one segment of every sequence through all layers: what the last norm gives, `[batch, segment, model_dim]`.
    fn advance_segment(
        &self,
        ids: &[u32],
        segment: Range<usize>,
        state: &mut ModelState,
    ) -> Result<Tensor<3>, ModelError> {
        self.network.expect_causal()?;
        match state.batch() {
            1 => self.network.advance(&ids[segment], state),
            batch => {
                let time = ids.len() / batch;
                let rows = (0..batch).flat_map(|b| &ids[b * time + segment.start..b * time + segment.end]);
                self.network.advance(&rows.copied().collect::<Vec<_>>(), state)
            }
        }
    }

    /// Checks ids and state before the state is touched; the number of tokens per sequence.
    pub(crate) fn check(&self, ids: &[u32], state: &ModelState) -> Result<usize, ModelError> {
        let time = self.network.check(ids, state, self.info.vocab_size)?;
        if state.batch() == 0 {
            return Err(ModelError::Count {
                what: "ids",
                expected: "0 sequences of one length".into(),
                found: ids.len(),
            });
        }
        Ok(time)
    }

    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        expect_ids(ids.iter().enumerate(), self.info.vocab_size)
    }

    fn expect_batch(&self, state: &ModelState, batch: usize) -> Result<(), ModelError> {
        if state.batch() == batch {
            return Ok(());
        }
        let (expected, found) = (batch.to_string(), state.batch().to_string());
        Err(ModelError::State {
            what: "sequences in a call for one",
            expected,
            found,
        })
    }
}

/// The segments in which a call takes in `time` tokens of every sequence from `state` on: 256 tokens each, and a prefix in one. Calls of a
/// segment each give the same bits as one call of all; between them a computation can be left and gone on with.
pub fn segments(time: usize, state: &ModelState) -> impl Iterator<Item = Range<usize>> + use<> {
    let prefix = state.prefix().map_or(0, Prefix::tokens);
    let first = SEGMENT.max(prefix).min(time);
    let others = (first..time).step_by(SEGMENT);
    let others = others.map(move |start| start..(start + SEGMENT).min(time));
    (first > 0).then_some(0..first).into_iter().chain(others)
}
