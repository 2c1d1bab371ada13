//! Conversations on disk: `FILE` has the state, as [`ModelState::save`](crate::ModelState::save) writes it, and `FILE.json` what was said
//! and the ids that the state has read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spillway_ssm_core::Chain;

use super::{ChatError, Conversation, MARKS_BYTES, Message};
use crate::input;
use crate::model::Model;
use crate::output::NewFile;
use crate::state::{Mark, Marks};

/// The longest conversation that is read.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    messages: Vec<Message>,
    ids: Vec<u32>,
}

/// Writes a state with the ids that it has read, and what was said.
///
/// # Errors
/// [`ChatError`] for files that cannot be written.
pub fn save(path: &Path, mark: &Mark, messages: &[Message]) -> Result<(), ChatError> {
    let words = words_of(path);
    let failed = |reason: String| ChatError::Saved {
        path: words.clone(),
        reason,
    };
    let saved = Saved {
        messages: messages.to_vec(),
        ids: mark.ids.to_vec(),
    };
    mark.state.save(path)?;
    let mut file = NewFile::create(&words).map_err(|error| failed(error.to_string()))?;
    serde_json::to_writer_pretty(file.writer(), &saved).map_err(|error| failed(error.to_string()))?;
    file.commit().map_err(|error| failed(error.to_string()))
}

/// Reads what [`save`] wrote, for the same model and interventions.
///
/// # Errors
/// [`ChatError`] for files that are missing, damaged, or another model's.
pub fn load(path: &Path, model: &Model, chain: &Chain) -> Result<(Mark, Vec<Message>), ChatError> {
    let words = words_of(path);
    let failed = |reason: String| ChatError::Saved {
        path: words.clone(),
        reason,
    };
    let text = input::read_text(&words, MAX_BYTES).map_err(|error| failed(error.to_string()))?;
    let saved: Saved =
        serde_json::from_str(&text).map_err(|error| failed(format!("not a saved conversation: {error}")))?;
    let state = model.restore(path, chain)?;
    if state.position() != saved.ids.len() as u64 || state.batch() != 1 {
        return Err(failed(format!(
            "expected the {} ids that one state has read, found {} of {} states",
            state.position(),
            saved.ids.len(),
            state.batch()
        )));
    }
    let ids = saved.ids.into();
    Ok((Mark { ids, state }, saved.messages))
}

impl Conversation<'_> {
    /// Writes the conversation and its state.
    ///
    /// # Errors
    /// [`ChatError::Empty`] before anything was said; as [`save`].
    pub fn save(&self, path: &Path) -> Result<(), ChatError> {
        save(path, self.marks.last().ok_or(ChatError::Empty)?, &self.messages)
    }

    /// Goes on with a conversation that [`Conversation::save`] wrote, by the same model and interventions.
    ///
    /// # Errors
    /// As [`load`]; the conversation is as it was then.
    pub fn load(&mut self, path: &Path) -> Result<(), ChatError> {
        let (mark, messages) = load(path, self.model, &self.chain)?;
        self.messages = messages;
        self.marks = Marks::new(MARKS_BYTES);
        self.marks.keep(mark);
        Ok(())
    }
}

/// Path of `FILE.json`, the messages and ids of the conversation whose state is saved at `path`, `FILE`.
fn words_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    name.into()
}
