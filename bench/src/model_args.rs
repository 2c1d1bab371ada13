//! The options that say which model to use, the same in every subcommand.

use crate::cli::Dtype;
use crate::error::ProgramError;
use burn::tensor::Device;
use clap::Args;
use models::device::{DeviceChoice, DeviceError};
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
            tokenizer: self.tokenizer.clone(),
            device: self.open_device()?,
            ..LoadOptions::with_weights(self.dtype.into())
        };
        Ok(match &self.checkpoint {
            Some(path) => Model::load(path, &options)?,
            None => Model::shipped(&options)?,
        })
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

    /// `spillway generate` with this model and a prompt, as one would type it here.
    pub fn generate(&self, model: &Model) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "spillway".into());
        let mut words = vec![quoted(&program), "generate".into()];
        words.extend(
            self.checkpoint
                .as_ref()
                .map(|path| quoted(&path.to_string_lossy())),
        );
        if self.dtype != Dtype::F32 {
            words.extend(["--dtype".into(), self.dtype.to_string()]);
        }
        if self.device != DeviceChoice::default() {
            words.extend(["--device".into(), self.device.to_string()]);
        }
        if let Some(path) = &self.tokenizer {
            words.extend(["--tokenizer".into(), quoted(&path.to_string_lossy())]);
        }
        words.push(match model.info().tokenizer {
            "none" => "--ids 1".into(),
            _ => "--prompt 'In the beginning '".into(),
        });
        words.join(" ")
    }
}

/// A word as a shell takes it: between quotes where something in it means something else.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        for word in [
            "@a/b-c_1.json",
            "rri:0.99,0.75",
            "",
            "a b",
            "it's",
            "state-norm:auto*2",
            "$HOME",
            "a\nb",
        ] {
            let command = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &command]).output();
            assert_eq!(output.expect("a shell").stdout, word.as_bytes());
        }
    }
}
