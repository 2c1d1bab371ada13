//! A task of a sweep: what is trained, and how it is evaluated.

use super::expansion::Expansion;
use super::initial::Initialisation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spillway_models::train::data::{DataConfig, PairsInFiller};

/// A task: what is trained, and how it is evaluated.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name of the task, of small letters, digits and hyphens.
    pub name: String,
    /// Data that the models are trained on.
    pub data: DataConfig,
    /// Data that the models are evaluated on. Default: the held-out part of `data`; sequences of another seed where those are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_data: Option<DataConfig>,
    /// Ids of the model.
    #[serde(default = "bytes")]
    pub vocab_size: usize,
    /// How decays and step sizes begin.
    #[serde(default)]
    pub initialisation: Initialisation,
    /// Training lengths, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<Vec<u64>>,
    /// Seeds, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// State values of a channel, where they are not the sweep's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_state: Option<Vec<usize>>,
    /// A smaller state that the models begin with, and when it is widened; absent where they have one size from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion: Option<Expansion>,
    /// Name of the task that this one is an arm beside: their models of one size, training length and seed are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Fields of the training that differ.
    #[serde(default)]
    pub training: toml::Table,
    /// How loss against position is measured; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<ForgettingConfig>,
    /// Passkeys, where the model was trained on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<RecallConfig>,
    /// Pairs of keys and values, where the model was trained on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsConfig>,
}

fn bytes() -> usize {
    256
}

/// How losses are measured.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingConfig {
    /// Streams of held-out data.
    pub streams: usize,
    /// Tokens of each, but at least four training lengths.
    pub tokens: u64,
}

/// How passkeys are asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecallConfig {
    /// Lengths of the contexts in tokens.
    pub lengths: Vec<u64>,
    /// Depths of the passkey, spread evenly.
    pub depths: usize,
    /// Passkeys at each depth of each length.
    pub samples: usize,
}

/// How pairs of keys and values are asked for: every number of pairs at every length that has room for it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// Numbers of pairs.
    pub counts: Vec<usize>,
    /// Lengths of the sequences in tokens, questions included. The training length is always one of them.
    pub lengths: Vec<u64>,
    /// Fewest questions for each number of pairs and length: all the keys of as many sequences as it takes.
    pub questions: usize,
    /// Share of right answers from which on so many pairs are held.
    #[serde(default = "nine_tenths")]
    pub accuracy: f64,
}

impl PairsConfig {
    /// What is wrong with it where there are so many different values, as what is expected and what is found instead.
    fn fault(&self, values: usize) -> Option<(String, String)> {
        if self.counts.is_empty() || self.counts.contains(&0) || self.questions == 0 {
            let expected = "tasks.pairs with counts and questions, each at least 1";
            return Some((expected.into(), format!("{self:?}")));
        }
        // Three standard errors above chance: a model that has learned nothing holds no pairs then.
        let chance = 1.0 / values.max(1) as f64;
        let lucky = chance + 3.0 * (chance * (1.0 - chance) / self.questions as f64).sqrt();
        (!(self.accuracy > lucky && self.accuracy < 1.0)).then(|| {
            let expected = format!(
                "tasks.pairs.accuracy below 1 and above {lucky:.2}, which guesses among {values} values may reach by luck in {} questions",
                self.questions
            );
            (expected, self.accuracy.to_string())
        })
    }
}

fn nine_tenths() -> f64 {
    0.9
}

impl Task {
    /// Texts in their order that the losses are measured on; none where sequences are drawn instead.
    pub fn held_out(&self) -> Option<DataConfig> {
        self.evaluation_data.clone().or_else(|| self.data.held_out())
    }

    /// The pairs that the models are trained on, if those are the data.
    pub fn pairs_in_filler(&self) -> Option<&PairsInFiller> {
        match &self.data {
            DataConfig::PairsInFiller(task) => Some(task),
            _ => None,
        }
    }

    /// What is wrong with the task, as what is expected and what is found instead.
    pub fn fault(&self) -> Option<(String, String)> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fault = |expected: &str, found: String| Some((expected.to_string(), found));
        if self.name.is_empty() || !self.name.chars().all(plain) {
            let expected = "tasks.name of small letters, digits and hyphens";
            return fault(expected, format!("{:?}", self.name));
        }
        if self.forgetting.is_none() && self.recall.is_none() && self.pairs.is_none() {
            let expected = "tasks.forgetting, tasks.recall or tasks.pairs";
            return fault(expected, format!("none of them in task {}", self.name));
        }
        let other_data = || format!("other data in task {}", self.name);
        if let Some(recall) = &self.recall {
            if !matches!(self.data, DataConfig::PasskeyLite(_)) {
                return fault("tasks.recall beside data of kind passkey-lite", other_data());
            }
            if recall.lengths.is_empty() || recall.depths == 0 || recall.samples == 0 {
                return fault(
                    "tasks.recall with lengths, depths and samples",
                    format!("{recall:?}"),
                );
            }
        }
        if let Some(pairs) = &self.pairs {
            let Some(data) = self.pairs_in_filler() else {
                return fault("tasks.pairs beside data of kind pairs-in-filler", other_data());
            };
            if let Some(found) = pairs.fault(data.values) {
                return Some(found);
            }
        }
        if let Some(forgetting) = &self.forgetting {
            if forgetting.streams == 0 {
                return fault("tasks.forgetting.streams of at least 1", "0".into());
            }
            if is_text(&self.data) && self.held_out().is_none() {
                let expected = "tasks.evaluation_data, or data with a held_out part above 0";
                return fault(expected, format!("neither in task {}", self.name));
            }
        }
        let initialisation = self.initialisation.fault();
        initialisation.or_else(|| self.expansion.as_ref().and_then(Expansion::fault))
    }

    /// The data in words.
    pub fn data_words(&self) -> String {
        let files = |data: &DataConfig| {
            let json = serde_json::to_value(data).unwrap_or(Value::Null);
            let paths = json["paths"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            let names = paths.map(|path| path.rsplit('/').next().unwrap_or(path).to_string());
            let kind = json["kind"].as_str().unwrap_or("data").to_string();
            (
                kind,
                names.collect::<Vec<_>>().join(", "),
                json["held_out"].as_f64().unwrap_or(0.0),
            )
        };
        let (kind, names, held_out) = files(&self.data);
        match (&self.evaluation_data, names.is_empty()) {
            (Some(evaluation), _) => format!("{kind} of {names}, evaluated on {}", files(evaluation).1),
            (None, false) => format!(
                "{kind} of {names}, of which the last {:.0} % are held out for the evaluation",
                100.0 * held_out
            ),
            (None, true) => format!("the synthetic task {kind}, evaluated on sequences of another seed"),
        }
    }
}

fn is_text(data: &DataConfig) -> bool {
    matches!(
        data,
        DataConfig::Text(_) | DataConfig::Tokens(_) | DataConfig::Mix(_)
    )
}
