//! Continuing a text, token by token.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::error::ModelError;
use crate::model::{Logits, Model};
use crate::prompt::{PromptReading, ShortPrompt};
pub use crate::sampling::{Sampler, Sampling};
use crate::state::ModelState;
use crate::tokenizer::StreamDecoder;

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// As many tokens as were asked for.
    Length,
    /// The text came to this stop string.
    Stop(String),
    /// The model ended its text.
    End,
    /// The receiver of the text had enough.
    Cancelled,
}

/// What a model has generated after a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, those of a stop string included.
    pub ids: Vec<u32>,
    /// The new text, without the stop string.
    pub text: String,
    /// Why the generation ended.
    pub finish: Finish,
}

/// Takes in `prompt` from `state` and continues it by up to `max_tokens` tokens. A model with an encoder reads it causally; see
/// [`generate_after`].
///
/// `on_text` receives the new text in pieces of whole characters as soon as they cannot become part of a stop string, and may
/// end the generation. The state is left after the last token but one: the last one has been chosen, not taken in.
///
/// # Errors
/// [`ModelError::EmptyPrompt`], [`ModelError::Id`], [`ModelError::Option`] before anything is computed; otherwise as
/// [`Model::logits`].
pub fn generate(
    model: &Model,
    state: &mut ModelState,
    prompt: &[u32],
    sampling: &Sampling,
    max_tokens: usize,
    stop: &[String],
    on_text: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, ModelError> {
    sampling.validate()?;
    let logits = model.logits(prompt, state, Logits::Last)?;
    let prompt = TakenIn {
        prompt,
        last: prompt,
        logits,
    };
    continue_from(model, state, prompt, sampling, max_tokens, stop, on_text)
}

/// As [`generate`] from the state before the first token, where a model with an encoder reads the prompt as `reading` says.
///
/// # Errors
/// As [`generate`] and [`Model::read_prompt`].
#[expect(
    clippy::too_many_arguments,
    reason = "those of `generate`, and how the prompt is read"
)]
pub fn generate_after(
    model: &Model,
    state: &mut ModelState,
    prompt: &[u32],
    reading: &PromptReading,
    sampling: &Sampling,
    max_tokens: usize,
    stop: &[String],
    on_text: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, ModelError> {
    sampling.validate()?;
    let start = state.clone();
    let logits = model.read_prompt(prompt, reading, state)?;
    let taken_in = TakenIn {
        prompt,
        last: prompt,
        logits,
    };
    let mut tokens = prompt.to_vec();
    let encoder = reading.encoder_length(model);
    let next = |id: u32, _: &Sampler| {
        tokens.push(id);
        if reading.short != ShortPrompt::Iterate || tokens.len() > encoder {
            return model.logits(&[id], state, Logits::Last);
        }
        *state = start.clone();
        model.read_prompt(&tokens, reading, state)
    };
    continue_by(model, taken_in, sampling, max_tokens, stop, on_text, next)
}

/// A prompt that has been taken in.
#[derive(Clone, Debug)]
pub struct TakenIn<'a> {
    /// Tokens of the prompt, in any order and each at least once: the repetition penalty wants to know them.
    pub prompt: &'a [u32],
    /// The last of them, in their order; a few are enough. The text of the first new token may depend on them.
    pub last: &'a [u32],
    /// Logits after the last of them, `[1, vocab_size]`.
    pub logits: Tensor<2>,
}

/// As [`generate`], where `state` is that after the prompt, as [`crate::PrefixCache::prefill`] gives it.
///
/// # Errors
/// [`ModelError::Option`] before anything is computed; otherwise as [`Model::logits`].
pub fn continue_from(
    model: &Model,
    state: &mut ModelState,
    prompt: TakenIn<'_>,
    sampling: &Sampling,
    max_tokens: usize,
    stop: &[String],
    on_text: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, ModelError> {
    let next = |id: u32, _: &Sampler| model.logits(&[id], state, Logits::Last);
    continue_by(model, prompt, sampling, max_tokens, stop, on_text, next)
}

/// As [`continue_from`], where `next` takes in a token that has been chosen and gives the logits after it; the sampler that it sees is
/// the one that will choose from them.
pub(crate) fn continue_by(
    model: &Model,
    TakenIn {
        prompt,
        last,
        mut logits,
    }: TakenIn<'_>,
    sampling: &Sampling,
    max_tokens: usize,
    stop: &[String],
    mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    mut next: impl FnMut(u32, &Sampler) -> Result<Tensor<2>, ModelError>,
) -> Result<Generated, ModelError> {
    let mut continuation = Continuation::new(model, (prompt, last), sampling, max_tokens, stop)?;
    loop {
        let mut values: Vec<f32> = logits.into_data().iter::<f32>().collect();
        match continuation.choose(&mut values, &mut on_text)? {
            Some(id) => logits = next(id, &continuation.sampler)?,
            None => return Ok(continuation.end(&mut on_text)),
        }
    }
}

/// As [`continue_from`] for several prompts side by side, of any lengths, each with the state after it: what each comes to, in their order.
/// One whose logits are no numbers any more is an error of its own, and the others go on. The states are used up.
///
/// The weights are read once for a token of all of them. A sequence in a batch differs from the same one alone by rounding.
///
/// # Errors
/// [`ModelError::Option`] before anything is computed; [`ModelError::Batch`] for states that cannot stand side by side, as under an intervention
/// that acts at positions; otherwise as [`Model::decode_batch`].
pub fn continue_all(
    model: &Model,
    prompts: Vec<(TakenIn<'_>, ModelState)>,
    sampling: &Sampling,
    max_tokens: usize,
    stop: &[String],
) -> Result<Vec<Result<Generated, ModelError>>, ModelError> {
    let keep = &mut |_: &str| ControlFlow::Continue(());
    let mut found: Vec<Option<Result<Generated, ModelError>>> = prompts.iter().map(|_| None).collect();
    let (mut rows, mut ids, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (prompt, state)) in prompts.into_iter().enumerate() {
        let mut continuation =
            Continuation::new(model, (prompt.prompt, prompt.last), sampling, max_tokens, stop)?;
        let mut logits: Vec<f32> = prompt.logits.into_data().iter::<f32>().collect();
        match continuation.choose(&mut logits, keep) {
            Ok(Some(id)) => {
                rows.push((index, continuation));
                ids.push(id);
                states.push(state);
            }
            Ok(None) => found[index] = Some(Ok(continuation.end(keep))),
            Err(error) => found[index] = Some(Err(error)),
        }
    }
    let mut state = match rows.is_empty() {
        true => None,
        false => Some(ModelState::cat(&states.iter().collect::<Vec<_>>())?),
    };
    drop(states);
    while let Some(mut batch) = state.take() {
        let logits = model.decode_batch(&ids, &mut batch)?;
        let mut logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let width = (logits.len() / ids.len().max(1)).max(1);
        let (mut staying, mut going) = (Vec::new(), Vec::new());
        ids.clear();
        for (place, ((index, mut continuation), logits)) in
            rows.into_iter().zip(logits.chunks_exact_mut(width)).enumerate()
        {
            match continuation.choose(logits, keep) {
                Ok(Some(id)) => {
                    staying.push(place);
                    going.push((index, continuation));
                    ids.push(id);
                }
                Ok(None) => found[index] = Some(Ok(continuation.end(keep))),
                Err(error) => found[index] = Some(Err(error)),
            }
        }
        rows = going;
        state = match staying.len() {
            0 => None,
            count if count == batch.batch() => Some(batch),
            _ => Some(batch.select(&staying)?),
        };
    }
    // Every row has left the batch with something found.
    Ok(found.into_iter().flatten().collect())
}

/// A text that goes on, token by token.
struct Continuation<'m> {
    sampler: Sampler,
    decoder: StreamDecoder<'m>,
    text: StoppableText,
    ends: &'m [u32],
    max_tokens: usize,
    ids: Vec<u32>,
    finish: Finish,
    /// Whether nothing that is held back is to be given out any more.
    is_cut: bool,
}

impl<'m> Continuation<'m> {
    /// After a prompt, of which the tokens in any order and the last in their own are given.
    fn new(
        model: &'m Model,
        (prompt, last): (&[u32], &[u32]),
        sampling: &Sampling,
        max_tokens: usize,
        stop: &[String],
    ) -> Result<Self, ModelError> {
        let mut sampler = Sampler::new(sampling, model.info().vocab_size)?;
        prompt.iter().for_each(|id| sampler.observe(*id));
        Ok(Self {
            sampler,
            decoder: model.tokenizer().stream_after(last),
            text: StoppableText::new(stop),
            ends: &model.info().eos_ids,
            max_tokens,
            ids: Vec::new(),
            finish: Finish::Length,
            is_cut: false,
        })
    }

    /// Chooses the next token, which is to be taken in; none where the text ends.
    fn choose(
        &mut self,
        logits: &mut [f32],
        on_text: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<u32>, ModelError> {
        if self.ids.len() >= self.max_tokens {
            return Ok(None);
        }
        let id = self.sampler.choose(logits)?;
        if self.ends.contains(&id) {
            self.finish = Finish::End;
            return Ok(None);
        }
        self.ids.push(id);
        let piece = self.decoder.push(id);
        if self.text.push(&piece, on_text).is_break() {
            self.finish = self.text.stopped_at().map_or(Finish::Cancelled, Finish::Stop);
            self.is_cut = true;
            return Ok(None);
        }
        Ok((self.ids.len() < self.max_tokens).then_some(id))
    }

    /// Gives out what was held back, and what came of all.
    fn end(mut self, on_text: &mut impl FnMut(&str) -> ControlFlow<()>) -> Generated {
        if !self.is_cut {
            let rest = self.decoder.finish();
            if self.text.push(&rest, on_text).is_break() || self.text.finish(on_text).is_break() {
                self.finish = self.text.stopped_at().map_or(self.finish, Finish::Stop);
            }
        }
        Generated {
            ids: self.ids,
            text: self.text.given,
            finish: self.finish,
        }
    }
}

/// Text on its way out, held back as long as it may turn out to be the beginning of a stop string.
#[derive(Debug)]
pub(crate) struct StoppableText {
    stop: Vec<String>,
    held: String,
    given: String,
    stopped_at: Option<String>,
}

impl StoppableText {
    pub(crate) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self {
            stop,
            held: String::new(),
            given: String::new(),
            stopped_at: None,
        }
    }

    /// The stop string that the text came to.
    pub(crate) fn stopped_at(&mut self) -> Option<String> {
        self.stopped_at.take()
    }

    /// Adds a piece; gives out what is certain. Breaks at a stop string or when the receiver does.
    pub(crate) fn push(
        &mut self,
        piece: &str,
        on_text: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.held.push_str(piece);
        let found = self
            .stop
            .iter()
            .filter_map(|s| Some((self.held.find(s)?, s)))
            .min();
        if let Some((at, stop)) = found {
            self.stopped_at = Some(stop.clone());
            // The receiver cannot end it any earlier now.
            let _ = self.give(at, on_text);
            self.held.clear();
            return ControlFlow::Break(());
        }
        let certain = (0..=self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| self.stop.iter().any(|s| s.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len());
        self.give(certain, on_text)
    }

    /// Gives out the rest: no stop string was completed.
    pub(crate) fn finish(&mut self, on_text: &mut impl FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
        self.give(self.held.len(), on_text)
    }

    fn give(&mut self, length: usize, on_text: &mut impl FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
        if length == 0 {
            return ControlFlow::Continue(());
        }
        let piece: String = self.held.drain(..length).collect();
        self.given.push_str(&piece);
        on_text(&piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stop: Vec<String> = stop.iter().map(|s| s.to_string()).collect();
        let mut text = StoppableText::new(&stop);
        let mut given = Vec::new();
        let mut take = |piece: &str| {
            given.push(piece.to_string());
            ControlFlow::Continue(())
        };
        if pieces
            .iter()
            .try_for_each(|piece| text.push(piece, &mut take))
            .is_continue()
        {
            let _ = text.finish(&mut take);
        }
        (given, text.stopped_at())
    }

    #[test]
    fn text_is_held_back_while_it_may_become_a_stop_string() {
        let (given, stopped) = run(&["END"], &["a E", "N", "x E", "ND", "never"]);
        assert_eq!(given, ["a ", "ENx "]);
        assert_eq!(stopped.as_deref(), Some("END"));
    }

    #[test]
    fn the_earliest_stop_string_wins_and_what_is_held_back_comes_at_the_end() {
        let (given, stopped) = run(&["cd", "b"], &["abcd"]);
        assert_eq!((given.concat().as_str(), stopped.as_deref()), ("a", Some("b")));
        let (given, stopped) = run(&["xyz", ""], &["é", "ax", "y"]);
        assert_eq!((given.concat().as_str(), stopped), ("éaxy", None));
    }
}
