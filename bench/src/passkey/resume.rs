//! What decides the answers of a passkey run.

use crate::answers;
use crate::settings::Part;
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
    fn parts(&self) -> Vec<Part> {
        vec![
            ("program version", self.program.clone()),
            ("CHECKPOINT", self.model.clone()),
            ("--dtype", self.dtype.clone()),
            ("--train-length", format!("{:?}", self.train_length)),
            ("--lengths", format!("{:?}", self.lengths)),
            ("--depths", self.depths.to_string()),
            ("--samples", self.samples.to_string()),
            ("--seed", self.seed.to_string()),
            ("--all-lengths", self.all_lengths.to_string()),
            ("--mitigation", self.mitigations.join(" ")),
        ]
    }
}
