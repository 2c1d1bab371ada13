//! RWKV in the layout of `transformers` and of the models that came with code for it: names, and numbers that tensors say.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use spillway_attention_linear::rwkv::HeadShape;

use super::{Backbone, Naming};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::layout::{eos_ids, stored_config};

pub(super) const NAMING: Naming = Naming {
    embedding: "rwkv.embeddings.weight",
    blocks: "rwkv.blocks",
    embedding_norm: "pre_ln",
    mixer_norm: "ln1",
    mixer: "attention",
    channel_norm: "ln2",
    channel: "feed_forward",
    norm: "rwkv.ln_out",
    head: "head.weight",
};

/// Why a checkpoint is of this `model_type`.
pub(super) fn recognise(checkpoint: &Checkpoint, model_type: &str) -> Option<String> {
    let found = checkpoint.config().text("model_type").ok()? == Some(model_type);
    (found && checkpoint.has(NAMING.embedding))
        .then(|| format!("model_type {model_type:?}, tensor {}", NAMING.embedding))
}

/// A field that a configuration may leave open, and the dimension of a tensor of block 0 that it is.
pub(super) type Derived = (&'static str, &'static str, usize);

/// What versions 5 and 6 leave open.
pub(super) const DERIVED: [Derived; 2] = [
    ("intermediate_size", "feed_forward.key.weight", 0),
    ("head_size", "attention.time_faaaa", 1),
];

/// `config.json`, with the numbers that it leaves open taken from tensors.
///
/// # Errors
/// None: what is left open and not there either has a default.
pub(super) fn config(
    checkpoint: &Checkpoint,
    derived: &[Derived],
) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = stored_config(checkpoint)?;
    for (field, tensor, dimension) in derived {
        let stored = checkpoint.stored(&format!("{}.0.{tensor}", NAMING.blocks));
        let found = stored.and_then(|stored| stored.shape.get(*dimension));
        let is_open = config.get(*field).is_none_or(Value::is_null);
        if let (true, Some(found)) = (is_open, found) {
            config.insert((*field).into(), (*found).into());
        }
    }
    Ok(config)
}

/// The numbers that every version has; norms before the mixers are those of `layer_norm_epsilon`.
///
/// # Errors
/// [`CheckpointError::Field`].
pub(super) fn backbone(
    fields: &Fields<'_>,
    details: BTreeMap<&'static str, String>,
) -> Result<Backbone, CheckpointError> {
    let vocab_size = fields.dimension("vocab_size")?;
    let rescale_every = match fields.value("rescale_every").and_then(Value::as_u64) {
        Some(0) => 0,
        _ => fields.dimension_or("rescale_every", 6)?,
    };
    Ok(Backbone {
        naming: &NAMING,
        vocab_size,
        model_dim: fields.dimension("hidden_size")?,
        layers: fields.layers("num_hidden_layers")?,
        eps: fields.positive_or("layer_norm_epsilon", 1e-5)?,
        rescale_every,
        norm_bias: true,
        embedding_norm: true,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
        details,
    })
}

/// What versions 5 and 6 say of their mixers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixers {
    pub(super) heads: HeadShape,
    pub(super) hidden_dim: usize,
    /// ε of the heads' norm, which is of values over `head_size_divisor`.
    pub(super) norm_eps: f32,
}

/// Heads, hidden width and ε of versions 5 and 6.
///
/// # Errors
/// [`CheckpointError::Field`].
pub(super) fn mixers(fields: &Fields<'_>) -> Result<Mixers, CheckpointError> {
    let model_dim = fields.dimension("hidden_size")?;
    let channels = fields.dimension_or("attention_hidden_size", model_dim)?;
    let head_size = fields.dimension_or("head_size", 64)?;
    if !channels.is_multiple_of(head_size) {
        let expected = format!("a divisor of attention_hidden_size = {channels}");
        return Err(fields.wrong("head_size", &expected, Some(&head_size.into())));
    }
    let divisor = fields.positive_or("head_size_divisor", 8.0)?;
    Ok(Mixers {
        heads: HeadShape {
            model_dim,
            heads: channels / head_size,
            key_dim: head_size,
            value_dim: head_size,
        },
        // As the published code has it.
        hidden_dim: fields.dimension_or("intermediate_size", model_dim * 7 / 2 / 32 * 32)?,
        norm_eps: 1e-5 * divisor * divisor,
    })
}
