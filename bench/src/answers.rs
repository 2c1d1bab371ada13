//! What an interrupted run of questions leaves behind to go on from: every answer so far, under the settings that decide them.

use crate::error::ProgramError;
use crate::output::OutputFolder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spillway_models::input;
use std::path::Path;
use std::time::Duration;

/// From one save to the next.
pub const SAVED_EVERY: Duration = Duration::from_secs(5);
/// Version of the file's form.
const VERSION: u32 = 1;

/// Everything that decides the answers. A run goes on only under the same.
pub trait Settings: Serialize + DeserializeOwned {
    /// Nothing if `self`, what was saved, is what is `asked` for; else the first difference.
    ///
    /// # Errors
    /// [`ProgramError::Usage`].
    fn expect(&self, asked: &Self) -> Result<(), ProgramError>;
}

/// The answers under one mitigation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedRun<E> {
    /// Time taken so far.
    pub seconds: f64,
    /// The answers of one mitigation.
    pub evaluation: E,
}

/// Content of the file that an evaluation goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved<S, E> {
    version: u32,
    /// What decides the answers.
    pub settings: S,
    /// One per mitigation that has begun.
    pub runs: Vec<SavedRun<E>>,
}

impl<S: Settings, E: Serialize + DeserializeOwned> Saved<S, E> {
    /// Nothing yet.
    pub fn new(settings: S) -> Self {
        Self {
            version: VERSION,
            settings,
            runs: Vec::new(),
        }
    }

    /// Takes over what an interrupted run has left in the file `name` of `folder`; `are_ours` says whether the answers can be of
    /// these settings.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for other settings, [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be
    /// used.
    pub fn load(
        &mut self,
        folder: &OutputFolder,
        name: &str,
        are_ours: impl FnOnce(&[SavedRun<E>]) -> bool,
    ) -> Result<(), ProgramError> {
        let path = folder.file(name);
        let text = input::read_text(&path, input::MAX_TEXT).map_err(ProgramError::file("read", &path))?;
        let saved = Self::parse(&path, &text)?;
        saved.settings.expect(&self.settings)?;
        if !are_ours(&saved.runs) {
            let expected = "the answers to the prompts of these settings";
            return Err(ProgramError::content(&path, expected, "others"));
        }
        self.runs = saved.runs;
        Ok(())
    }

    /// The answers in the text of a file.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a text of another kind or version.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ProgramError> {
        let content = |expected: &str, found: String| ProgramError::content(path, expected, found);
        let saved: Self = serde_json::from_str(text)
            .map_err(|error| content("the answers of an interrupted run", error.to_string()))?;
        match saved.version {
            VERSION => Ok(saved),
            other => Err(content(&format!("version {VERSION}"), other.to_string())),
        }
    }

    /// Writes the file `name` of `folder`.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn save(&self, folder: &mut OutputFolder, name: &str) -> Result<(), ProgramError> {
        folder.write_json(name, self)?;
        folder.keep();
        Ok(())
    }
}
