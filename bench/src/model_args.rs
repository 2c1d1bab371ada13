//! The options that say which model to use, the same in every subcommand.

use crate::error::ProgramError;
use crate::values::{Dtype, quoted};
use burn::tensor::Device;
use clap::Args;
use spillway_models::device::{DeviceChoice, DeviceError};
use spillway_models::{LoadOptions, Model, WeightType};
use std::path::PathBuf;

/// Training length where neither the command line nor the checkpoint names one.
const ASSUMED_TRAIN_LENGTH: u64 = 2048;

/// The options that name a model and say how its weights are kept.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Folder with config.json and model.safetensors or PyTorch files, or a .safetensors, .pth or .gguf file; or
    /// hf:OWNER/NAME, its name on a hub [default: the small model that comes with Spillway]
    pub checkpoint: Option<PathBuf>,
    /// How its weights are kept, and where it runs.
    #[command(flatten)]
    pub loading: LoadingArgs,
}

/// Several models, all loaded alike.
#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    /// Folders with config.json and model.safetensors or PyTorch files, or .safetensors, .pth or .gguf files; or hf:OWNER/NAME, their
    /// names on a hub [default: the small model that comes with Spillway]
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoints: Vec<PathBuf>,
    /// How their weights are kept, and where they run.
    #[command(flatten)]
    pub loading: LoadingArgs,
}

impl ModelsArgs {
    /// The options of each model by itself; those of the built-in model where no checkpoint is named.
    pub fn each(&self) -> Vec<ModelArgs> {
        let one = |checkpoint: Option<&PathBuf>| ModelArgs {
            checkpoint: checkpoint.cloned(),
            loading: self.loading.clone(),
        };
        match self.checkpoints.is_empty() {
            true => vec![one(None)],
            false => self.checkpoints.iter().map(|path| one(Some(path))).collect(),
        }
    }
}

/// How the weights of a model are kept, and where it runs.
#[derive(Clone, Debug, Args)]
pub struct LoadingArgs {
    /// Type in which the weights are kept in memory [default: the file's own types for GGUF, f32 for all others]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Where the model runs: cpu, or wgpu:N or cuda:N, the N-th of its kind from 0 (wgpu alone is wgpu:0); `spillway doctor` lists them
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::default())]
    pub device: DeviceChoice,
    /// tokenizer.json or rwkv_vocab*.txt to use [default: the one beside the weights]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

impl ModelArgs {
    /// Loads the checkpoint, or the shipped model.
    ///
    /// # Errors
    /// [`ProgramError::Model`], naming what is wrong with which file.
    pub fn load(&self) -> Result<Model, ProgramError> {
        let options = LoadOptions {
            tokenizer: self.loading.tokenizer.clone(),
            device: self.loading.open_device()?,
            ..LoadOptions::with_weights(self.loading.weights())
        };
        Ok(match &self.checkpoint {
            Some(path) => Model::load(path, &options)?,
            None => Model::shipped(&options)?,
        })
    }

    /// `spillway generate` with this model and a prompt, as one would type it here.
    pub fn generate(&self, model: &Model) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "spillway".into());
        let mut words = vec![quoted(&program), "generate".into()];
        words.extend(
            self.checkpoint
                .as_ref()
                .map(|path| quoted(&path.to_string_lossy())),
        );
        if let Some(dtype) = self.loading.dtype {
            words.extend(["--dtype".into(), dtype.to_string()]);
        }
        if self.loading.device != DeviceChoice::default() {
            words.extend(["--device".into(), self.loading.device.to_string()]);
        }
        if let Some(path) = &self.loading.tokenizer {
            words.extend(["--tokenizer".into(), quoted(&path.to_string_lossy())]);
        }
        words.push(match model.info().tokenizer {
            "none" => "--ids 1".into(),
            _ => "--prompt 'In the beginning '".into(),
        });
        words.join(" ")
    }
}

impl LoadingArgs {
    /// The type that matrices are kept in, where one is asked for.
    pub fn weights(&self) -> Option<WeightType> {
        self.dtype.map(WeightType::from)
    }

    fn open_device(&self) -> Result<Device, ProgramError> {
        self.device.open().map_err(|error| match error {
            DeviceError::NotBuilt { runtime } => {
                let expected = "a device that this program was built for";
                let found =
                    format!("{runtime}; build it with: cargo install --path bench --features {runtime}");
                ProgramError::usage("--device", expected, found)
            }
            other => ProgramError::BadDevice(other.to_string()),
        })
    }
}

/// The training length, and who says so.
///
/// # Errors
/// [`ProgramError::Usage`] for 0.
pub fn train_length(asked: Option<u64>, model: &Model) -> Result<(u64, &'static str), ProgramError> {
    match (asked, model.info().train_length) {
        (Some(0), _) => Err(ProgramError::usage("--train-length", "at least 1", "0")),
        (Some(length), _) => Ok((length, "--train-length")),
        (None, Some(length)) => Ok((length, "checkpoint")),
        (None, None) => Ok((ASSUMED_TRAIN_LENGTH, "assumed")),
    }
}
