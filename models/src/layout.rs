//! The published layouts: how each is recognised, read, and made.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde_json::{Map, Value};
use spillway_ssm_core::Linear;

use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::loader::Loader;
use crate::network::{Block, Embedding, Network, Norm};

/// Every layout there is. A checkpoint has the first that recognises it.
pub(crate) const LAYOUTS: &[&Layout] = &[
    &crate::mamba2::ORIGINAL,
    &crate::mamba2::HUGGING_FACE,
    &crate::mamba1::ORIGINAL,
    &crate::mamba1::HUGGING_FACE,
    &crate::based::LAYOUT,
    &crate::llama::LAYOUT,
    &crate::fla::RETNET,
    &crate::fla::GLA,
    &crate::fla::SIMPLE_GLA,
    &crate::fla::LINEAR_ATTN,
    &crate::fla::HGRN,
    &crate::fla::HGRN2,
    &crate::fla::GSA,
    &crate::fla::DELTA_NET,
    &crate::fla::GATED_DELTANET,
    crate::rwkv::BLINKDL_4,
    crate::rwkv::HUGGING_FACE_4,
    crate::rwkv::BLINKDL_5,
    crate::rwkv::BLINKDL_6,
    crate::rwkv::FLA_6,
    crate::rwkv::BLINKDL_7,
    crate::rwkv::FLA_7,
];

/// One way of publishing one architecture.
#[derive(Debug)]
pub struct Layout {
    /// The architecture: `mamba2`.
    pub architecture: &'static str,
    /// Whose layout it is: `Hugging Face`.
    pub name: &'static str,
    /// Why a checkpoint has this layout, in words, judged by configuration and tensors; `None` where it has not.
    pub recognise: fn(&Checkpoint) -> Option<String>,
    /// The configuration: the fields of `config.json`, or what the tensors' shapes say where the layout has no file for it.
    pub config: fn(&Checkpoint) -> Result<Map<String, Value>, CheckpointError>,
    /// Reads every tensor. Run with a blank loader it says which tensors there are; it takes nothing from elsewhere.
    pub load: fn(&Fields<'_>, &mut Loader<'_>) -> Result<Parts, ModelError>,
    /// Published sizes, and one that is tiny.
    pub presets: &'static [Preset],
}

/// A size of a layout.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name: `130m`.
    pub size: &'static str,
    /// Its configuration, as JSON.
    pub config: &'static str,
}

/// What an architecture makes of a checkpoint.
#[derive(Debug)]
pub struct Parts {
    /// Its numbers.
    pub outline: Outline,
    /// The rows of the ids.
    pub embedding: Embedding,
    /// The norm after the embedding, where the architecture has one.
    pub embedding_norm: Option<Norm>,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// The norm before the head.
    pub norm: Norm,
    /// The head.
    pub head: Linear,
}

/// The numbers of a model that are not in its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding.
    pub padded_vocab_size: usize,
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Whether head and embedding are one.
    pub tied: bool,
    /// The id that ends a text, where the configuration has one.
    pub eos_id: Option<u32>,
    /// What else there is to say, by name: `("head_dim", "64")`.
    pub details: BTreeMap<&'static str, String>,
}

/// The layout of a checkpoint, and why.
///
/// # Errors
/// [`CheckpointError::UnknownLayout`], with what was found and what would have been accepted.
pub(crate) fn recognise(checkpoint: &Checkpoint) -> Result<(&'static Layout, String), CheckpointError> {
    let found = LAYOUTS
        .iter()
        .find_map(|layout| Some((*layout, (layout.recognise)(checkpoint)?)));
    found.map_or_else(|| Err(unknown(checkpoint)), Ok)
}

fn unknown(checkpoint: &Checkpoint) -> CheckpointError {
    let fields = checkpoint.config();
    let config = match fields.text("model_type") {
        Ok(Some(model_type)) => format!("model_type {model_type:?}"),
        _ => format!("fields {}", list(fields.names().into_iter())),
    };
    let accepted: Vec<String> = LAYOUTS
        .iter()
        .map(|layout| format!("{} ({})", layout.architecture, layout.name))
        .collect();
    CheckpointError::UnknownLayout {
        path: fields.path(),
        found: format!(
            "{config}, and in {} tensors {}",
            checkpoint.weights_path().display(),
            list(checkpoint.names())
        ),
        accepted: accepted.join(", "),
    }
}

/// The first few of many names.
fn list<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<_> = names.by_ref().take(6).collect();
    match (first.is_empty(), names.count()) {
        (true, _) => "none".into(),
        (false, 0) => first.join(", "),
        (false, more) => format!("{} and {more} more", first.join(", ")),
    }
}

/// The fields of `config.json`.
///
/// # Errors
/// None; the file has been read.
pub(crate) fn stored_config(checkpoint: &Checkpoint) -> Result<Map<String, Value>, CheckpointError> {
    Ok(checkpoint.config_map().clone())
}

/// `eos_token_id`: one id or a list of them, of which the first is taken; ids outside the vocabulary are left out.
///
/// # Errors
/// [`CheckpointError::Field`] for anything else.
pub(crate) fn eos_id(fields: &Fields<'_>, vocab_size: usize) -> Result<Option<u32>, CheckpointError> {
    let Some(value) = fields.value("eos_token_id").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let first = value.as_array().and_then(|ids| ids.first()).unwrap_or(value);
    match first.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id).filter(|id| (*id as usize) < vocab_size)),
        None => Err(fields.wrong("eos_token_id", "an id or a list of ids", Some(value))),
    }
}

impl Parts {
    pub(crate) fn network(self, device: Device) -> (Network, Outline) {
        let network = Network {
            embedding: self.embedding,
            embedding_norm: self.embedding_norm,
            blocks: self.blocks,
            norm: self.norm,
            head: self.head,
            device,
        };
        (network, self.outline)
    }
}
