//! A checkpoint as one GGUF file, as llama.cpp reads it.
//!
//! | file | what is in it |
//! |---|---|
//! | `architecture.rs` | which checkpoints can be written, and the fields that describe them |
//! | `tensors.rs` | names, shapes and orders of the tensors |
//! | `tokenizer.rs` | the tokenizer in the file's terms |
//!
//! What is written is what [`crate::checkpoint`] reads as the same layout: in f32 every weight has its value again but for A, of which the
//! file holds −e^{A_log}. What the format has no place for is refused, and no tensor is left out silently.

mod architecture;
mod tensors;
mod tokenizer;

use std::fs;
use std::path::Path;

use crate::checkpoint::gguf::write::{Field, write_container};
use crate::checkpoint::{Checkpoint, CheckpointError, GgufDtype};
use crate::error::ModelError;
use crate::output::NewFile;
use crate::registry;

use architecture::Architecture;
use tokenizer::Written;

/// How a checkpoint is written as GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufOptions {
    /// The type of the matrices.
    pub dtype: GgufDtype,
    /// Whether a file that is there is replaced.
    pub replace: bool,
}

/// What a conversion to GGUF has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedGguf {
    /// llama.cpp's name of the architecture.
    pub architecture: &'static str,
    /// Number of tensors in the file.
    pub tensors: usize,
    /// Bytes of all their values.
    pub bytes: u64,
    /// The kind of tokenizer that the file has (`gpt2`, `rwkv`, `llama`), or why it has none.
    pub tokenizer: Result<&'static str, String>,
}

/// Writes the checkpoint `from`, a folder or a file of weights, as the GGUF file `to`: Mamba-1 and Mamba-2 in the authors' layout and Hugging
/// Face's, RWKV-6 and RWKV-7 in BlinkDL's, Llama in Hugging Face's.
///
/// `progress` is called with the bytes of values written and those to be written. The file appears when it is complete.
///
/// # Errors
/// [`ModelError::Checkpoint`]: a checkpoint that cannot be read, [`CheckpointError::NotGguf`] for one that such a file cannot hold,
/// [`CheckpointError::Exists`], [`CheckpointError::Range`], a full disk. Nothing half-written is left behind.
pub fn convert_to_gguf(
    from: &Path,
    to: &Path,
    options: GgufOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<ConvertedGguf, ModelError> {
    let checkpoint = Checkpoint::open(from)?;
    if to.exists() && !options.replace {
        return Err(CheckpointError::Exists { path: to.into() }.into());
    }
    if let (Ok(source), Ok(target)) = (checkpoint.weights_path().canonicalize(), to.canonicalize())
        && source == target
    {
        return Err(CheckpointError::OntoItself { path: to.into() }.into());
    }
    let (layout, _) = registry::recognise(&checkpoint)?;
    let architecture = Architecture::of(&checkpoint, layout)?;
    let tensors = tensors::Tensors::plan(&checkpoint, &architecture, options.dtype)?;
    let written = tokenizer::written(&checkpoint, architecture.rows);
    let fields = fields(&checkpoint, &architecture, options.dtype, &written);
    let bytes = tensors.plans.iter().map(|plan| plan.bytes() as u64).sum();
    let mut done = 0;
    let mut file = NewFile::create(to).map_err(CheckpointError::from)?;
    write_container(to, file.writer(), &fields, &tensors.plans, |plan, sink| {
        tensors.values(&checkpoint, &plan.name, sink)?;
        done += plan.bytes() as u64;
        progress(done, bytes);
        Ok(())
    })?;
    file.commit().map_err(CheckpointError::from)?;
    Ok(ConvertedGguf {
        architecture: architecture.name,
        tensors: tensors.plans.len(),
        bytes,
        tokenizer: written.map(|written| written.kind),
    })
}

/// All fields, in the order in which readers expect the name of the architecture: first.
fn fields(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    dtype: GgufDtype,
    tokenizer: &Result<Written, String>,
) -> Vec<(String, Field)> {
    let named = |name: &str, value: Field| (name.to_string(), value);
    let mut fields = vec![
        named("general.architecture", Field::Text(architecture.name.into())),
        named("general.type", Field::Text("model".into())),
        named("general.name", Field::Text(name_of(checkpoint))),
        named("general.file_type", Field::Whole(dtype.file_type())),
    ];
    if dtype.blocks().is_some() {
        fields.push(named("general.quantization_version", Field::Whole(2)));
    }
    for (name, value) in &architecture.fields {
        fields.push((format!("{}.{name}", architecture.name), value.clone()));
    }
    match tokenizer {
        Ok(tokenizer) => fields.extend(tokenizer.fields.iter().cloned()),
        Err(_) => fields.push(named("tokenizer.ggml.model", Field::Text("none".into()))),
    }
    let given = |fields: &[(String, Field)], key: &str| fields.iter().any(|(name, _)| name == key);
    for token in ["bos", "eos"] {
        let key = format!("tokenizer.ggml.{token}_token_id");
        let ids = checkpoint
            .config()
            .ids(&format!("{token}_token_id"))
            .ok()
            .flatten();
        if let Some(id) = ids.and_then(|ids| ids.first().copied())
            && !given(&fields, &key)
        {
            fields.push((key, Field::Whole(id)));
        }
    }
    fields
}

/// The name of the folder, or of the file where it lies in none that has one.
fn name_of(checkpoint: &Checkpoint) -> String {
    let folder = fs::canonicalize(checkpoint.folder()).ok();
    let name = folder.as_deref().and_then(Path::file_name);
    let name = name.or(checkpoint.weights_path().file_stem());
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
