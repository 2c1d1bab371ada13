//! What an interrupted run leaves behind to go on from: every answer so far.

use crate::error::ProgramError;
use crate::output::OutputFolder;
use crate::settings::expect_same;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::passkey_text::evaluate::Evaluation;
use spillway_models::evaluation::passkey_text::prompt::Case;
use spillway_models::input;
use std::path::Path;

/// Name of the file that an evaluation goes on from.
pub const FILE: &str = "passkey-progress.json";
/// Version of that file's form.
const VERSION: u32 = 1;

/// Everything that decides the answers. A run goes on only under the same settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the program.
    pub program: String,
    /// Name, architecture and number of parameters of the model.
    pub model: String,
    /// Type of the weights in memory.
    pub dtype: String,
    /// Training length, for mitigations that are calibrated.
    pub train_length: Option<u64>,
    /// Lengths asked for.
    pub lengths: Vec<u64>,
    /// Rows of the grid.
    pub depths: usize,
    /// Prompts per cell.
    pub samples: usize,
    /// Seed of the passkeys.
    pub seed: u64,
    /// Whether every length is asked whatever comes of the first.
    pub all_lengths: bool,
    /// Identities of the mitigations, in order.
    pub mitigations: Vec<String>,
}

/// The answers of one mitigation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedRun {
    /// Time taken so far.
    pub seconds: f64,
    /// The answers of one mitigation.
    pub evaluation: Evaluation,
}

/// Content of the file that an evaluation goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    settings: Settings,
    /// One per mitigation that has begun.
    pub runs: Vec<SavedRun>,
}

impl Saved {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            version: VERSION,
            settings,
            runs: Vec::new(),
        }
    }

    /// Takes over what an interrupted run has left in `folder`.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for other settings, [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be
    /// used.
    pub fn load(&mut self, folder: &OutputFolder, cases: &[Case]) -> Result<(), ProgramError> {
        let path = folder.file(FILE);
        let text = input::read_text(&path, input::MAX_SETTINGS).map_err(ProgramError::file("read", &path))?;
        let saved = Self::parse(&path, &text)?;
        saved.settings.expect(&self.settings)?;
        let mut outcomes = saved.runs.iter().flat_map(|run| &run.evaluation.outcomes);
        if saved.runs.len() > self.settings.mitigations.len()
            || outcomes.any(|outcome| outcome.case >= cases.len())
        {
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

    /// Writes the file.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn save(&self, folder: &mut OutputFolder) -> Result<(), ProgramError> {
        folder.write_json(FILE, self)?;
        folder.keep();
        Ok(())
    }
}

impl Settings {
    /// Nothing if `self`, the settings of the saved run, are `asked`; else the first difference.
    fn expect(&self, asked: &Self) -> Result<(), ProgramError> {
        let parts = |settings: &Self| {
            [
                ("program version", settings.program.clone()),
                ("CHECKPOINT", settings.model.clone()),
                ("--dtype", settings.dtype.clone()),
                ("--train-length", format!("{:?}", settings.train_length)),
                ("--lengths", format!("{:?}", settings.lengths)),
                ("--depths", settings.depths.to_string()),
                ("--samples", settings.samples.to_string()),
                ("--seed", settings.seed.to_string()),
                ("--all-lengths", settings.all_lengths.to_string()),
                ("--mitigation", settings.mitigations.join(" ")),
            ]
        };
        expect_same(parts(self), parts(asked))
    }
}
