//! Which layers of a hybrid are which, as configurations of Hugging Face say it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checkpoint::{CheckpointError, Fields};

/// The layers with attention that `layer_types` lists: `"full_attention"` or `"attention"`, beside `"linear_attention"` or `"mamba"`. `None`
/// where there is no such list.
///
/// # Errors
/// [`CheckpointError::Field`] for a list of another length or with other words.
pub(crate) fn attention_layers(
    fields: &Fields<'_>,
    layers: usize,
) -> Result<Option<BTreeSet<usize>>, CheckpointError> {
    let Some(value) = fields.value("layer_types") else {
        return Ok(None);
    };
    let is_attention = |kind: &Value| match kind.as_str() {
        Some("full_attention" | "attention") => Some(true),
        Some("linear_attention" | "mamba") => Some(false),
        _ => None,
    };
    let kinds: Option<Vec<bool>> = value
        .as_array()
        .filter(|kinds| kinds.len() == layers)
        .and_then(|kinds| kinds.iter().map(is_attention).collect());
    let kinds = kinds.ok_or_else(|| {
        let expected = format!("a list of {layers} of \"linear_attention\" and \"full_attention\"");
        fields.wrong("layer_types", &expected, Some(value))
    })?;
    Ok(Some((0..layers).filter(|layer| kinds[*layer]).collect()))
}

/// The last of every `interval` layers.
pub(crate) fn every(interval: usize, layers: usize) -> BTreeSet<usize> {
    (0..layers)
        .filter(|layer| (layer + 1).is_multiple_of(interval))
        .collect()
}

/// The layers as text.
pub(crate) fn list(layers: &BTreeSet<usize>) -> String {
    let indices: Vec<String> = layers.iter().map(usize::to_string).collect();
    indices.join(", ")
}
