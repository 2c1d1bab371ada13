//! Where drafts come from: the text itself, or a smaller model.

use std::fmt::Debug;

use crate::error::ModelError;
use crate::generation::Sampler;
use crate::model::{Logits, Model};
use crate::state::ModelState;

/// Tokens of a text that are looked through for an earlier occurrence of its end.
const LOOKED_THROUGH: usize = 1 << 16;
/// Ids of which the texts are compared, to tell whether two tokenizers are one.
const COMPARED: usize = 1 << 13;

/// What guesses how a text goes on.
pub trait Drafter: Debug {
    /// At most `most` tokens that may follow `read`, none where it has no idea. `read` grows from call to call by what was chosen.
    ///
    /// `sampler` is the one that will choose the next token, as it will be then: a clone of it makes the choices that it would make.
    ///
    /// # Errors
    /// Whatever keeps it from guessing.
    fn draft(&mut self, read: &[u32], most: usize, sampler: &Sampler) -> Result<Vec<u32>, ModelError>;
}

/// Drafts from the text itself: what followed when its last few tokens occurred before.
///
/// The longest end of `longest` to `shortest` tokens that occurred before is taken, where it occurred last. Such drafts cost nothing, and are good
/// where a text repeats itself: code, summaries, answers from documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Most tokens of the end that are looked for.
    pub longest: usize,
    /// Fewest; at least 1.
    pub shortest: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            longest: 4,
            shortest: 2,
        }
    }
}

impl Drafter for Lookup {
    fn draft(&mut self, read: &[u32], most: usize, _: &Sampler) -> Result<Vec<u32>, ModelError> {
        let read = &read[read.len().saturating_sub(LOOKED_THROUGH)..];
        let lengths = (self.shortest.max(1)..=self.longest.min(read.len())).rev();
        let mut found = lengths.filter_map(|length| follows_again(read, length));
        let Some(begin) = found.next() else {
            return Ok(Vec::new());
        };
        let mut draft = Vec::new();
        for index in 0..most {
            // Beyond the end it repeats what it has drafted, as a text does that goes round in a circle.
            let at = begin + index;
            let id = read.get(at).or_else(|| draft.get(at - read.len())).copied();
            draft.extend(id);
        }
        Ok(draft)
    }
}

/// Where in `ids` the last earlier occurrence of its last `length` tokens ends.
fn follows_again(ids: &[u32], length: usize) -> Option<usize> {
    let (before, end) = ids.split_at_checked(ids.len().checked_sub(length)?)?;
    let earlier = &ids[..(before.len() + length).saturating_sub(1)];
    let place = earlier.windows(length).rposition(|window| window == end)?;
    Some(place + length)
}

/// Drafts of a smaller model, which reads the same ids. It starts anew where a text does not go on from what it has read, and so may be
/// used for one text after another.
#[derive(Clone, Debug)]
pub struct DraftModel<'m> {
    model: &'m Model,
    /// After the tokens in `read`.
    state: ModelState,
    read: Vec<u32>,
}

impl<'m> DraftModel<'m> {
    /// Drafts of `model` for `target`.
    ///
    /// # Errors
    /// [`ModelError::Draft`] where the vocabularies differ in size, or in the text of any of some thousands of ids, evenly spread;
    /// otherwise as [`Model::start`].
    pub fn new(model: &'m Model, target: &Model) -> Result<Self, ModelError> {
        expect_one_vocabulary(model, target)?;
        Ok(Self {
            model,
            state: model.start(&Default::default(), 1)?,
            read: Vec::new(),
        })
    }
}

impl Drafter for DraftModel<'_> {
    fn draft(&mut self, read: &[u32], most: usize, sampler: &Sampler) -> Result<Vec<u32>, ModelError> {
        let new = match read.strip_prefix(self.read.as_slice()) {
            Some([]) | None => {
                self.state = self.model.start(&Default::default(), 1)?;
                self.read.clear();
                read
            }
            Some(new) => new,
        };
        let mut draft = Vec::new();
        if most == 0 || new.is_empty() {
            return Ok(draft);
        }
        let mut logits = self.model.logits(new, &mut self.state, Logits::Last)?;
        self.read.extend_from_slice(new);
        // What is drafted is read by a fork: nothing has to be taken back.
        let (mut state, mut sampler) = (self.state.clone(), sampler.clone());
        loop {
            let id = sampler.choose(&mut logits.into_data().iter::<f32>().collect::<Vec<_>>())?;
            draft.push(id);
            if draft.len() >= most {
                return Ok(draft);
            }
            logits = self.model.logits(&[id], &mut state, Logits::Last)?;
        }
    }
}

fn expect_one_vocabulary(draft: &Model, target: &Model) -> Result<(), ModelError> {
    let (expected, found) = (target.info().vocab_size, draft.info().vocab_size);
    let differs = |expected: String, found: String| ModelError::Draft { expected, found };
    if expected != found {
        return Err(differs(
            format!("a vocabulary of {expected}"),
            format!("one of {found}"),
        ));
    }
    let (ours, theirs) = (target.tokenizer(), draft.tokenizer());
    if [ours.name(), theirs.name()].contains(&"none") {
        // Nothing to compare: ids are given, and whoever gives them knows.
        return Ok(());
    }
    let ids = (0..expected as u32).step_by(expected.div_ceil(COMPARED).max(1));
    for id in ids {
        let (expected, found) = (ours.decode(&[id]), theirs.decode(&[id]));
        if expected != found {
            return Err(differs(
                format!("{expected:?} as the text of id {id}"),
                format!("{found:?}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Sampling;

    fn lookup(read: &[u32], most: usize) -> Vec<u32> {
        let sampler = Sampler::new(&Sampling::greedy(), 100).unwrap();
        Lookup::default().draft(read, most, &sampler).unwrap()
    }

    #[test]
    fn what_followed_the_longest_end_that_occurred_before_is_drafted() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 9, 2, 3], 2), [4, 5]);
        // Three tokens before two, though the two occurred later.
        assert_eq!(lookup(&[1, 2, 3, 7, 8, 2, 3, 9, 9, 1, 2, 3], 1), [7]);
        // Of equal ends the last.
        assert_eq!(lookup(&[2, 3, 7, 0, 2, 3, 8, 0, 2, 3], 1), [8]);
    }

    #[test]
    fn a_text_that_goes_round_in_a_circle_is_drafted_so() {
        assert_eq!(lookup(&[5, 1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(lookup(&[7, 7, 7], 4), [7; 4]);
    }

    #[test]
    fn what_never_occurred_has_no_draft() {
        for read in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4], &[3, 1, 2, 3]] {
            assert_eq!(lookup(read, 4), [] as [u32; 0], "{read:?}");
        }
    }
}
