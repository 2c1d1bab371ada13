//! What decides the answers of a passkey run.

use crate::answers;
use crate::error::ProgramError;
use crate::settings::expect_same;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::passkey_text::evaluate::Evaluation;

/// Name of the file that an evaluation goes on from.
pub const FILE: &str = "passkey-progress.json";

/// Content of that file.
pub type Saved = answers::Saved<Settings, Evaluation>;

/// Everything that decides the answers of a passkey run, which goes on only under the same settings.
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
    /// Context lengths that are asked for, in tokens.
    pub lengths: Vec<u64>,
    /// Rows of the grid.
    pub depths: usize,
    /// Number of prompts for each cell of the grid.
    pub samples: usize,
    /// Seed of the passkeys.
    pub seed: u64,
    /// Whether every length is asked whatever comes of the first.
    pub all_lengths: bool,
    /// Identities of the mitigations, in order.
    pub mitigations: Vec<String>,
}

impl answers::Settings for Settings {
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
