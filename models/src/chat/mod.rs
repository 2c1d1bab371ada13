//! Conversations: messages rendered by a [`ChatTemplate`], and states so that a turn reads only what is new.
//!
//! After every prompt and every answer the state is kept, a [`Mark`], with the ids that it has read. The next turn renders and encodes the
//! whole conversation anew and goes on from the longest mark whose ids it begins with. So any template works, also one that rewrites what
//! was said before: it only reads more. States of recurrent layers do not grow, and a mark costs as much as the state.

mod saved;
mod template;

use std::ops::ControlFlow;

use spillway_ssm_core::Chain;
use thiserror::Error;

use crate::error::ModelError;
use crate::generation::{Finish, Generated, Sampling, TakenIn, continue_from};
use crate::model::{Logits, Model};
use crate::state::{Mark, Marks, ModelState};
use crate::tokenizer::TokenizerError;
pub use saved::{load, save};
pub use template::{ChatTemplate, Message, NAMES, TemplateError};

/// Bytes of states that a conversation keeps.
const MARKS_BYTES: usize = 1 << 30;
/// Ids handed to the model at a time.
const AT_ONCE: usize = 1 << 14;

/// Why a conversation does not go on.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The template refuses the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model cannot go on.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A saved conversation cannot be written or read.
    #[error("{}: {reason}", path.display())]
    Saved {
        /// Path of `FILE.json`, which holds what was said and the ids that the state has read.
        path: std::path::PathBuf,
        /// Why the file cannot be written or read, in words.
        reason: String,
    },
    /// There is nothing to save or undo yet.
    #[error("nothing has been said yet")]
    Empty,
}

impl From<TokenizerError> for ChatError {
    fn from(error: TokenizerError) -> Self {
        Self::Model(error.into())
    }
}

/// A conversation with a model. A clone is a fork: both go on from here, each by itself.
#[derive(Clone, Debug)]
pub struct Conversation<'m> {
    model: &'m Model,
    template: ChatTemplate,
    chain: Chain,
    messages: Vec<Message>,
    marks: Marks,
}

/// A model's answer in a conversation.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Ids and text of the answer, and why it ended.
    pub generated: Generated,
    /// Tokens of the conversation before the answer.
    pub prompt_tokens: usize,
    /// How many of `prompt_tokens` had to be read for this answer.
    pub read_tokens: usize,
}

impl<'m> Conversation<'m> {
    /// A conversation in which nothing has been said.
    pub fn new(model: &'m Model, template: ChatTemplate, chain: Chain) -> Self {
        Self {
            model,
            template,
            chain,
            messages: Vec::new(),
            marks: Marks::new(MARKS_BYTES),
        }
    }

    /// What has been said.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Sets the system's message, the first one.
    pub fn set_system(&mut self, text: &str) {
        self.messages.retain(|message| message.role != "system");
        self.messages.insert(0, Message::new("system", text));
    }

    /// Says something and takes the answer, of which `on_text` receives the pieces and may have enough.
    ///
    /// # Errors
    /// [`ChatError`]; nothing has been said then.
    pub fn say(
        &mut self,
        text: &str,
        sampling: &Sampling,
        max_tokens: usize,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply, ChatError> {
        self.messages.push(Message::new("user", text));
        let reply = self.answer(sampling, max_tokens, on_text);
        if reply.is_err() {
            self.messages.pop();
        }
        reply
    }

    /// Takes back what was said last, and its answer.
    ///
    /// # Errors
    /// [`ChatError::Empty`].
    pub fn undo(&mut self) -> Result<(), ChatError> {
        let last = self.messages.iter().rposition(|message| message.role == "user");
        self.messages.truncate(last.ok_or(ChatError::Empty)?);
        Ok(())
    }

    /// Forgets everything but the system's message.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }

    fn answer(
        &mut self,
        sampling: &Sampling,
        max_tokens: usize,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply, ChatError> {
        sampling.validate()?;
        let text = self.template.render(&self.messages, true)?;
        let ids = self.model.tokenizer().encode(&text)?;
        let mut state = match self.marks.longest(&ids) {
            Some(mark) => mark.state.clone(),
            None => self.model.start(&self.chain, 1)?,
        };
        // A state that has read them all has no logits: it goes on from an earlier one.
        let read_before = usize::try_from(state.position()).unwrap_or(0).min(ids.len());
        let logits = self.read(&ids[read_before..], &mut state)?;
        self.keep(&ids, state.clone());
        let taken_in = TakenIn {
            prompt: &ids,
            last: &ids,
            logits,
        };
        let stop = self.template.stop().to_vec();
        let generated = continue_from(
            self.model, &mut state, taken_in, sampling, max_tokens, &stop, on_text,
        )?;
        let mut known = ids.clone();
        known.extend(&generated.ids);
        if generated.finish != Finish::End {
            // The last one has been chosen, not read.
            known.pop();
        }
        self.keep(&known, state);
        self.messages
            .push(Message::new("assistant", generated.text.trim()));
        Ok(Reply {
            prompt_tokens: ids.len(),
            read_tokens: ids.len() - read_before,
            generated,
        })
    }

    /// Reads ids; logits after the last of them. Of a conversation's first ones an encoder reads as many as it was trained to.
    fn read(&self, mut ids: &[u32], state: &mut ModelState) -> Result<burn::tensor::Tensor<2>, ModelError> {
        let mut at_once = AT_ONCE;
        if state.position() == 0 {
            self.model.begin_prompt(ids.len(), state);
            at_once = at_once.max(self.model.encoder_length());
        }
        while ids.len() > at_once {
            let (piece, later) = ids.split_at(at_once);
            self.model.advance(piece, state)?;
            (ids, at_once) = (later, AT_ONCE);
        }
        self.model.logits(ids, state, Logits::Last)
    }

    fn keep(&mut self, ids: &[u32], state: ModelState) {
        self.marks.keep(Mark {
            ids: ids.into(),
            state,
        });
    }
}
