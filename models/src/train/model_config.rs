//! Which model a training begins with: random weights in a published layout, or a published checkpoint.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::TrainError;
use super::parameters::Parameters;
use crate::checkpoint::parse_object;
use crate::init::preset;
use crate::input;
use crate::layout::{Layout, Outline};
use crate::registry::{layouts, layouts_of};
use crate::tokenizer::{self, Tokenizer};

/// Name of the file of a task's own weights in the folder of the published model.
pub const TASK: &str = "task.safetensors";

/// Which model a training begins with.
///
/// Either `checkpoint`, or `arch` with one of `size`, `config` and `config_file`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Folder or file of a published checkpoint to continue from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Architecture of a random start, as `spillway init --list` names it: `"mamba2"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Layout, where the architecture has several, by a word of its name. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// A published size: `"130m"`, or `"tiny"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// JSON file with the layout's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<PathBuf>,
    /// tokenizer.json or rwkv_vocab*.txt. Default: the one beside the checkpoint; bytes for a vocabulary of 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The layout's configuration, as in its `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
}

impl ModelConfig {
    /// What can be told without reading a file.
    ///
    /// # Errors
    /// [`TrainError::Field`].
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let given = [
            ("model.size", self.size.is_some()),
            ("model.config", self.config.is_some()),
            ("model.config_file", self.config_file.is_some()),
        ];
        let given: Vec<&str> = given
            .iter()
            .filter(|(_, is)| *is)
            .map(|(name, _)| *name)
            .collect();
        match (&self.checkpoint, &self.arch) {
            (Some(_), Some(arch)) => Err(TrainError::field(
                "model.arch",
                "none beside model.checkpoint",
                format!("{arch:?}"),
            )),
            (None, None) => {
                let expected = "model.arch for a random start, or model.checkpoint to continue from one";
                Err(TrainError::field("model", expected, "neither"))
            }
            (Some(_), None) if given.is_empty() && self.layout.is_none() => Ok(()),
            (Some(_), None) => {
                let found = given.first().copied().unwrap_or("model.layout");
                let expected = "no layout, size, config or config_file beside it, as it has its own";
                Err(TrainError::field("model.checkpoint", expected, found))
            }
            (None, Some(_)) if given.len() == 1 => match self.size {
                Some(_) => self.preset(self.layout()?).map(drop),
                None => self.layout().map(drop),
            },
            (None, Some(_)) => {
                let expected = "one of model.size, model.config and model.config_file beside model.arch";
                let found = if given.is_empty() {
                    "none".to_string()
                } else {
                    given.join(" and ")
                };
                Err(TrainError::field("model", expected, found))
            }
        }
    }

    /// The layout of a random start.
    fn layout(&self) -> Result<&'static Layout, TrainError> {
        let arch = self.arch.as_deref().unwrap_or_default();
        let candidates: Vec<&'static Layout> = layouts_of(arch).collect();
        let Some(first) = candidates.first() else {
            let mut names: Vec<&str> = layouts().iter().map(|layout| layout.architecture).collect();
            names.dedup();
            return Err(TrainError::field(
                "model.arch",
                one_of(&names),
                format!("{arch:?}"),
            ));
        };
        let Some(asked) = &self.layout else {
            return Ok(first);
        };
        let named = |layout: &&&Layout| layout.name.to_lowercase().contains(&asked.to_lowercase());
        candidates.iter().find(named).copied().ok_or_else(|| {
            let names: Vec<&str> = candidates.iter().map(|layout| layout.name).collect();
            let expected = format!("a word of {}", one_of(&names));
            TrainError::field("model.layout", expected, format!("{asked:?}"))
        })
    }

    /// The weights to begin with.
    ///
    /// # Errors
    /// [`TrainError::Field`], [`TrainError::File`], or [`TrainError::Model`] for a checkpoint or configuration that the layout
    /// refuses.
    pub(crate) fn parameters(
        &self,
        base: &Path,
        seed: u64,
        device: &Device,
    ) -> Result<Parameters, TrainError> {
        if let Some(path) = &self.checkpoint {
            return Ok(Parameters::load(&base.join(path), device)?);
        }
        let layout = self.layout()?;
        let config = match (&self.config, &self.config_file) {
            (Some(config), _) => config.clone(),
            (None, Some(path)) => {
                let path = base.join(path);
                let text =
                    input::read_text(&path, input::MAX_SETTINGS).map_err(TrainError::file("read", &path))?;
                parse_object(&path, &text)?
            }
            (None, None) => parse_object(Path::new("config.json"), self.preset(layout)?)?,
        };
        Ok(Parameters::random(layout, &config, seed, device)?)
    }

    fn preset(&self, layout: &Layout) -> Result<&'static str, TrainError> {
        let size = self.size.as_deref().unwrap_or_default();
        preset(layout, size).map(|preset| preset.config).ok_or_else(|| {
            let sizes: Vec<&str> = layout.presets.iter().map(|preset| preset.size).collect();
            TrainError::field("model.size", one_of(&sizes), format!("{size:?}"))
        })
    }

    /// The tokenizer: the file that is named, the one beside the checkpoint, or bytes for a vocabulary of 256.
    ///
    /// # Errors
    /// [`TrainError::Model`] for a file that is no tokenizer, or has ids beyond the model's.
    pub(crate) fn tokenizer(&self, base: &Path, outline: &Outline) -> Result<Tokenizer, TrainError> {
        let (vocab_size, rows) = (outline.vocab_size, outline.padded_vocab_size);
        Ok(match self.tokenizer_file(base)? {
            Some(path) => Tokenizer::from_file(&path, rows)?,
            None => Tokenizer::of_vocabulary(base, vocab_size),
        })
    }

    /// The encoder and head that a training on a task has left in the checkpoint, if it has.
    pub(super) fn task_file(&self, base: &Path) -> Option<PathBuf> {
        let path = base.join(self.checkpoint.as_ref()?);
        let folder = if path.is_dir() {
            &path
        } else {
            path.parent().unwrap_or(base)
        };
        Some(folder.join(TASK)).filter(|path| path.is_file())
    }

    /// The file that the tokenizer is read from, if there is one.
    ///
    /// # Errors
    /// [`TrainError::Model`] for a checkpoint with several vocabularies.
    pub(crate) fn tokenizer_file(&self, base: &Path) -> Result<Option<PathBuf>, TrainError> {
        match (&self.tokenizer, &self.checkpoint) {
            (Some(path), _) => Ok(Some(base.join(path))),
            (None, Some(path)) => {
                let path = base.join(path);
                let folder = if path.is_dir() {
                    &path
                } else {
                    path.parent().unwrap_or(base)
                };
                Ok(tokenizer::find(folder)?)
            }
            (None, None) => Ok(None),
        }
    }
}

fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}
