//! The options that say which model to use, the same in every subcommand.

use crate::cli::Dtype;
use crate::error::ProgramError;
use clap::Args;
use models::{LoadOptions, Model};
use std::path::PathBuf;

/// Which model, and how its weights are kept.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Folder with config.json and model.safetensors or PyTorch files, or a .safetensors or .pth file [default: the small
    /// model that comes with Spillway]
    pub checkpoint: Option<PathBuf>,
    /// Type in which the weights are kept in memory
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
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
            tokenizer: self.tokenizer.clone(),
            ..LoadOptions::with_weights(self.dtype.into())
        };
        Ok(match &self.checkpoint {
            Some(path) => Model::load(path, &options)?,
            None => Model::shipped(&options)?,
        })
    }
}
