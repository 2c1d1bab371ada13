//! What decides the answers of a recall run.

use super::RecallArgs;
use super::questions::Questions;
use super::subjects::Subject;
use crate::answers;
use crate::encoder::Short;
use crate::settings::Part;
use crate::trial::Trial;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::recall::evaluate::Evaluation;
use spillway_models::evaluation::recall::prompt::PromptForm;

/// Name of the file that a run goes on from.
pub const FILE: &str = "recall-progress.json";

/// Content of that file: the answers of every model and mitigation, in order.
pub type Saved = answers::Saved<Settings, Evaluation>;

/// Everything that decides the answers of a recall run, which goes on only under the same settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the program.
    pub program: String,
    /// Name and fingerprint of each model.
    pub models: Vec<String>,
    /// Type of the weights in memory.
    pub dtype: String,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// Number of documents that are asked about, all tasks together.
    pub documents: usize,
    /// Seed of the documents.
    pub seed: u64,
    /// Fingerprint of the documents.
    pub fingerprint: u64,
    /// L, 0 for whole documents.
    pub length: u64,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// The kinds of prompts.
    pub forms: Vec<PromptForm>,
    /// How a model with an encoder reads a short prompt; `None` for as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_prompt: Option<Short>,
    /// Identities of the mitigations of each model, in order.
    pub mitigations: Vec<String>,
}

impl Settings {
    /// The settings of this command line.
    pub fn new(args: &RecallArgs, questions: &Questions, forms: &[PromptForm], subjects: &[Subject]) -> Self {
        let model = |subject: &Subject| format!("{} ({})", subject.name, subject.fingerprint);
        let mitigations = |subject: &Subject| {
            let trials: Vec<String> = subject.trials.iter().map(Trial::identity).collect();
            trials.join(" ")
        };
        // One text where all models are kept alike.
        let mut kept: Vec<&str> = subjects
            .iter()
            .map(|subject| subject.info.kept_as.as_str())
            .collect();
        kept.dedup();
        Self {
            program: env!("CARGO_PKG_VERSION").into(),
            models: subjects.iter().map(model).collect(),
            dtype: kept.join("; "),
            tasks: args.tasks.iter().map(ToString::to_string).collect(),
            documents: questions.documents.len(),
            seed: args.seed,
            fingerprint: questions.fingerprint(),
            length: args.length,
            answer_tokens: args.max_tokens,
            forms: forms.to_vec(),
            short_prompt: args.short_prompt.filter(|short| *short != Short::AsIs),
            mitigations: subjects.iter().map(mitigations).collect(),
        }
    }
}

impl answers::Settings for Settings {
    fn parts(&self) -> Vec<Part> {
        let forms: Vec<String> = self.forms.iter().map(ToString::to_string).collect();
        vec![
            ("program version", self.program.clone()),
            ("CHECKPOINT", self.models.join(", ")),
            ("--dtype", self.dtype.clone()),
            ("--task", self.tasks.join(",")),
            ("--seed", self.seed.to_string()),
            ("number of documents", self.documents.to_string()),
            ("content of the documents", self.fingerprint.to_string()),
            ("--length", self.length.to_string()),
            ("--max-tokens", self.answer_tokens.to_string()),
            ("--order, --passes or --no-padding", forms.join(",")),
            (
                "--short-prompt",
                self.short_prompt.unwrap_or(Short::AsIs).to_string(),
            ),
            ("--mitigation", self.mitigations.join(", ")),
        ]
    }
}
