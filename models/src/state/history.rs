//! The last few states of a sequence, to go back to: speculative decoding takes draft tokens in and may have to unsay them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use super::ModelState;
use crate::error::ModelError;

/// A ring of the last states.
///
/// ```
/// use std::num::NonZeroUsize;
/// use spillway_models::{History, LoadOptions, Model};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let mut state = model.start(&Chain::default(), 1)?;
/// let mut history = History::new(NonZeroUsize::new(4).unwrap());
/// model.advance(b"In the ".map(u32::from).as_slice(), &mut state)?;
/// history.push(&state);
/// // Four draft tokens, all wrong.
/// model.advance(b"ende".map(u32::from).as_slice(), &mut state)?;
/// history.rollback(&mut state, 4)?;
/// assert_eq!(state.position(), 7);
/// # Ok::<(), spillway_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct History {
    states: VecDeque<ModelState>,
    capacity: NonZeroUsize,
}

impl History {
    /// A history of at most `capacity` states.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            states: VecDeque::new(),
            capacity,
        }
    }

    /// Remembers a state; the oldest one is forgotten when there are too many. States at the same position or later are of a
    /// future that did not come, and are forgotten too.
    pub fn push(&mut self, state: &ModelState) {
        while self.states.back().is_some_and(|last| !is_before(last, state)) {
            self.states.pop_back();
        }
        if self.states.len() == self.capacity.get() {
            self.states.pop_front();
        }
        self.states.push_back(state.clone());
    }

    /// Puts `state` back to what it was `tokens` tokens ago, and forgets everything after that.
    ///
    /// # Errors
    /// [`ModelError::Rollback`] when the state of that position is not remembered; `state` is unchanged then.
    pub fn rollback(&mut self, state: &mut ModelState, tokens: u64) -> Result<(), ModelError> {
        let was_then = |kept: &ModelState| {
            let mut pairs = kept.positions.iter().zip(&state.positions);
            kept.batch() == state.batch() && pairs.all(|(kept, now)| now.checked_sub(tokens) == Some(*kept))
        };
        let Some(index) = self.states.iter().rposition(was_then) else {
            let kept: Vec<String> = self.states.iter().map(|s| s.position().to_string()).collect();
            return Err(ModelError::Rollback {
                tokens,
                position: state.position(),
                kept: if kept.is_empty() {
                    "none".into()
                } else {
                    kept.join(", ")
                },
            });
        };
        self.states.truncate(index + 1);
        *state = self.states[index].clone();
        Ok(())
    }

    /// Number of states that are remembered.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether nothing has been remembered.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Memory taken, in bytes, if no two states shared anything: what stays the same between them is there only once.
    pub fn bytes(&self) -> usize {
        self.states.iter().map(ModelState::bytes).sum()
    }
}

/// Whether every sequence of `a` has seen less than in `b`.
fn is_before(a: &ModelState, b: &ModelState) -> bool {
    a.batch() == b.batch() && a.positions.iter().zip(&b.positions).all(|(a, b)| a < b)
}
