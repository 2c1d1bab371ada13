//! Conversations on disk: `FILE` has the state, as [`ModelState::save`](crate::ModelState::save) writes it, and `FILE.json` what was said
//! and the ids that the state has read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ChatError, Conversation, Mark, Message};
use crate::input;
use crate::output::NewFile;

/// The longest conversation that is read.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    messages: Vec<Message>,
    ids: Vec<u32>,
}

impl Conversation<'_> {
    /// Writes the conversation and its state.
    ///
    /// # Errors
    /// [`ChatError::Empty`] before anything was said; [`ChatError`] for files that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ChatError> {
        let mark = self.marks.last().ok_or(ChatError::Empty)?;
        let words = words_of(path);
        let saved = Saved {
            messages: self.messages.clone(),
            ids: mark.ids.clone(),
        };
        let failed = |reason: String| ChatError::Saved {
            path: words.clone(),
            reason,
        };
        mark.state.save(path)?;
        let mut file = NewFile::create(&words).map_err(|error| failed(error.to_string()))?;
        serde_json::to_writer_pretty(file.writer(), &saved).map_err(|error| failed(error.to_string()))?;
        file.commit().map_err(|error| failed(error.to_string()))
    }

    /// Goes on with a conversation that [`Conversation::save`] wrote, by the same model and mitigation.
    ///
    /// # Errors
    /// [`ChatError`]; the conversation is as it was then.
    pub fn load(&mut self, path: &Path) -> Result<(), ChatError> {
        let words = words_of(path);
        let failed = |reason: String| ChatError::Saved {
            path: words.clone(),
            reason,
        };
        let text = input::read_text(&words, MAX_BYTES).map_err(|error| failed(error.to_string()))?;
        let saved: Saved = serde_json::from_str(&text)
            .map_err(|error| failed(format!("not a saved conversation: {error}")))?;
        let state = self.model.restore(path, &self.chain)?;
        if state.position() != saved.ids.len() as u64 {
            return Err(failed(format!(
                "expected the {} ids that the state has read, found {}",
                state.position(),
                saved.ids.len()
            )));
        }
        self.messages = saved.messages;
        self.marks = vec![Mark {
            ids: saved.ids,
            state,
        }];
        Ok(())
    }
}

/// `FILE.json`.
fn words_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    name.into()
}
