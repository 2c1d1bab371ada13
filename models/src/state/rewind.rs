//! A state that can be taken back by any number of tokens up to L, without a state kept for each.
//!
//! What is kept is a state now and then, and the tokens since, in the calls in which they came:
//!
//! ```text
//! snapshot        calls since                              now
//!    h_p     [x_{p+1} … x_q]  [x_{q+1} … x_r]  [ … ]       h_t
//! ```
//!
//! Going back to the position s is the last snapshot at or before s and its calls, the last of them cut at s. A cursor is moved, and no
//! state is copied or computed before the next call, which takes in again what lies between: at most L tokens, or a piece of a prompt.
//!
//! It is for every model, since a snapshot is a [`ModelState`] and taking tokens in is [`Model::logits`]: recurrences, keys and values
//! and interventions alike. It is not the replay of a kernel, which keeps the gates, keys and values of the last tokens beside a state that
//! is written every L tokens only: here a state is still written with every call, and what is saved are the copies of it.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use burn::tensor::Tensor;

use super::ModelState;
use crate::error::ModelError;
use crate::model::{Logits, Model, SEGMENT};

/// How tokens are taken in again after a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// In the calls in which they came first: the state is that of the same calls without the tokens that were taken back, to the bit.
    Exact,
    /// Together with the tokens of the next call: the weights are read once for both, and the same is computed up to the rounding
    /// of longer matrix products.
    Joined,
}

/// A state with the tokens that led to it.
#[derive(Clone, Debug)]
struct Snapshot {
    state: ModelState,
    /// What came after it, call by call.
    calls: Vec<Vec<u32>>,
}

impl Snapshot {
    fn of(state: &ModelState) -> Self {
        Self {
            state: state.clone(),
            calls: Vec::new(),
        }
    }

    fn position(&self) -> u64 {
        self.state.position()
    }

    /// Number of tokens taken in since the snapshot.
    fn since(&self) -> usize {
        self.calls.iter().map(Vec::len).sum()
    }

    /// Forgets what came after `position`, which is not before it.
    fn cut_at(&mut self, position: u64) {
        let mut left = usize::try_from(position - self.position()).unwrap_or(usize::MAX);
        for call in &mut self.calls {
            call.truncate(left);
            left -= call.len();
        }
        self.calls.retain(|call| !call.is_empty());
    }
}

/// The state of one sequence that can be taken back.
///
/// ```
/// use std::num::NonZeroUsize;
/// use spillway_models::{LoadOptions, Logits, Model, Replay, Rewind};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let reach = NonZeroUsize::new(8).unwrap();
/// let mut text = Rewind::new(&model, model.start(&Chain::default(), 1)?, reach, Replay::Exact)?;
/// text.advance(b"In the ".map(u32::from).as_slice())?;
/// // Four draft tokens, the last two wrong.
/// text.logits(b"bend".map(u32::from).as_slice(), Logits::All)?;
/// text.rollback(2)?;
/// assert_eq!(text.position(), 9);
/// # Ok::<(), spillway_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rewind<'m> {
    model: &'m Model,
    reach: usize,
    replay: Replay,
    /// Snapshots before the last one, oldest first.
    older: VecDeque<Snapshot>,
    last: Snapshot,
    /// The state after the calls of the last snapshot, where nothing was taken back since.
    now: Option<ModelState>,
}

impl<'m> Rewind<'m> {
    /// Goes on from `state`, and from there on can be taken back to each of the last `reach` positions before the furthest that it came to.
    ///
    /// # Errors
    /// [`ModelError::State`] for several sequences, and for a prefix that is still to be read: it is read as a whole, or not at all.
    pub fn new(
        model: &'m Model,
        state: ModelState,
        reach: NonZeroUsize,
        replay: Replay,
    ) -> Result<Self, ModelError> {
        model.network().check_layers(&state)?;
        let differs = |what, expected: &str, found| ModelError::State {
            what,
            expected: expected.into(),
            found,
        };
        if state.batch() != 1 {
            let found = state.batch().to_string();
            return Err(differs("sequences to be taken back", "one", found));
        }
        if let Some(prefix) = state.prefix() {
            let found = format!("{} tokens", prefix.tokens());
            let expected = "none left: read the prompt first";
            return Err(differs("prefix of a state to be taken back", expected, found));
        }
        Ok(Self {
            model,
            reach: reach.get(),
            replay,
            older: VecDeque::new(),
            last: Snapshot::of(&state),
            now: Some(state),
        })
    }

    /// Takes tokens in; the logits after the last or after all of them, `[1 or time, vocab_size]`. After an error it stands before the
    /// call, or after the whole pieces of 256 tokens of it that went through.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn logits(&mut self, ids: &[u32], which: Logits) -> Result<Tensor<2>, ModelError> {
        if ids.is_empty() {
            let mut state = self.state()?.clone();
            return self.model.logits(ids, &mut state, which);
        }
        self.model.check_ids(ids)?;
        let pieces = ids.chunks(SEGMENT);
        let last = pieces.len() - 1;
        let mut logits = Vec::new();
        for (index, piece) in pieces.enumerate() {
            let which = Some(which).filter(|which| *which == Logits::All || index == last);
            logits.extend(self.take_in(piece, which)?);
        }
        Ok(match logits.len() {
            1 => logits.swap_remove(0),
            _ => Tensor::cat(logits, 0),
        })
    }

    /// Takes tokens in without computing any logits.
    ///
    /// # Errors
    /// As [`Rewind::logits`].
    pub fn advance(&mut self, ids: &[u32]) -> Result<(), ModelError> {
        self.model.check_ids(ids)?;
        ids.chunks(SEGMENT)
            .try_for_each(|piece| self.take_in(piece, None).map(drop))
    }

    /// Takes the last tokens back. Nothing is computed, and no state copied, before the next call.
    ///
    /// # Errors
    /// [`ModelError::Rollback`] where no snapshot is old enough: beyond `reach`, or before the beginning. Nothing is changed then.
    pub fn rollback(&mut self, tokens: u64) -> Result<(), ModelError> {
        let position = self.position();
        let oldest = self.older.front().unwrap_or(&self.last).position();
        let Some(target) = position.checked_sub(tokens).filter(|target| *target >= oldest) else {
            return Err(ModelError::Rollback {
                tokens,
                position,
                kept: format!("{oldest} to {position}"),
            });
        };
        if tokens == 0 {
            return Ok(());
        }
        while self.last.position() > target
            && let Some(older) = self.older.pop_back()
        {
            self.last = older;
        }
        self.last.cut_at(target);
        self.now = self.last.calls.is_empty().then(|| self.last.state.clone());
        Ok(())
    }

    /// Tokens taken in, and not back.
    pub fn position(&self) -> u64 {
        self.last.position() + self.last.since() as u64
    }

    /// Tokens that the next call takes in again, before its own.
    pub fn behind(&self) -> usize {
        match self.now {
            Some(_) => 0,
            None => self.last.since(),
        }
    }

    /// The state. After a rollback, the calls since the last snapshot are taken in again first.
    ///
    /// # Errors
    /// As [`Model::advance`].
    pub fn state(&mut self) -> Result<&ModelState, ModelError> {
        let state = self.settled()?;
        Ok(self.now.insert(state))
    }

    /// The state alone.
    ///
    /// # Errors
    /// As [`Rewind::state`].
    pub fn into_state(mut self) -> Result<ModelState, ModelError> {
        self.settled()
    }

    /// Snapshots that are kept.
    pub fn snapshots(&self) -> usize {
        self.older.len() + 1
    }

    /// Memory taken by all states, in bytes, if no two of them shared anything.
    pub fn bytes(&self) -> usize {
        let older = self.older.iter().map(|snapshot| &snapshot.state);
        let states = older.chain([&self.last.state]).chain(&self.now);
        states.map(ModelState::bytes).sum()
    }

    /// Takes in at most a segment.
    fn take_in(&mut self, ids: &[u32], which: Option<Logits>) -> Result<Option<Tensor<2>>, ModelError> {
        let behind = self.behind();
        if self.replay == Replay::Joined && (1..=self.reach).contains(&behind) {
            return self.take_in_again_with(ids, which);
        }
        let mut state = self.settled()?;
        let since = self.last.since();
        if since > 0 && since + ids.len() > self.reach {
            let snapshot = Snapshot::of(&state);
            self.older.push_back(std::mem::replace(&mut self.last, snapshot));
        }
        let logits = run(self.model, ids, &mut state, which)?;
        self.now = Some(state);
        self.last.calls.push(ids.to_vec());
        self.forget();
        Ok(logits)
    }

    /// As [`Rewind::take_in`], after what has to be taken in again and in one call with it.
    fn take_in_again_with(
        &mut self,
        ids: &[u32],
        which: Option<Logits>,
    ) -> Result<Option<Tensor<2>>, ModelError> {
        let again = self.last.since();
        let call = [self.last.calls.concat().as_slice(), ids].concat();
        let mut state = self.last.state.clone();
        let logits = run(self.model, &call, &mut state, which)?;
        self.now = Some(state);
        self.last.calls = vec![call];
        self.forget();
        Ok(logits.map(|logits| match which {
            Some(Logits::All) => logits.narrow(0, again, ids.len()),
            _ => logits,
        }))
    }

    /// The state after all calls, taken out, or computed where it is not at hand.
    fn settled(&mut self) -> Result<ModelState, ModelError> {
        if let Some(state) = self.now.take() {
            return Ok(state);
        }
        let mut state = self.last.state.clone();
        for call in &self.last.calls {
            self.model.advance(call, &mut state)?;
        }
        Ok(state)
    }

    /// Drops snapshots that no rollback within reach needs.
    fn forget(&mut self) {
        let enough = self.position().saturating_sub(self.reach as u64);
        while let Some(next) = self
            .older
            .get(1)
            .or((self.older.len() == 1).then_some(&self.last))
            && next.position() <= enough
        {
            self.older.pop_front();
        }
    }
}

fn run(
    model: &Model,
    ids: &[u32],
    state: &mut ModelState,
    which: Option<Logits>,
) -> Result<Option<Tensor<2>>, ModelError> {
    match which {
        Some(which) => model.logits(ids, state, which).map(Some),
        None => model.advance(ids, state).map(|()| None),
    }
}
