//! Any checkpoint as one folder of safetensors: configuration, weights in one type, and the files of the tokenizer.
//!
//! Names and shapes of the tensors stay as they are, and so does the layout. Singles hold every value of the other types but
//! doubles exactly, so that a model converted to them gives the same logits; bfloat16 rounds to nearest even. Tensors of whole
//! numbers are copied.

mod gguf;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::{
    Checkpoint, CheckpointError, Dtype, EmbeddedTokenizer, StoredPlan, WriteDtype, encode, to_text,
    write_stored,
};
use crate::error::ModelError;
use crate::output::{NewFile, NewFolder};
use crate::registry;
use crate::tokenizer::is_rwkv_vocabulary;
pub use gguf::{ConvertedGguf, GgufOptions, convert_to_gguf};

/// Files beside the weights that a model is used with.
const COMPANIONS: [&str; 10] = [
    "added_tokens.json",
    "audio.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spillway.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// How a checkpoint is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// The type to write the weights in.
    pub dtype: WriteDtype,
    /// Whether files of the same names in an existing folder are replaced.
    pub replace: bool,
}

/// What a conversion to a folder of safetensors has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Number of tensors in the folder's file of weights.
    pub tensors: usize,
    /// Bytes of all their values.
    pub bytes: u64,
    /// Whether the configuration was derived from the tensors, as there was none.
    pub derived_config: bool,
    /// The names of the other files that were copied.
    pub copied: Vec<String>,
}

/// Writes the checkpoint `from`, a folder or a file of weights in any layout, as the folder `to`.
///
/// `progress` is called with the bytes written and those to be written. The folder appears when it is complete; with
/// [`ConvertOptions::replace`], an existing one gets each new file whole, and keeps its others.
///
/// # Errors
/// [`ModelError::Checkpoint`]: a checkpoint that cannot be read, [`CheckpointError::Exists`], [`CheckpointError::OntoItself`],
/// a value beyond the range of bfloat16, a full disk. Nothing half-written is left behind.
pub fn convert(
    from: &Path,
    to: &Path,
    options: ConvertOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Converted, ModelError> {
    let checkpoint = Checkpoint::open(from)?;
    if let (Ok(source), Ok(target)) = (checkpoint.folder().canonicalize(), to.canonicalize())
        && source == target
    {
        return Err(CheckpointError::OntoItself {
            path: to.to_path_buf(),
        }
        .into());
    }
    let folder = match options.replace {
        true => NewFolder::replace(to)?,
        false => NewFolder::create(to)?,
    };
    let target = folder.temporary_path();
    let derived_config = write_config(&checkpoint, &target.join(CONFIG))?;
    let mut copied = copy_companions(checkpoint.folder(), target)?;
    let embedded = match checkpoint.tokenizer() {
        Some(EmbeddedTokenizer::Json(text)) => Some(("tokenizer.json", text)),
        Some(EmbeddedTokenizer::Rwkv(text)) => Some(("rwkv_vocab.txt", text)),
        _ => None,
    };
    if let Some((name, text)) = embedded {
        let to = target.join(name);
        fs::write(&to, text).map_err(CheckpointError::io(&to, "writing"))?;
        copied.retain(|found| found != name);
        copied.push(name.into());
    }
    let plans = plans(&checkpoint, options.dtype);
    let bytes = plans.iter().map(|plan| plan.bytes as u64).sum();
    let mut done = 0;
    write_weights(
        &checkpoint,
        &target.join(WEIGHTS),
        &plans,
        options.dtype,
        |written| {
            done += written as u64;
            progress(done, bytes);
        },
    )?;
    folder.commit()?;
    Ok(Converted {
        tensors: plans.len(),
        bytes,
        derived_config,
        copied,
    })
}

/// Copies the configuration to the letter, or writes what the layout makes of the tensors.
fn write_config(checkpoint: &Checkpoint, to: &Path) -> Result<bool, CheckpointError> {
    let from = checkpoint.config().path();
    if from.exists() && !checkpoint.describes_itself() {
        fs::copy(&from, to).map_err(CheckpointError::io(to, "copying"))?;
        return Ok(false);
    }
    let (layout, _) = registry::recognise(checkpoint)?;
    let config = (layout.config)(checkpoint)?;
    fs::write(to, to_text(&config)).map_err(CheckpointError::io(to, "writing"))?;
    Ok(true)
}

/// Copies the files of the tokenizer and their kin; gives their names.
fn copy_companions(from: &Path, to: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = fs::read_dir(from).map_err(CheckpointError::io(from, "listing"))?;
    let is_companion = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && (COMPANIONS.contains(&name.as_ref()) || is_rwkv_vocabulary(&name))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_companion).collect();
    files.sort();
    let copy = |file: PathBuf| {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, to.join(name)).map_err(CheckpointError::io(&file, "copying"))?;
        Ok(name.to_string_lossy().into_owned())
    };
    files.into_iter().map(copy).collect()
}

/// Every tensor as it will be stored.
fn plans(checkpoint: &Checkpoint, dtype: WriteDtype) -> Vec<StoredPlan> {
    let stored = checkpoint
        .names()
        .filter_map(|name| Some((name, checkpoint.stored(name)?)));
    stored
        .map(|(name, stored)| match stored.dtype {
            Dtype::Other(_) => StoredPlan {
                name: name.into(),
                dtype: stored.dtype_name.into(),
                shape: stored.shape.to_vec(),
                bytes: stored.bytes.len(),
            },
            _ => StoredPlan::floats(name, stored.shape, dtype),
        })
        .collect()
}

fn write_weights(
    checkpoint: &Checkpoint,
    path: &Path,
    plans: &[StoredPlan],
    dtype: WriteDtype,
    mut written: impl FnMut(usize),
) -> Result<(), CheckpointError> {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = NewFile::create(path)?;
    let mut raw = Vec::new();
    write_stored(path, file.writer(), plans, &metadata, |plan, sink| {
        let mut put = |bytes: &[u8]| {
            written(bytes.len());
            sink(bytes)
        };
        match checkpoint.stored(&plan.name) {
            Some(stored) if matches!(stored.dtype, Dtype::Other(_)) => put(stored.bytes),
            _ => {
                let tensor = checkpoint.tensor(&plan.name, &plan.shape)?;
                tensor.for_each_block(|block| {
                    encode(checkpoint.weights_path(), &plan.name, dtype, block, &mut raw)?;
                    put(&raw)
                })
            }
        }
    })?;
    Ok(file.commit()?)
}
