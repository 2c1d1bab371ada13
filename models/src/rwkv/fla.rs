//! What versions 6 and 7 have in common in flash-linear-attention's layout.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Backbone, Naming};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::layout::{eos_ids, stored_config};

pub(super) const NAMING: Naming = Naming {
    embedding: "model.embeddings.weight",
    blocks: "model.layers",
    embedding_norm: "pre_norm",
    mixer_norm: "attn_norm",
    mixer: "attn",
    channel_norm: "ffn_norm",
    channel: "ffn",
    norm: "model.norm",
    head: "lm_head.weight",
};

/// Why a checkpoint is of this `model_type`; `mark` is a tensor of its block 0.
pub(super) fn recognise(checkpoint: &Checkpoint, model_type: &str, mark: &str) -> Option<String> {
    let found = checkpoint.config().text("model_type").ok()? == Some(model_type);
    (found && checkpoint.has(NAMING.embedding) && checkpoint.has(mark))
        .then(|| format!("model_type {model_type:?}, tensor {mark}"))
}

/// `config.json`, with the numbers that it leaves open taken from the rows of tensors.
///
/// # Errors
/// None: what is left open and not there either is missed when it is read.
pub(super) fn config(
    checkpoint: &Checkpoint,
    rows: &[(&str, &str)],
) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = stored_config(checkpoint)?;
    for (field, tensor) in rows {
        if config.get(*field).is_some_and(|value| !value.is_null()) {
            continue;
        }
        if let Some(rows) = checkpoint.stored(tensor).and_then(|stored| stored.shape.first()) {
            config.insert((*field).to_string(), (*rows).into());
        }
    }
    Ok(config)
}

/// The numbers outside the mixers.
///
/// # Errors
/// [`CheckpointError::Field`], and [`CheckpointError::Unsupported`] for layers of attention or other activations.
pub(super) fn backbone(
    fields: &Fields<'_>,
    details: BTreeMap<&'static str, String>,
) -> Result<Backbone, CheckpointError> {
    if fields.has("attn") {
        return Err(fields.unsupported("attn", "null (no layers of attention among those of RWKV)"));
    }
    if !matches!(fields.text("hidden_act")?, None | Some("sqrelu")) {
        return Err(fields.unsupported("hidden_act", "\"sqrelu\""));
    }
    let vocab_size = fields.dimension("vocab_size")?;
    Ok(Backbone {
        naming: &NAMING,
        vocab_size,
        model_dim: fields.dimension("hidden_size")?,
        layers: fields.layers("num_hidden_layers")?,
        eps: norm_eps(fields)?,
        rescale_every: 0,
        norm_bias: fields.bool_or("norm_bias", true)?,
        embedding_norm: fields.bool_or("norm_first", true)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
        details,
    })
}

/// ε, of which both head norms are made too.
///
/// # Errors
/// [`CheckpointError::Field`].
pub(super) fn norm_eps(fields: &Fields<'_>) -> Result<f32, CheckpointError> {
    fields.positive_or("norm_eps", 1e-5)
}
