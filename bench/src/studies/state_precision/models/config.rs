//! Which models a study of precision asks, what they read, and under which mitigations.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The text form of no mitigation.
pub const NONE: &str = "none";

/// A model that reads with its states in every type.
///
/// ```
/// use spillway::studies::state_precision::models::config::SubjectConfig;
///
/// let subject: SubjectConfig = toml::from_str(r#"
///     name = "the shipped model"
///     tokens = 4096
///     runs = [{}, { mitigation = "window:64", truth = "window-exact:64,chunk=1" }]
/// "#)?;
/// assert_eq!((subject.runs[0].mitigation.as_str(), subject.runs[0].truth()), ("none", "none"));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectConfig {
    /// Name of the model.
    pub name: String,
    /// The checkpoint, from the folder of the configuration; none is the model that comes with Spillway, unless `random` draws one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// A model whose weights are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<RandomModel>,
    /// Text that it reads, again from its beginning after its end; none is the text that comes with Spillway. Random models read random ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<PathBuf>,
    /// Tokens that it reads; none is as many as the laws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What acts in it besides, each time with every type.
    #[serde(default = "plain_run")]
    pub runs: Vec<ModelRun>,
}

/// Weights drawn as `spillway init` draws them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomModel {
    /// Architecture of the model, as `spillway init --arch` takes it.
    pub arch: String,
    /// Published size of the model, as `spillway init --shape` takes it.
    pub shape: String,
    /// Seed of the weights.
    #[serde(default)]
    pub seed: u64,
}

/// A mitigation that acts beside every type, and what its predictions are held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRun {
    /// As `--mitigation` takes it; `none` by default.
    #[serde(default = "none")]
    pub mitigation: String,
    /// The mitigation under which states in f32 are the truth; by default the same. `window-exact:R,chunk=1` is what `window:R`
    /// would be if subtracting lost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
}

fn none() -> String {
    NONE.into()
}

fn plain_run() -> Vec<ModelRun> {
    vec![ModelRun {
        mitigation: none(),
        truth: None,
    }]
}

impl ModelRun {
    /// The mitigation under which states in f32 are the truth.
    pub fn truth(&self) -> &str {
        self.truth.as_deref().unwrap_or(&self.mitigation)
    }

    /// What a run is called beside others of its model.
    pub fn name(&self) -> String {
        match &self.truth {
            None => self.mitigation.clone(),
            Some(truth) => format!("{} beside {truth}", self.mitigation),
        }
    }
}

/// The text form of a mitigation with states stored in a type.
pub fn with_type(mitigation: &str, dtype: &str) -> String {
    match mitigation {
        NONE => format!("state-dtype:{dtype}"),
        mitigation => format!("{mitigation}+state-dtype:{dtype}"),
    }
}

impl SubjectConfig {
    /// What is expected and what was found, where a model cannot be asked so.
    pub(crate) fn check(&self, fewest_tokens: u64) -> Result<(), (&'static str, String)> {
        if self.random.is_some() && (self.checkpoint.is_some() || self.text.is_some()) {
            return Err((
                "either random, or checkpoint and text",
                format!("both for {}", self.name),
            ));
        }
        if self.tokens.is_some_and(|tokens| tokens < fewest_tokens) {
            return Err(("tokens of at least 16", format!("fewer for {}", self.name)));
        }
        match self.runs.is_empty() {
            true => Err((
                "runs, {} for one without a mitigation",
                format!("none for {}", self.name),
            )),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_added_to_a_mitigation() {
        assert_eq!(with_type(NONE, "bf16"), "state-dtype:bf16");
        assert_eq!(
            with_type("window:8", "int8,scale=row"),
            "window:8+state-dtype:int8,scale=row"
        );
    }

    #[test]
    fn a_model_is_drawn_or_read() {
        let text = "name = \"m\"\ncheckpoint = \"c\"\nrandom = { arch = \"gla\", shape = \"tiny\" }\n";
        let subject: SubjectConfig = toml::from_str(text).expect("fields");
        assert!(subject.check(16).is_err());
    }
}
