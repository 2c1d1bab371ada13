//! The configuration of a study of precision: laws, models, types, sizes and positions.

use super::models::config::SubjectConfig;
use crate::error::ProgramError;
use serde::{Deserialize, Serialize};
use spillway_mitigations::state_dtype::StateDtype;
use std::path::Path;

/// The configuration of `spillway state-precision` without one.
pub const DEFAULT: &str = include_str!("../../../configs/state-precision/standard.toml");
/// What messages call it.
pub const DEFAULT_NAME: &str = "the built-in configuration";

/// Keys and values of a head.
const MOST_NUMBERS: usize = 256;
/// Tokens that a study may read, at least and at most: from the first measured position to more than a run of months.
const FEWEST_TOKENS: u64 = 16;
const MOST_TOKENS: u64 = 1 << 32;

/// A study of how precise a state must be.
///
/// ```
/// use spillway::studies::state_precision::config::PrecisionConfig;
///
/// let study: PrecisionConfig = toml::from_str(r#"
///     title = "Two laws"
///     tokens = 4096
///     types = ["bf16", "bf16,rounding=stochastic"]
///
///     [[laws]]
///     name = "a sum that forgets"
///     memory = 100
///
///     [[laws]]
///     name = "a delta rule"
///     beta = 0.5
/// "#)?;
/// assert_eq!((study.laws.len(), study.key_dim), (2, 16));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionConfig {
    /// Title of the study.
    pub title: String,
    /// What is asked, in a sentence or two.
    #[serde(default)]
    pub question: String,
    /// Tokens of a sequence.
    pub tokens: u64,
    /// Rows of a state.
    #[serde(default = "sixteen")]
    pub key_dim: usize,
    /// Columns of a state.
    #[serde(default = "sixteen")]
    pub value_dim: usize,
    /// Seeds of what is written and read.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Relative error of the read-out up to which a type is called safe.
    #[serde(default = "tolerated")]
    pub tolerated: f64,
    /// The types that states are stored in, as `state-dtype:T` takes them, stored after every token.
    pub types: Vec<String>,
    /// The laws by which states take tokens in.
    #[serde(default)]
    pub laws: Vec<Law>,
    /// Mean |Δ ln p| of the next token, in nats, up to which a type is called safe in a model.
    #[serde(default = "tolerated_change")]
    pub tolerated_change: f64,
    /// Models that read with their states in every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<SubjectConfig>,
}

fn sixteen() -> usize {
    16
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn tolerated() -> f64 {
    0.01
}

fn tolerated_change() -> f64 {
    0.02
}

/// A law by which a state takes tokens in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Law {
    /// Name of the law.
    pub name: String,
    /// Tokens τ after which a factor of e is forgotten, a = exp(−1/τ); none forgets nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// β of a delta rule; none is a weighted sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
}

/// How long the keys of a head remember.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Memory {
    /// All alike, in tokens.
    Tokens(f64),
    /// Each otherwise, by equal factors from the shortest to the longest, in tokens.
    Spectrum {
        /// τ of the first key.
        from: f64,
        /// τ of the last.
        to: f64,
    },
}

impl Law {
    /// ln a of every key.
    pub fn log_decays(&self, keys: usize) -> Vec<f64> {
        let memory = |key: usize| match self.memory {
            None => f64::INFINITY,
            Some(Memory::Tokens(tokens)) => tokens,
            Some(Memory::Spectrum { from, to }) => {
                let share = key as f64 / (keys.max(2) - 1) as f64;
                from * (to / from).powf(share)
            }
        };
        (0..keys).map(|key| -1.0 / memory(key)).collect()
    }
}

impl PrecisionConfig {
    /// Reads a file, or the built-in one.
    ///
    /// # Errors
    /// [`ProgramError::File`] for one that cannot be read, [`ProgramError::Content`] for one that is no study, naming the field.
    pub fn load(path: Option<&Path>) -> Result<Self, ProgramError> {
        let name = path.unwrap_or(Path::new(DEFAULT_NAME));
        let text = match path {
            None => DEFAULT.to_string(),
            Some(path) => spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
                .map_err(ProgramError::file("read", path))?,
        };
        let config: Self = toml::from_str(&text).map_err(|error| {
            let found = error.to_string().trim().replace('\n', "; ");
            ProgramError::content(name, "the configuration of a study of precision", found)
        })?;
        config
            .check()
            .map_err(|(expected, found)| ProgramError::content(name, expected, found))?;
        Ok(config)
    }

    /// Expected and found, where something cannot be.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let within = |field, number: usize| match (1..=MOST_NUMBERS).contains(&number) {
            true => Ok(()),
            false => Err((field, number.to_string())),
        };
        within("key_dim from 1 to 256", self.key_dim)?;
        within("value_dim from 1 to 256", self.value_dim)?;
        if !(FEWEST_TOKENS..=MOST_TOKENS).contains(&self.tokens) {
            return Err(("tokens from 16 to 4294967296", self.tokens.to_string()));
        }
        if !(self.tolerated > 0.0 && self.tolerated < 1.0) {
            return Err(("tolerated above 0 and below 1", self.tolerated.to_string()));
        }
        if let Some(twice) = repeated(self.seeds.iter()) {
            return Err(("seeds, each once", twice));
        }
        if !(self.tolerated_change > 0.0 && self.tolerated_change.is_finite()) {
            return Err(("tolerated_change above 0", self.tolerated_change.to_string()));
        }
        let names = self.laws.iter().map(|law| &law.name);
        if let Some(twice) = repeated(names.chain(self.models.iter().map(|model| &model.name))) {
            return Err(("laws or models, each with a name of its own", twice));
        }
        self.laws.iter().try_for_each(Law::check)?;
        self.models
            .iter()
            .try_for_each(|model| model.check(FEWEST_TOKENS))?;
        self.dtypes().map(drop)
    }

    /// The types, as values.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn dtypes(&self) -> Result<Vec<StateDtype>, (&'static str, String)> {
        const EXPECTED: &str = "types as state-dtype takes them, without chunk=, each once";
        let parsed = self.types.iter().map(|written| {
            let dtype: StateDtype = written.parse().map_err(|error| (EXPECTED, format!("{error}")))?;
            match dtype.chunk {
                None => Ok(dtype),
                Some(_) => Err((EXPECTED, written.clone())),
            }
        });
        let dtypes: Vec<StateDtype> = parsed.collect::<Result<_, _>>()?;
        match repeated(dtypes.iter().map(StateDtype::to_string)) {
            None => Ok(dtypes),
            Some(twice) => Err((EXPECTED, twice)),
        }
    }

    /// The positions at which states are compared, of `tokens`: powers of two from the 16th token on, and the last.
    pub fn positions(tokens: u64) -> Vec<u64> {
        let mut positions: Vec<u64> = (4..63)
            .map(|power| 1u64 << power)
            .take_while(|position| *position < tokens)
            .collect();
        positions.push(tokens);
        positions
    }

    /// Tokens that a model reads.
    pub fn tokens_of(&self, model: &SubjectConfig) -> u64 {
        model.tokens.unwrap_or(self.tokens)
    }
}

impl Law {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let is_length = |tokens: f64| (0.1..=1e12).contains(&tokens);
        match self.memory {
            Some(Memory::Tokens(tokens)) if !is_length(tokens) => {
                return Err((
                    "memory from 0.1 to 1e12 tokens",
                    format!("{tokens} for {}", self.name),
                ));
            }
            Some(Memory::Spectrum { from, to }) if !(is_length(from) && is_length(to) && from <= to) => {
                let found = format!("from {from} to {to} for {}", self.name);
                return Err((
                    "memory from a shortest to a longest, from 0.1 to 1e12 tokens",
                    found,
                ));
            }
            _ => {}
        }
        match self.beta {
            Some(beta) if !(beta > 0.0 && beta < 2.0) => {
                Err(("beta above 0 and below 2", format!("{beta} for {}", self.name)))
            }
            _ => Ok(()),
        }
    }
}

/// What is there twice, or that there is nothing.
fn repeated<T: PartialEq + ToString>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<T> = items.collect();
    let twice = items
        .iter()
        .enumerate()
        .find(|(place, item)| items[..*place].contains(item));
    match items.as_slice() {
        [] => Some("none".into()),
        _ => twice.map(|(_, item)| format!("{} twice", item.to_string())),
    }
}
